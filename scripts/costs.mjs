// Computes the last table of docs/costs.md from the others. With `--check`, fails if it differs.
import { readFileSync, writeFileSync } from "node:fs";

const file = "docs/costs.md";
const text = readFileSync(file, "utf8");

function section(name) {
  const found = text.match(new RegExp(`<!-- ${name} -->\n([^]*?)<!-- end -->`));
  if (!found) throw new Error(`${file} has no section "${name}"`);
  return found[1];
}

// The cells of a table, without the row of dashes.
function table(name) {
  const rows = section(name).match(/^\|.*\|$/gm);
  const cells = rows.map((row) =>
    row
      .slice(1, -1)
      .split("|")
      .map((cell) => cell.trim()),
  );
  return { header: cells[0], rows: cells.slice(2) };
}

function number(cell) {
  const value = Number(cell.replaceAll(",", ""));
  if (!/\d/.test(cell) || Number.isNaN(value)) throw new Error(`not a number: "${cell}"`);
  return value;
}

const { header, rows } = table("operations");
const units = header.slice(1);
const operations = new Map(rows.map(([name, ...calls]) => [name, calls.map(number)]));
const prices = new Map(
  table("prices").rows.map(([unit, price, included]) => [unit, [number(price), number(included)]]),
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

const lines = table("scenarios").rows.map(([name, scenario]) => {
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
  if (section("costs") !== result) {
    console.error(`${file} is out of date: run node scripts/costs.mjs`);
    process.exitCode = 1;
  }
} else {
  writeFileSync(
    file,
    text.replace(section("costs") + "<!-- end -->\n", () => `${result}<!-- end -->\n`),
  );
  console.log(result.trim());
}
