// Kills the runtime and cuts connections at random points of chunked uploads. Afterwards each upload
// completes with the right digest, and nothing is served under a wrong one.
import assert from "node:assert/strict";
import { randomBytes, randomInt } from "node:crypto";
import http from "node:http";
import { after, before, test } from "node:test";
import { PART, Registry, digestOf } from "../support/registry.mjs";

const KILLS = 8;
const CUTS = 25;

let registry;
before(async () => (registry = await Registry.start()));
after(() => registry.stop());

// Sends a chunk of unknown length piece by piece, slowly enough to be interrupted. Resolves with the answer,
// or with null if there was none.
function sendSlowly(location, bytes, hangUpAfter = Infinity) {
  return new Promise((resolve) => {
    const request = http.request(new URL(location, registry.url), { method: "PATCH" }, (answer) => {
      answer.resume();
      answer.on("end", () => resolve(answer));
      answer.on("error", () => resolve(null));
    });
    request.on("error", () => resolve(null));
    let at = 0;
    const next = () => {
      if (request.destroyed) return;
      if (at >= hangUpAfter) return (request.destroy(), resolve(null));
      if (at >= bytes.length) return request.end();
      const end = Math.min(bytes.length, at + 512 * 1024, Math.max(at + 1, hangUpAfter));
      request.write(bytes.subarray(at, end), () => setTimeout(next, 3));
      at = end;
    };
    next();
  });
}

async function offsetOf(location) {
  const status = await registry.expect(`GET ${location}`, 204);
  const last = Number(status.headers.get("range").slice(2));
  return { offset: last === 0 ? 0 : last + 1, location: status.headers.get("location") };
}

async function finishAndCheck(name, location, bytes) {
  const digest = digestOf(bytes);
  await registry.expect(`PUT ${location}&digest=${digest}`, 201);
  const got = await registry.expect(`GET /v2/${name}/blobs/${digest}`, 200);
  assert.equal(digestOf(Buffer.from(await got.arrayBuffer())), digest);
}

test(`an upload survives kills of the runtime in the middle of a chunk, ${KILLS} times`, async (t) => {
  let kept = 0;
  for (let round = 0; round < KILLS; round++) {
    const bytes = randomBytes(3 * PART + randomInt(1, PART));
    let location = await registry.startUpload("killed");
    const sending = sendSlowly(location, bytes);
    await new Promise((resolve) => setTimeout(resolve, randomInt(20, 400)));
    await registry.kill();
    await sending;
    await registry.run();
    const state = await offsetOf(location);
    assert.ok(state.offset % PART === 0 || state.offset === bytes.length, `offset ${state.offset}`);
    kept += state.offset;
    ({ location } = state);
    if (state.offset < bytes.length) {
      const body = bytes.subarray(state.offset);
      const headers = { "content-range": `${state.offset}-${bytes.length - 1}` };
      location = (await registry.expect(`PATCH ${location}`, 202, { body, headers })).headers.get("location");
    }
    await finishAndCheck("killed", location, bytes);
  }
  t.diagnostic(`${KILLS} kills; ${Math.round(kept / PART)} parts were kept`);
});

test(`an upload survives a connection cut at a random byte, ${CUTS} times`, async (t) => {
  let kept = 0;
  for (let round = 0; round < CUTS; round++) {
    const bytes = randomBytes(randomInt(2, 2 * PART + 1000));
    const first = await registry.startUpload("cut");
    await sendSlowly(first, bytes, randomInt(1, bytes.length));
    let { offset, location } = await offsetOf(first);
    kept += offset;
    // The old request may still be running: continue at the offset in each refusal.
    for (;;) {
      const options = { method: "PATCH", body: bytes.subarray(offset) };
      if (offset < bytes.length) options.headers = { "content-range": `${offset}-${bytes.length - 1}` };
      const answer = await registry.fetch(location, options);
      location = answer.headers.get("location");
      if (answer.status === 202) break;
      assert.equal(answer.status, 416, await answer.text());
      ({ offset, location } = await offsetOf(location));
    }
    await finishAndCheck("cut", location, bytes);
  }
  t.diagnostic(`${CUTS} cuts; ${Math.round(kept / PART)} parts were kept`);
});
