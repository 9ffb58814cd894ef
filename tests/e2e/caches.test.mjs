// The caches on the runtime's own bindings: the Cache API for bodies, KV and memory for locations and
// manifests.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, test } from "node:test";
import { Registry } from "../support/registry.mjs";

const TIMED = { MIDDLEWARE: "server-timing" };

let registry;
before(async () => (registry = await Registry.start({ vars: { ANONYMOUS: "push", ...TIMED } })));
after(() => registry.stop());

// Parses Server-Timing: the number of storage calls, and the look-ups in the descriptor cache.
function timing(answer) {
  const text = answer.headers.get("server-timing");
  const [, calls] = text.match(/^total;dur=\d+, storage;dur=\d+;desc="(\d+) calls", cache;desc="/);
  const count = (name) => Number(text.match(new RegExp(`${name} (\\d+)`))[1]);
  return { calls: Number(calls), memory: count("memory"), kv: count("kv"), miss: count("miss"), error: count("error") };
}

const bytesOf = async (answer) => Buffer.from(await answer.arrayBuffer());

test("a blob that was pulled whole is served from the edge cache, ranges too", async () => {
  // One part, and several, which are stored under another key.
  for (const bytes of [randomBytes(2_000_000), randomBytes(17_000_000)]) {
    const location = await registry.startUpload("edge");
    const next = await registry.expect(`PATCH ${location}`, 202, { body: new Blob([bytes]).stream(), duplex: "half" });
    const digest = `sha256:${Buffer.from(await crypto.subtle.digest("SHA-256", bytes)).toString("hex")}`;
    await registry.expect(`PUT ${next.headers.get("location")}&digest=${digest}`, 201);
    const target = `/v2/edge/blobs/${digest}`;
    const get = async (status, headers = {}) => {
      const answer = await registry.expect(`GET ${target}`, status, { headers });
      return { ...timing(answer), answer, bytes: await bytesOf(answer) };
    };

    const range = { range: "bytes=1000-1999" };
    assert.equal((await get(206, range)).calls, 2);
    const first = await get(200);
    assert.ok(first.calls === 2 && first.bytes.equals(bytes));
    let hit;
    for (let tries = 0; tries < 100 && hit?.calls !== 1; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 50));
      hit = await get(200);
      assert.ok(hit.bytes.equals(bytes));
    }
    assert.equal(hit.calls, 1, "the cache was never filled");
    assert.equal(hit.answer.headers.get("content-length"), String(bytes.length));
    assert.equal(hit.answer.headers.get("docker-content-digest"), digest);
    assert.equal(hit.answer.headers.get("cf-cache-status"), null);
    for (const [text, from, to] of [
      ["bytes=1000-1999", 1000, 2000],
      ["bytes=-5", -5],
      ["bytes=0-0", 0, 1],
      ["bytes=1999999-", 1_999_999],
    ]) {
      const part = await get(206, { range: text });
      assert.ok(part.calls === 1 && part.bytes.equals(bytes.subarray(from, to)), text);
    }
    await registry.expect(`GET ${target}`, 416, { headers: { range: "bytes=99999999-" } });
    await registry.expect(`GET ${target.replace("edge", "other")}`, 404);

    await registry.expect(`DELETE ${target}`, 202);
    await registry.expect(`GET ${target}`, 404);
  }
});

test("manifests are served from memory, after a restart from KV, and evicted when deleted", async () => {
  const { digest, manifest } = await registry.pushImage("kv", "v1");
  const get = async (reference) => {
    const answer = await registry.expect(`GET /v2/kv/manifests/${reference}`, 200);
    const counts = timing(answer);
    assert.ok(manifest.equals(await bytesOf(answer)));
    return counts;
  };
  // The isolate that stored it remembers it. Another one asks the store, and then fills KV.
  assert.deepEqual(await get(digest), { calls: 1, memory: 1, kv: 0, miss: 0, error: 0 });
  await registry.restart();
  assert.deepEqual(await get(digest), { calls: 2, memory: 0, kv: 0, miss: 1, error: 0 });
  for (const reference of [digest, "v1"]) {
    assert.deepEqual(await get(reference), { calls: 1, memory: 1, kv: 0, miss: 0, error: 0 });
  }
  await registry.restart();
  assert.deepEqual(await get("v1"), { calls: 1, memory: 0, kv: 1, miss: 0, error: 0 });
  assert.deepEqual(await get("v1"), { calls: 1, memory: 1, kv: 0, miss: 0, error: 0 });

  await registry.expect(`DELETE /v2/kv/manifests/${digest}`, 202);
  for (const reference of [digest, "v1"]) await registry.expect(`GET /v2/kv/manifests/${reference}`, 404);
  await registry.pushManifest("kv", "v1", manifest);
  await registry.restart();
  assert.deepEqual(await get("v1"), { calls: 2, memory: 0, kv: 0, miss: 1, error: 0 });
});
