// Computes the last table of docs/costs.md from the others. With `--check`, fails if it differs.
import { writeFileSync } from "node:fs";
import { Document, number } from "./tables.mjs";

const costs = new Document("docs/costs.md");

// Rounds take time, not money.
const units = costs.table("operations").header.filter((name) => !["operation", "rounds"].includes(name));
const operations = new Map(
  [costs.table("operations"), costs.table("processing")].flatMap(({ header, rows }) =>
    rows.map((row) => {
      const cell = (unit) => row[header.indexOf(unit)] ?? "0";
      return [row[0], units.map((unit) => number(cell(unit)))];
    }),
  ),
);
const prices = new Map(
  costs.table("prices").rows.map(([unit, price, included]) => [unit, [number(price), number(included)]]),
);

function total(scenario) {
  const sum = units.map(() => 0);
  for (const item of scenario.split("; ")) {
    const [times, name] = item.split(" × ");
    const calls = operations.get(name);
    if (!calls) throw new Error(`no such operation: "${name}"`);
    calls.forEach((count, unit) => (sum[unit] += number(times) * count));
  }
  return sum;
}

const lines = costs.table("scenarios").rows.map(([name, scenario]) => {
  const calls = total(scenario);
  let dollars = 0;
  let included = Infinity;
  units.forEach((unit, index) => {
    const [price, free] = prices.get(unit);
    dollars += (calls[index] * 1000 * price) / 1e6;
    if (calls[index]) included = Math.min(included, free / calls[index]);
  });
  const counts = calls.map((count) => (count * 1000).toLocaleString("en-US"));
  const rounded = Number(included.toPrecision(2)).toLocaleString("en-US");
  return `| ${[name, ...counts, `$${dollars.toFixed(dollars < 0.1 ? 4 : 2)}`, rounded].join(" | ")} |`;
});

const head = ["1,000 times", ...units, "costs", "included a month"];
const result = ["", `| ${head.join(" | ")} |`, `|${"---|".repeat(head.length)}`, ...lines, "", ""].join("\n");
if (process.argv[2] === "--check") {
  if (costs.section("costs") !== result) {
    console.error(`${costs.file} is out of date: run node scripts/costs.mjs`);
    process.exitCode = 1;
  }
} else {
  writeFileSync(
    costs.file,
    costs.text.replace(costs.section("costs") + "<!-- end -->\n", () => `${result}<!-- end -->\n`),
  );
  console.log(result.trim());
}
