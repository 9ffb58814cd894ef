// Rounds and calls of every operation in docs/costs.md, from the edge's own log, by rule A. Rounds: see `rounds` in
// tests/support/edge/measure.mjs.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { Document, isBound, number } from "../../scripts/tables.mjs";
import { OPERATIONS, WITHOUT_EDGE_CACHE, measured } from "../support/operations.mjs";
import { Registry, root } from "../support/registry.mjs";

describe("operations", () => {
  const { header, rows } = new Document(path.join(root, "docs/costs.md")).table("operations");
  const names = rows.map(([name]) => name);

  let usual, withoutEdgeCache;
  before(async () => {
    usual = await Registry.start();
    withoutEdgeCache = await Registry.start({ vars: { ANONYMOUS: "push", EDGE_CACHE_MIB: "0" } });
  });
  after(async () => {
    await usual?.stop();
    await withoutEdgeCache?.stop();
  });

  test("each has a line in the table, and each line a test", () => {
    assert.deepEqual(names, Object.keys(OPERATIONS));
  });

  for (const [index, row] of rows.entries()) {
    const [name] = row;
    if (!OPERATIONS[name]) continue;
    test(name, async () => {
      const registry = WITHOUT_EDGE_CACHE.includes(name) ? withoutEdgeCache : usual;
      const { cells, calls, refused } = await measured(registry, `operation${index}`, OPERATIONS[name]);
      assert.equal(refused, 0, "refused calls");
      for (const [column, count] of Object.entries(cells)) {
        const cell = row[header.indexOf(column)];
        const agrees = isBound(cell) ? count <= number(cell) : count === number(cell);
        assert.ok(agrees, `${column}: ${count}, and ${cell} in docs/costs.md:\n${calls.join("\n")}`);
      }
    });
  }

  test("the free plan's limit on a manifest's blobs follows from the counts", async () => {
    const BLOBS = 11;
    const LIMIT = 50;
    const columns = ["R2 A", "R2 B", "object calls"].map((column) => header.indexOf(column));
    const pushes = rows.filter(([name]) => /11 blobs|same manifest/.test(name));
    const others = pushes.map((row) => columns.reduce((sum, column) => sum + number(row[column]), 0) - BLOBS);
    const most = Math.max(...others);
    const text = (await readFile(path.join(root, "docs/deployment.md"), "utf8")).replaceAll(/\s+/g, " ");
    assert.ok(text.includes(`one for each blob and up to ${most} more`), `up to ${most} more`);
    const [, looked] = text.match(/Above (\d+) blobs it lists/);
    assert.ok(Number(looked) + most <= LIMIT, `${looked} look-ups and ${most} other calls`);
  });
});
