// Rounds and calls of every operation in docs/costs.md, and what a push and a pull wait for at the profile `far`: all from
// the edge's own log, by rule A.
//
// Waiting on the critical path: see `criticalPath` in tests/support/pushes.mjs. Rounds: see `rounds` in
// tests/support/edge/measure.mjs.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { Document, isBound, number } from "../../scripts/tables.mjs";
import { measure } from "../support/far.mjs";
import { OPERATIONS, WITHOUT_EDGE_CACHE, measured } from "../support/operations.mjs";
import { Client, roundsOf } from "../support/pushes.mjs";
import { PART, Registry, root } from "../support/registry.mjs";

// Milliseconds of waiting.
const WAITING = {
  "push in docker's way": 2100,
  "push by PUT": 1500,
  "PUT of the manifest": 450,
  "the sixth tag of a manifest": 350,
};
// Milliseconds by the clock on the wall of a quiet machine, checked when QUIET is set.
const WALL = {
  "push in docker's way": 3400,
  "push by PUT": 2500,
  "PUT of the manifest": 500,
  "the sixth tag of a manifest": 450,
};
const ROUNDS = {
  "small layer in docker's way": 3,
  "layer of several parts, after its last byte": 4,
  "PUT of the manifest": 3,
};

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

describe("far from the bucket", () => {
  let registry, rows;
  before(async () => {
    registry = await Registry.start({ edge: { profile: "far", rule: "A", leaps: false } });
    rows = await measure(registry, { profile: "far", rule: "A", leaps: false }, { tries: 3, enough: WAITING });
  });
  after(() => registry?.stop());

  for (const [name, limit] of Object.entries(WAITING)) {
    test(`${name} waits at most ${limit} ms`, (t) => {
      const row = rows[name];
      t.diagnostic(`waiting ${Math.round(row.waiting)} ms, wall ${Math.round(row.wall)} ms`);
      t.diagnostic(`calls ${JSON.stringify(row.calls)}, refused ${row.refused}`);
      assert.ok(row.waiting <= limit, `waited ${row.waiting} ms`);
      if (process.env.QUIET) assert.ok(row.wall <= WALL[name], `took ${row.wall} ms`);
    });
  }

  test("a manifest takes few rounds", (t) => {
    t.diagnostic(`${rows["PUT of the manifest"].rounds} rounds`);
    assert.ok(rows["PUT of the manifest"].rounds <= ROUNDS["PUT of the manifest"]);
  });

  for (const [name, size, afterLastByte] of [
    ["small layer in docker's way", 5000, false],
    ["layer of several parts, after its last byte", 3 * PART + 5000, true],
  ]) {
    test(`${name}: at most ${ROUNDS[name]} rounds`, async (t) => {
      await registry.edge({ profile: "far", rule: "A", leaps: false });
      await new Client(registry, { lastByte: true }).blob("rounds", randomBytes(size), "docker");
      const requests = (await registry.edgeLog()).log.filter(({ kind }) => kind === "request");
      const taken = roundsOf(requests, { afterLastByte });
      for (const { line, calls } of requests) {
        t.diagnostic(`${line.split("?")[0]}: ${calls.map((call) => `${call.class}.${call.kind}`).join(" ")}`);
      }
      assert.ok(taken <= ROUNDS[name], `${taken} rounds`);
    });
  }

  // What is logged is what the bindings saw: nothing is missing, and nothing ran outside of a request.
  test("every call is in the log", async () => {
    const { counters, log } = await registry.edgeLog();
    assert.deepEqual(counters.orphans, []);
    assert.deepEqual(counters.unknown, []);
    // Metrics are sent by any request that comes, long after those that they count.
    const logged = log.flatMap(({ calls }) => calls).filter((call) => call.class !== "metrics").length;
    const counted = Object.entries(counters.calls).filter(([name]) => name !== "storage" && !name.includes("metrics"));
    assert.equal(
      logged,
      counted.reduce((sum, [, count]) => sum + count, 0),
    );
  });
});
