// The rules of the strict edge, each driven through a worker that only carries out steps: a rule without effect
// fails a test.
import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";
import { complete } from "../support/edge/exports.mjs";
import { cost, rounds } from "../support/edge/measure.mjs";
import { Registry } from "../support/registry.mjs";

const HOUR = 60 * 60;
const DAY = 24 * HOUR;

let registry;
before(async () => (registry = await Registry.start({ main: "tests/support/edge/probe.mjs" })));
beforeEach(() => registry.edge({ rule: "none" }));
// The tests below provoked it.
after(() => assert.rejects(registry.stop(), /misused the platform.*R2Bucket.toString/));

// Runs groups of steps; the steps of a group at once.
async function run(...groups) {
  return (await registry.expect("POST /v2/", 200, { body: JSON.stringify(groups) })).json();
}
const step = async (...values) => (await run([values]))[0];
const counters = async () => (await registry.edgeLog()).counters;
const key = (() => {
  let last = 0;
  return () => `key/${++last}`;
})();

describe("writes to one key", () => {
  const BUSY = /\(10058\)/;

  test("by rule A one a second, whatever kind of write it is and was", async () => {
    const absent = { onlyIf: { etagDoesNotMatch: "*" } };
    for (const first of [
      ["bucket", "put", "KEY", "1"],
      ["bucket", "delete", "KEY"],
      ["bucket", "delete", ["other", "KEY"]],
    ]) {
      await registry.edge({ rule: "A" });
      const name = key();
      const named = (value) => JSON.parse(JSON.stringify(value).replaceAll("KEY", name));
      const results = await run([named(first)], [["bucket", "put", name, "2", absent]], [["bucket", "delete", name]]);
      assert.ok(!results[0].error, results[0].error);
      assert.match(results[1].error, BUSY);
      assert.match(results[2].error, BUSY);
      assert.equal((await counters()).refused, 2);
      await registry.advance(1);
      assert.ok(!(await step("bucket", "put", name, "3")).error);
    }
  });

  test("by rule A a conditional write that is refused counts", async () => {
    await registry.edge({ rule: "A" });
    const name = key();
    await step("bucket", "put", name, "1");
    await registry.advance(1);
    const refused = await step("bucket", "put", name, "2", { onlyIf: { etagDoesNotMatch: "*" } });
    assert.deepEqual([refused.value, refused.error], [null, undefined]);
    assert.match((await step("bucket", "put", name, "3")).error, BUSY);
  });

  test("by rule A a completed upload counts, and its parts do not", async () => {
    await registry.edge({ rule: "A" });
    const name = key();
    const { value: id } = await step("create", name);
    const [first, again] = await run([["part", name, id]], [["part", name, id]]);
    assert.deepEqual([first.error, again.error], [undefined, undefined]);
    assert.equal((await step("complete", name, id, [again.value])).error, undefined);
    assert.match((await step("bucket", "put", name, "1")).error, BUSY);
  });

  test("by rule B only one at a time", async () => {
    await registry.edge({ rule: "B" });
    const name = key();
    const put = ["bucket", "put", name, "1"];
    assert.ok((await run([put], [put], [put])).every(({ error }) => !error));
    const errors = (await run([put, put, put])).filter(({ error }) => error);
    assert.equal(errors.length, 2);
    assert.match(errors[0].error, BUSY);
  });

  test("without a rule any number", async () => {
    const put = ["bucket", "put", key(), "1"];
    assert.ok((await run([put, put, put], [put])).every(({ error }) => !error));
  });

  test("a stream that is refused is used up", async () => {
    await registry.edge({ rule: "A" });
    const name = key();
    await step("bucket", "put", name, "1");
    assert.match((await step("stream", name, 1000)).error, /10058.*used: true/);
    await registry.advance(1);
    assert.ok(!(await step("stream", name, 1000)).error);
  });

  test("a request may bring its own rules", async () => {
    const put = ["bucket", "put", key(), "1"];
    const headers = { "x-edge": JSON.stringify({ rule: "A" }) };
    const answer = await registry.expect("POST /v2/", 200, { headers, body: JSON.stringify([[put], [put]]) });
    assert.match((await answer.json())[1].error, BUSY);
    assert.equal((await counters()).refused, 1);
  });
});

const took = ({ spans }) => spans.reduce((sum, [from, to]) => sum + to - from, 0);

// What a request with this step waited for.
async function waited(...wanted) {
  await registry.edge({ rule: "none", profile: "far" });
  const { error } = await step(...wanted);
  assert.equal(error, undefined);
  return cost((await registry.edgeLog()).log.find(({ kind }) => kind === "request")).waiting;
}

test("distances are those of the profile", async () => {
  const warm = key();
  await run([["bucket", "put", warm, "1"]], [["cache", "put", warm, 10]], [["kv", "put", warm, "1"]]);
  const one = ["object", `named ${warm}`, "count"];
  await run([one], [["kv", "get", warm]]);
  for (const [what, wanted, milliseconds] of [
    ["head", () => ["bucket", "head", warm], 80],
    ["get", () => ["read", warm], 80],
    ["list", () => ["pages", warm], 80],
    ["put", () => ["bucket", "put", key(), "1"], 120],
    ["delete", () => ["bucket", "delete", key()], 120],
    ["create", () => ["create", key()], 120],
    ["an object that is new", () => ["object", null, "count"], 60],
    ["an object, by its name for the first time", () => ["object", key(), "count"], 210],
    ["the same again", () => one, 60],
    ["a read by an object", () => ["object", null, `head ${warm}`], 75],
    ["a write by an object", () => ["object", null, `put ${key()}`], 120],
    ["a cold key", () => ["kv", "get", key()], 60],
    ["the Cache API", () => ["cache", "match", warm], 5],
  ]) {
    // A busy machine is late.
    const times = [];
    for (let tries = 0; tries < 5; tries++) times.push(await waited(...wanted()));
    const best = Math.min(...times);
    assert.ok(best >= milliseconds - 2 && best < milliseconds + 15, `${what}: ${best} ms instead of ${milliseconds}`);
  }
  await registry.edge({ rule: "none", profile: "far" });
  await run([["kv", "get", warm]], [["kv", "get", warm]]);
  const [cold, hot] = (await registry.edgeLog()).log[0].calls.map((call) => took(call));
  assert.ok(cold > 55 && hot < 30, `${cold} ms, ${hot} ms`);
  await registry.edge({ rule: "none", profile: "none" });
  await step("bucket", "head", warm);
  assert.equal(took((await registry.edgeLog()).log[0].calls[0]), 0);
});

test("six calls of a request wait at once", async () => {
  const heads = Array.from({ length: 20 }, () => ["bucket", "head", "absent"]);
  assert.equal((await run(heads)).length, 20);
  assert.equal((await counters()).highest, 6);
  await registry.edge({ rule: "none", waiting: 20 });
  await run(heads);
  assert.equal((await counters()).highest, 20);
});

test("pages of a listing are short, or empty and truncated", async () => {
  const keys = Array.from({ length: 30 }, (_, n) => `list/${String(n).padStart(2, "0")}`);
  await run(keys.map((name) => ["bucket", "put", name, "1"]));
  await registry.edge({ rule: "none", listing: "full" });
  assert.deepEqual((await step("pages", "list/")).value.sizes, [30]);
  await registry.edge({ rule: "none", listing: "short" });
  const listings = await run(...Array.from({ length: 5 }, () => [["pages", "list/"]]));
  for (const { value } of listings) assert.deepEqual(value.keys, keys);
  const sizes = listings.flatMap(({ value }) => value.sizes);
  assert.ok(sizes.includes(0) && sizes.length > 15, String(sizes));
});

describe("calls that fail", () => {
  const fault = (more) => registry.edge({ rule: "none", faults: [{ call: "r2.put", at: 0, ...more }] });

  test("without effect", async () => {
    for (const [kind, message] of [
      ["busy", /\(10058\)/],
      ["internal", /\(10001\)/],
      ["error", /\(10999\)/],
      ["zero", /Unspecified error \(0\)/],
    ]) {
      const name = key();
      await fault({ kind });
      const results = await run([["bucket", "put", name, "1"]], [["read", name]], [["bucket", "put", name, "2"]]);
      assert.match(results[0].error, message);
      assert.equal(results[1].value, null, kind);
      assert.ok(!results[2].error);
      assert.deepEqual((await registry.edgeLog()).faults, [{ seen: 2, done: 1 }]);
    }
  });

  test("with their answer lost after the effect", async () => {
    const name = key();
    await fault({ kind: "lost" });
    const results = await run([["bucket", "put", name, "1"]], [["read", name]]);
    assert.match(results[0].error, /Network connection lost/);
    assert.equal(results[1].value, "1");
  });

  test("with an effect that comes later", async () => {
    const name = key();
    await fault({ kind: "late", delay: 3000 });
    const [lost, before, , after] = await run(
      [["stream", name, 10]],
      [["bucket", "head", name]],
      [["sleep", 4000]],
      [["bucket", "head", name]],
    );
    assert.match(lost.error, /Network connection lost/);
    assert.equal(before.value, null);
    assert.equal(after.value.key, name);
  });

  test("held before or after the effect, and what follows, until the rules are set", async () => {
    const held = async (count) => {
      for (const deadline = Date.now() + 10_000; (await registry.held()).here !== count;) {
        assert.ok(Date.now() < deadline, JSON.stringify(await registry.held()));
      }
    };
    for (const [when, stored] of [
      ["before", null],
      ["after", "1"],
    ]) {
      const name = key();
      await fault({ kind: "hold", name: "here", key: `^${name}$`, when, freezes: `^${name}/` });
      const put = step("bucket", "put", name, "1");
      await held(1);
      const following = step("bucket", "delete", ["other", `${name}/2`]);
      await held(2);
      assert.equal((await step("read", name)).value, stored, when);
      await registry.edge({ rule: "none" });
      for (const { error } of [await put, await following]) assert.equal(error, undefined);
      assert.equal((await step("read", name)).value, "1");
      assert.deepEqual(await registry.held(), {});
    }
  });

  test("at keys that match, and from an object", async () => {
    await registry.edge({ rule: "none", faults: [{ call: "r2", key: "/bad$", from: "object", kind: "error" }] });
    const results = await run([["bucket", "put", "a/bad", "1"]], [["object", null, "put a/good"]]);
    assert.ok(results.every(({ error }) => !error));
    assert.match((await step("object", null, "put a/bad")).error, /10999/);
  });

  test("by chance, the same with the same seed", async () => {
    const outcomes = async (seed) => {
      await registry.edge({ rule: "none", seed, faults: [{ call: "r2.head", kind: "zero", probability: 0.5 }] });
      const results = await run(...Array.from({ length: 20 }, () => [["bucket", "head", "x"]]));
      return results.map(({ error }) => (error ? "x" : "-")).join("");
    };
    const first = await outcomes(7);
    assert.equal(await outcomes(7), first);
    assert.notEqual(await outcomes(8), first);
    assert.match(first, /x.*-|-.*x/);
  });

  test("a multipart upload vanishes after 7 days", async () => {
    const name = key();
    const { value: id } = await step("create", name);
    await registry.advance(7 * DAY - HOUR);
    assert.ok(!(await step("part", name, id)).error);
    await registry.advance(HOUR);
    assert.match((await step("part", name, id)).error, /The specified multipart upload does not exist. \(10024\)/);
  });
});

describe("objects", () => {
  test("have stubs that stay broken after an error", async () => {
    const name = key();
    await registry.edge({ rule: "none", faults: [{ call: "object", at: 0, kind: "lost" }] });
    const results = await run([["stub", name, "count", 3]]);
    assert.deepEqual(results[0].value, ["error", "error", "error"]);
    assert.equal((await counters()).calls["object.fetch"], 1);
    assert.equal((await step("object", name, "count")).value.stored, 2);
  });

  const fault = (more) => registry.edge({ rule: "none", faults: [{ call: "object", at: 0, ...more }] });
  const count = (name) => ["object", name, "count"];

  test("restart before or after a command, and lose their memory", async () => {
    for (const [when, stored] of [
      ["before", 2],
      ["after", 3],
    ]) {
      const name = key();
      await run([count(name)]);
      await fault({ kind: "restart", when });
      const [restarted, next] = await run([count(name)], [count(name)]);
      assert.match(restarted.error, /Durable Object reset because its code was updated/);
      assert.deepEqual([restarted.retryable, restarted.overloaded], [true, undefined]);
      assert.deepEqual([next.value.memory, next.value.stored], [1, stored], when);
    }
  });

  test("lose their answer", async () => {
    const name = key();
    await fault({ kind: "lost" });
    const [lost, next] = await run([count(name)], [count(name)]);
    assert.ok(lost.retryable && /Network connection lost/.test(lost.error));
    assert.equal(next.value.stored, 2);
  });

  test("are overloaded, and whoever repeats the command is counted", async () => {
    const name = key();
    await fault({ kind: "overloaded" });
    const [refused] = await run([count(name)], [["object", key(), "count"]]);
    assert.ok(refused.overloaded);
    assert.equal((await counters()).overloadedRetries, 0);
    await fault({ kind: "overloaded" });
    await run([count(name)], [count(name)]);
    assert.equal((await counters()).overloadedRetries, 1);
  });

  test("have alarms by the clock", async () => {
    const name = key();
    const { value } = await step("object", name, `alarm ${7 * DAY}`);
    assert.ok(Math.abs(value.alarm - (await registry.now()) - 7 * DAY * 1000) < 5000);
    await registry.advance(7 * DAY - 60);
    assert.equal((await step(...count(name))).value.rings, 0);
    await registry.advance(60);
    const rung = await step(...count(name));
    assert.deepEqual([rung.value.rings, rung.value.alarm], [1, null]);
  });

  test("have alarms that are repeated 6 times", async () => {
    for (const [fails, rings, lost] of [
      [2, 3, 0],
      [99, 7, 1],
    ]) {
      await registry.edge({ rule: "none" });
      const name = key();
      await run([["object", name, `fail ${fails}`]], [["object", name, "alarm 10"]]);
      await registry.advance(HOUR);
      assert.equal((await step(...count(name))).value.rings, rings);
      assert.equal((await counters()).lostAlarms, lost);
    }
  });

  test("have alarms that outlive the process", async () => {
    const name = key();
    await run([["object", name, "alarm 100"]]);
    const before = await registry.now();
    await registry.restart();
    assert.ok((await registry.now()) >= before);
    await registry.advance(101);
    assert.equal((await step(...count(name))).value.rings, 1);
  });
});

test("KV answers what it read a minute ago, absence too, and takes a write a second", async () => {
  const name = key();
  await registry.edge({ rule: "A", kv: "stale" });
  const get = ["kv", "get", name];
  const [absent, , stale] = await run([get], [["kv", "put", name, "1"]], [get]);
  assert.deepEqual([absent.value, stale.value], [null, null]);
  assert.match((await step("kv", "put", name, "2")).error, /429/);
  await registry.advance(61);
  assert.equal((await step(...get)).value, "1");
  await step("kv", "put", name, "2");
  assert.equal((await step(...get)).value, "1");
  await registry.edge({ rule: "none" });
  await run([["kv", "put", name, "3"]], [["kv", "put", name, "4"]]);
  assert.equal((await step(...get)).value, "4");
});

test("the Cache API is without effect, or refuses what is too large", async () => {
  const store = async (rules, size) => {
    const name = key();
    await registry.edge({ rule: "none", ...rules });
    return run([["cache", "put", name, size]], [["cache", "match", name]]);
  };
  assert.equal((await store({}, 100))[1].value, 200);
  const off = await store({ cache: "off" }, 100);
  assert.deepEqual([off[0].error, off[1].value], [undefined, null]);
  const large = await store({ cacheLimit: 50 }, 100);
  assert.match(large[0].error, /413/);
  assert.equal(large[1].value, null);
});

test("the front door refuses large bodies before the worker runs", async () => {
  await registry.edge({ rule: "none", frontDoor: 1000 });
  const answer = await registry.expect("PUT /v2/", 413, { body: Buffer.alloc(1001) });
  assert.equal(answer.headers.get("content-type"), "text/html");
  assert.match(await answer.text(), /<center>cloudflare<\/center>/);
  assert.equal((await registry.edgeLog()).log.length, 0);
  assert.equal((await (await registry.expect("PUT /v2/", 200, { body: Buffer.alloc(1000) })).json()).read, 1000);
});

test("a client is cut off", async () => {
  await registry.edge({ rule: "none", cut: 500 });
  await registry.expect("PUT /v2/", 499, { body: Buffer.alloc(1000) });
  await registry.edge({ rule: "none" });
  assert.match((await step("read", "body")).value, /Network connection lost/);
});

describe("the clock", () => {
  test("leaps over waits, in order", async () => {
    const started = performance.now();
    const results = await run([
      ["sleep", 8000],
      ["sleep", 2000],
    ]);
    assert.ok(performance.now() - started < 1500);
    assert.ok(results[0].value >= 7999 && results[1].value >= 1999 && results[1].value < 3500);
  });

  test("does not leap if told so", async () => {
    await registry.edge({ rule: "none", leaps: false });
    const started = performance.now();
    await step("sleep", 300);
    assert.ok(performance.now() - started >= 299);
  });

  test("dates stored objects", async () => {
    const name = key();
    await step("bucket", "put", name, "1");
    await registry.advance(DAY);
    const { value } = await step("uploaded", name);
    assert.ok(value < -DAY * 1000 + 60_000 && value > -DAY * 1000 - 60_000, `${value}`);
  });
});

describe("the log", () => {
  test("has every call with its request, those of objects included", async () => {
    const name = key();
    await run(
      [["object", null, `put ${name}`]],
      [
        ["bucket", "head", name],
        ["read", name],
      ],
      [["later", name]],
    );
    await new Promise((resolve) => setTimeout(resolve, 300));
    const { log, counters } = await registry.edgeLog();
    const request = log.find(({ kind }) => kind === "request");
    const names = request.calls.map((call) => `${call.class}.${call.kind}`);
    assert.deepEqual(names, ["object.fetch", "r2.head", "r2.get", "r2.put"]);
    assert.deepEqual(
      request.calls.map(({ background }) => background),
      [false, false, false, true],
    );
    assert.deepEqual(
      request.calls[0].inner.map(({ key, from }) => [key, from]),
      [[name, "object"]],
    );
    assert.equal(rounds(request.calls.slice(0, 3)), 2);
    assert.equal(counters.calls["object:r2.put"], 1);
    assert.deepEqual(counters.orphans, []);
  });

  test("has what inner entry points do under the call", async () => {
    const body = JSON.stringify([[["inner", [["bucket", "head", "x"]], [["bucket", "head", "y"]]]]]);
    const { calls, rounds, waiting } = await registry.rounds("POST /v2/", {
      status: 200,
      body,
      rules: { profile: "far" },
    });
    assert.deepEqual(
      calls.map((call) => call.class),
      ["inner"],
    );
    assert.deepEqual(
      calls[0].inner.map(({ key }) => key),
      ["x", "y"],
    );
    assert.equal(rounds, 2);
    assert.ok(waiting >= 160 && waiting < 200, `${waiting} ms`);
    assert.equal((await step("method", 1, 2)).value, 3);
    assert.equal((await step("played")).value, "default");
    assert.equal((await step("inner", [["played"]])).value[0].value, "Inner");
    assert.deepEqual((await counters()).orphans, []);
  });

  test("measures one request", async () => {
    const body = JSON.stringify([[["bucket", "head", "x"]], [["kv", "get", "x"]], [["object", null, "head x"]]]);
    const measured = await registry.rounds("POST /v2/", { status: 200, body, rules: { profile: "far" } });
    assert.equal(measured.rounds, 2); // KV is near
    assert.ok(measured.waiting >= 80 + 60 + 75 - 5 && measured.waiting < 80 + 60 + 75 + 30, `${measured.waiting} ms`);
    assert.equal(JSON.parse(measured.body).length, 3);
  });

  test("notes when the last byte of a body was read", async () => {
    const headers = { "x-edge": JSON.stringify({ lastByte: true, slot: 3 }) };
    await registry.expect("PUT /v2/", 200, { headers, body: Buffer.alloc(3_000_000) });
    const { lastByte, answered, slot } = (await registry.edgeLog()).log[0];
    assert.ok(lastByte > 0 && lastByte < answered);
    assert.equal(slot, 3);
  });

  test("does not let a call pass that the edge does not know", async () => {
    assert.match((await step("bucket", "constructor2")).error, /not a function/);
    assert.match((await step("kv", "deleteBulk", ["x"])).error, /unknown to the strict edge|not a function/);
    assert.match((await step("bucket", "toString")).error ?? "", /unknown to the strict edge/);
    assert.ok((await counters()).unknown.length > 0);
  });

  test("hides the edge's own variable", async () => {
    assert.deepEqual((await step("variables")).value, { names: false, value: null });
  });
});

test("rounds and waiting are those of the longest chain", () => {
  const call = (began, ended, more) => ({ class: "r2", began, ended, spans: [[0, 10]], ...more });
  const of = (...calls) => cost({ calls, sleeps: [], answered: 100 });
  assert.equal(of(call(1, 4), call(2, 3), call(5, 6)).rounds, 2);
  assert.equal(of(call(1, 4), call(2, 3), call(5, 6)).waiting, 20);
  assert.equal(of(call(1, 10), call(2, 3), call(4, 5), call(6, 7)).rounds, 3);
  assert.equal(of(call(1, 6, { class: "object", inner: [call(2, 3), call(4, 5)] })).waiting, 30);
  assert.equal(of(call(1, 2, { class: "kv" })).rounds, 0);
  assert.equal(of(call(101, 102)).rounds, 0);
  assert.equal(cost({ calls: [call(1, 2)], sleeps: [[0, 50, 3, 4]], answered: 100 }).waiting, 60);
  assert.equal(rounds([call(1, 6, { class: "inner", inner: [call(2, 3), call(4, 5)] })]), 2);
});

test("every class that the worker exports must be wrapped", () => {
  assert.throws(() => complete({ default: 1, Other: 2 }, ["default"]), /Other must be exported/);
  complete({ default: 1 }, ["default"]);
});

test("rules that do not exist are refused", async () => {
  await assert.rejects(registry.edge({ no: 1 }), /no rule no/);
  await assert.rejects(registry.edge({ faults: [{ kind: "no" }] }), /no fault no/);
});
