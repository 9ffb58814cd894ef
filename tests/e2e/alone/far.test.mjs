// What a push waits for at the profile `far`, and its rounds, from the edge's own log, by rule A.
//
// Waiting on the critical path: see `criticalPath` in tests/support/pushes.mjs. Rounds: see `rounds` in
// tests/support/edge/measure.mjs. Beside other tests, parts that would be stored at the same time follow one another,
// since a busy machine reads a client's body slowly: so this runs alone.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { measure } from "../../support/far.mjs";
import { Client, roundsOf } from "../../support/pushes.mjs";
import { PART, Registry } from "../../support/registry.mjs";

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

describe("far from the bucket", () => {
  let registry, rows;
  before(async () => {
    registry = await Registry.start({ edge: { profile: "far", rule: "A", leaps: false } });
    rows = await measure(registry, { profile: "far", rule: "A", leaps: false }, { tries: 5, enough: WAITING });
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
