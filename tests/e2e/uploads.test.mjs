// Uploads under bad conditions: chunks of any size, restarts, cut connections, two concurrent writers.
import assert from "node:assert/strict";
import { randomBytes, randomInt } from "node:crypto";
import http from "node:http";
import { after, before, test } from "node:test";
import { PART, Registry, digestOf } from "../support/registry.mjs";

let registry;
before(async () => (registry = await Registry.start()));
after(() => registry.stop());

// Random offsets at which to cut a blob of this length, favouring the edges of parts.
function cuts(length) {
  const offsets = new Set([0, length]);
  for (let n = randomInt(1, 7); n > 0; n--) offsets.add(randomInt(0, length + 1));
  for (let edge = PART; edge < length; edge += PART) {
    if (randomInt(2)) offsets.add(Math.min(length, edge + randomInt(-2, 3)));
  }
  return [...offsets].sort((a, b) => a - b);
}

async function patch(location, bytes, from, to, status = 202) {
  const headers = to > from ? { "content-range": `${from}-${to - 1}` } : {};
  const answer = await registry.expect(`PATCH ${location}`, status, { body: bytes.subarray(from, to), headers });
  assert.equal(answer.headers.get("range"), `0-${Math.max(0, to - 1)}`);
  return answer.headers.get("location");
}

async function served(name, bytes) {
  const got = await registry.expect(`GET /v2/${name}/blobs/${digestOf(bytes)}`, 200);
  assert.equal(digestOf(Buffer.from(await got.arrayBuffer())), digestOf(bytes));
}

const finish = (location, bytes, status = 201, options) =>
  registry.expect(`PUT ${location}&digest=${digestOf(bytes)}`, status, options);

test("random blobs cut at random points keep their digest", async () => {
  for (let round = 0; round < 12; round++) {
    const bytes = randomBytes(randomInt(1, round % 3 === 0 ? 3 * PART : 100_000));
    const offsets = cuts(bytes.length);
    let location = await registry.startUpload("cut");
    for (let n = 1; n < offsets.length; n++) {
      location = await patch(location, bytes, offsets[n - 1], offsets[n]);
    }
    await finish(location, bytes).catch((error) => {
      throw new Error(`${bytes.length} bytes cut at ${offsets}`, { cause: error });
    });
    await served("cut", bytes);
  }
});

test("many tiny chunks make a blob", async () => {
  const bytes = randomBytes(60);
  let location = await registry.startUpload("tiny");
  for (let at = 0; at < bytes.length; at++) location = await patch(location, bytes, at, at + 1);
  await finish(location, bytes);
  await served("tiny", bytes);
});

test("chunks just below, at and above the size of a part make a blob", async () => {
  for (const size of [PART - 1, PART, PART + 1, 5 * 1024 * 1024 + 1]) {
    const bytes = randomBytes(2 * size + 17);
    let location = await registry.startUpload("edges");
    for (let at = 0; at < bytes.length; at += size) {
      location = await patch(location, bytes, at, Math.min(bytes.length, at + size));
    }
    await finish(location, bytes);
    await served("edges", bytes);
  }
});

test("a session survives restarts of the runtime", async () => {
  const bytes = randomBytes(2 * PART + 1000);
  let location = await registry.startUpload("restart");
  for (const [from, to] of [
    [0, 1000],
    [1000, PART + 500],
    [PART + 500, bytes.length],
  ]) {
    location = await patch(location, bytes, from, to);
    await registry.restart();
    const status = await registry.expect(`GET ${location}`, 204);
    assert.equal(status.headers.get("range"), `0-${to - 1}`);
  }
  await finish(location, bytes);
  await registry.restart();
  await served("restart", bytes);
});

async function offsetOf(location) {
  const status = await registry.expect(`GET ${location}`, 204);
  const last = Number(status.headers.get("range").slice(2));
  return { offset: last && last + 1, location: status.headers.get("location") };
}

// Sends the beginning of a chunk, and hangs up once the registry has stored its full parts.
async function hangUp(location, bytes) {
  const request = http.request(new URL(location, registry.url), {
    method: "PATCH",
    // No number of parts of another size than the usual divides this.
    headers: { "content-length": 89_999_999, "content-type": "application/octet-stream" },
  });
  const cut = new Promise((resolve) => request.on("error", resolve));
  request.write(bytes);
  const deadline = Date.now() + 60_000;
  while ((await offsetOf(location)).offset < bytes.length - (bytes.length % PART)) {
    assert.ok(Date.now() < deadline, "the parts were never stored");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  request.destroy();
  await cut;
}

test("a cut connection keeps every full part, and the client resumes there", async () => {
  for (const sent of [10_000, PART + 5, 3 * PART + 100_000]) {
    const bytes = randomBytes(4 * PART);
    const first = await registry.startUpload("hangup");
    await hangUp(first, bytes.subarray(0, sent));
    const state = await offsetOf(first);
    assert.equal(state.offset, sent - (sent % PART), `of ${sent}`);
    const location = await patch(state.location, bytes, state.offset, bytes.length);
    await finish(location, bytes);
    await served("hangup", bytes);
  }
});

test("exactly one of two concurrent writers succeeds", async () => {
  for (let round = 0; round < 4; round++) {
    const bytes = randomBytes(2 * PART + round);
    const location = await registry.startUpload("two");
    const send = () =>
      registry.fetch(location, { method: "PATCH", body: bytes, headers: { "content-range": `0-${bytes.length - 1}` } });
    const answers = await Promise.all([send(), send()]);
    assert.deepEqual(answers.map((answer) => answer.status).sort(), [202, 416]);
    const { offset, location: after } = await offsetOf(location);
    assert.equal(offset, bytes.length);
    await finish(after, bytes);
    await served("two", bytes);
  }
});

test("a repeated chunk is refused and does no harm", async () => {
  const bytes = randomBytes(PART + 100);
  let location = await registry.startUpload("again");
  location = await patch(location, bytes, 0, PART);
  const headers = { "content-range": `0-${PART - 1}` };
  const refused = await registry.expect(`PATCH ${location}`, 416, { body: bytes.subarray(0, PART), headers });
  assert.equal(refused.headers.get("range"), `0-${PART - 1}`);
  location = await patch(refused.headers.get("location"), bytes, PART, bytes.length);
  await finish(location, bytes);
  await served("again", bytes);
});

test("concurrent uploads of the same blob succeed", async () => {
  const bytes = randomBytes(PART + 1);
  const upload = async (name) => {
    const location = await registry.startUpload(name);
    await finish(await patch(location, bytes, 0, bytes.length), bytes);
    await served(name, bytes);
  };
  await Promise.all(["same/a", "same/b", "same/c"].map(upload));
  await upload("same/d");
});
