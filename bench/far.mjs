// Measures pushes and pulls far away from the bucket, on the strict edge of the tests, at each profile. See
// docs/benchmarks.md.
//
//   npm run bench -- far                       every profile
//   npm run bench -- far --profiles far        only these
//   npm run bench -- far --worker <checkout>   the built worker of another checkout as well, for before and after
import { parseArgs } from "node:util";
import path from "node:path";
import { measure } from "../tests/support/far.mjs";
import { Registry, root } from "../tests/support/registry.mjs";
import { table } from "./table.mjs";

const { values: options } = parseArgs({
  options: {
    profiles: { type: "string", default: "near,same-continent,far" },
    rule: { type: "string", default: "A" },
    worker: { type: "string", multiple: true, default: [] },
  },
});

const total = (calls, pattern) =>
  Object.entries(calls).reduce((sum, [name, count]) => sum + (pattern.test(name) ? count : 0), 0);

const checkouts = [...options.worker.map((folder) => path.resolve(folder)), root];
for (const profile of options.profiles.split(",")) {
  for (const checkout of checkouts) {
    const rules = { profile, rule: options.rule, leaps: false };
    const registry = await Registry.start({ edge: rules, checkout });
    try {
      console.log(`Profile ${profile}, rule ${options.rule}, ${path.basename(checkout)}`);
      const rows = Object.entries(await measure(registry, rules)).map(([name, row]) => [
        name,
        (row.wall / 1000).toFixed(2),
        (row.waiting / 1000).toFixed(2),
        row.rounds,
        total(row.calls, /^object\./),
        total(row.calls, /r2\.(put|delete|createMultipartUpload|uploadPart|complete|abort)$/),
        total(row.calls, /r2\.(head|get|list)$/),
        row.refused,
      ]);
      const head = ["what", "wall, s", "waiting, s", "rounds of its longest request", "calls to objects"];
      table([...head, "writes", "look-ups and reads", "refused"], rows);
    } finally {
      await registry.stop();
    }
  }
}
