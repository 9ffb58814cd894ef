// The memory of an isolate under requests that stall, many manifests at once, and content made to be expensive. On the
// plain simulator: the strict edge keeps a log in the same process.
//
// The runtime's process also holds the simulator, its sockets and what its garbage collector has not looked at, so its
// size only bounds the whole. What the registry counts, and the memory of WebAssembly, are asserted exactly.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import http from "node:http";
import { afterEach, beforeEach, test } from "node:test";
import { PART, Registry, digestOf, errorOf } from "../support/registry.mjs";

const MIB = 1024 * 1024;
// The limits in src/platform/budget.rs: buffers with the reserve, contents, and the cache.
const BUFFERS = 48 * MIB;
const CONTENTS = 12 * MIB;
const CACHE = 8 * MIB;
// Code, stacks and tables.
const CODE = 8 * MIB;
// Growth of the process: the sum of all budgets.
const SUM = 100e6;

let registry;
beforeEach(async () => {
  registry = await Registry.start({ edge: false });
  // What the first requests of each kind make.
  await registry.pushImage("warm", "up", { layer: randomBytes(MIB) });
});
afterEach(() => registry.stop());

// The resident memory of the largest process of the runtime, in bytes: the one that runs the worker.
function resident() {
  let most = 0;
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const [, name, fields] = readFileSync(`/proc/${pid}/stat`, "utf8").match(/\((.*)\) (.*)/);
      if (name !== "workerd" || Number(fields.split(" ")[2]) !== registry.process.pid) continue;
      const [, kilobytes] = readFileSync(`/proc/${pid}/status`, "utf8").match(/VmRSS:\s+(\d+)/);
      most = Math.max(most, Number(kilobytes) * 1024);
    } catch {
      // It has ended.
    }
  }
  assert.ok(most > 0, "no process of the runtime");
  return most;
}

async function counted() {
  const memory = await (await registry.expect("GET /v2/_test/memory", 200)).json();
  return { ...memory, buffers: memory.lent + memory.idle };
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// Looks at the memory until `work` is done. Returns the most of each kind.
async function most(t, work) {
  const before = { ...(await counted()), resident: resident() };
  const peak = { ...before };
  const over = new AbortController();
  const watching = (async () => {
    while (!over.signal.aborted) {
      const now = { ...(await counted()), resident: resident() };
      for (const [name, bytes] of Object.entries(now)) peak[name] = Math.max(peak[name], bytes);
      await sleep(20);
    }
  })();
  const result = await work().finally(() => over.abort());
  await watching;
  const inMib = Object.entries(peak).map(([name, bytes]) => `${name} ${(bytes / MIB).toFixed(1)}`);
  const grown = peak.resident - before.resident;
  t.diagnostic(`at most, in MiB: ${inMib.join(", ")}; grown by ${(grown / MIB).toFixed(1)}`);
  assert.ok(peak.lent <= BUFFERS, `${peak.lent} lent`);
  assert.ok(peak.buffers <= BUFFERS, `${peak.buffers} of buffers, lent or idle`);
  assert.ok(peak.contents <= CONTENTS, `${peak.contents} of contents`);
  assert.ok(peak.wasm <= CONTENTS + CACHE + CODE, `${peak.wasm} of WebAssembly`);
  return { result, grown, before };
}

// A PATCH that sends this much of a part, and then nothing. Resolves with the answer, or with null if the client ends
// it.
function stall(location, bytes) {
  const headers = { "content-length": PART };
  const request = http.request(new URL(location, registry.url), { method: "PATCH", headers });
  const answer = new Promise((resolve) => {
    request.on("response", (response) => {
      const pieces = [];
      response.on("data", (piece) => pieces.push(piece));
      response.on("end", () => resolve({ status: response.statusCode, text: Buffer.concat(pieces).toString() }));
      response.on("error", () => resolve(null));
    });
    request.on("error", () => resolve(null));
  });
  request.flushHeaders();
  if (bytes.length > 0) request.write(bytes);
  return { answer, end: () => request.destroy() };
}

async function released() {
  const deadline = Date.now() + 20_000;
  for (;;) {
    const { lent, contents } = await counted();
    if (lent === 0 && contents === 0) return;
    assert.ok(Date.now() < deadline, `${lent} lent and ${contents} of contents are never given back`);
    await sleep(100);
  }
}

async function push(name, bytes) {
  const location = await registry.startUpload(name);
  const headers = { "content-range": `0-${bytes.length - 1}` };
  const answer = await registry.expect(`PATCH ${location}`, 202, { body: bytes, headers });
  await registry.expect(`PUT ${answer.headers.get("location")}&digest=${digestOf(bytes)}`, 201);
}

test("8 requests without a body delay no upload, and end after a minute", async (t) => {
  const stalled = [];
  for (let n = 0; n < 8; n++) stalled.push(stall(await registry.startUpload("idle"), Buffer.alloc(0)));
  await sleep(500);
  const { lent } = await counted();
  assert.ok(lent <= 8 * 64 * 1024, `${lent} bytes are lent before a byte has arrived`);
  const started = Date.now();
  await most(t, () => push("other", randomBytes(3 * PART)));
  t.diagnostic(`another upload took ${Date.now() - started} ms`);
  for (const { answer } of stalled) {
    const { status, text } = await answer;
    assert.equal(status, 408);
    assert.match(text, /BLOB_UPLOAD_INVALID.*no byte arrived for 60 s/);
  }
  assert.ok(Date.now() - started < 75_000);
  await released();
  assert.doesNotMatch(registry.log, /"level":"error"/);
});

test("40 uploads that stall stay within the budget, and give way to others", async (t) => {
  const { grown } = await most(t, async () => {
    const bytes = randomBytes(7_000_000);
    const stalled = [];
    for (let n = 0; n < 40; n++) stalled.push(stall(await registry.startUpload("stalled"), bytes));
    await sleep(2_000);
    // Again and again, as clients do.
    const started = Date.now();
    for (;;) {
      const location = await registry.startUpload("other");
      const answer = await registry.fetch(location, { method: "PATCH", body: randomBytes(MIB) });
      if (answer.status === 202) break;
      assert.equal(answer.status, 503);
      assert.ok(Date.now() - started < 120_000, "no other upload has come through");
    }
    t.diagnostic(`another upload took ${Date.now() - started} ms`);
    for (const { status, text } of (await Promise.all(stalled.map(({ answer }) => answer))).filter(Boolean)) {
      assert.ok([408, 503].includes(status), text);
    }
  });
  // Beside what the isolate holds, the runtime buffers what its sockets have taken from clients that are not read.
  assert.ok(grown < SUM + 40 * 4e6, `the process has grown by ${grown} bytes`);
  await released();
});

test("the memory of clients that hang up is given back", async () => {
  const cut = [];
  for (let n = 0; n < 10; n++) cut.push(stall(await registry.startUpload("cut"), randomBytes(3_000_000)));
  await sleep(1_000);
  assert.ok((await counted()).lent > 0);
  for (const { end } of cut) end();
  await released();
  assert.doesNotMatch(registry.log, /"level":"error"/);
  assert.match(registry.log, /"level":"info".*"kept":0/);
});

// A manifest of nearly 4 MiB.
function manifest(extra) {
  const empty = { schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: [] };
  return Buffer.from(JSON.stringify({ ...empty, ...extra }));
}
const headers = { "content-type": "application/vnd.oci.image.index.v1+json" };

test("48 manifests of 4 MiB at once", async (t) => {
  const note = randomBytes(2_000_000).toString("hex");
  const { result, grown } = await most(t, () =>
    Promise.all(
      Array.from({ length: 48 }, async (_, n) => {
        const body = manifest({ annotations: { n: String(n), note } });
        return (await registry.fetch(`/v2/many/manifests/n${n}`, { method: "PUT", body, headers })).status;
      }),
    ),
  );
  t.diagnostic(`answers: ${[...new Set(result)]}`);
  // Annotations of this length may be refused.
  assert.ok(
    result.every((status) => [201, 400, 503].includes(status)),
    String(result),
  );
  assert.ok(grown < SUM + 48 * 4 * MIB, `the process has grown by ${grown} bytes`);
  await released();
});

test("manifests without a body take nothing", async () => {
  const idle = [];
  for (let n = 0; n < 48; n++) {
    const headers = { "content-type": "application/vnd.oci.image.index.v1+json", "content-length": 4 * MIB };
    const request = http.request(new URL(`/v2/idle/manifests/n${n}`, registry.url), { method: "PUT", headers });
    request.on("error", () => {});
    request.flushHeaders();
    idle.push(request);
  }
  await sleep(1_000);
  const { lent, contents } = await counted();
  assert.ok(lent <= 48 * 64 * 1024 && contents === 0, `${lent} lent, ${contents} of contents`);
  await registry.pushImage("other", "v1");
  for (const request of idle) request.destroy();
  await released();
});

test("a manifest of 4 MiB that asks for a large tree", async (t) => {
  const entries = (entry) => Array(Math.floor((4 * MIB - 200) / (JSON.stringify(entry).length + 1))).fill(entry);
  for (const extra of [{ annotations: entries({ "": 0 }) }, { subject: entries(0) }]) {
    const { result } = await most(t, () =>
      registry.fetch("/v2/tree/manifests/v1", { method: "PUT", body: manifest(extra), headers }),
    );
    assert.equal(result.status, 400);
    assert.equal((await errorOf(result)).code, "MANIFEST_INVALID");
  }
});

test("a page of referrers with large annotations", async (t) => {
  const { digest, size } = await registry.pushImage("refs", "v1");
  const subject = { mediaType: "application/vnd.oci.image.manifest.v1+json", digest, size };
  for (let n = 0; n < 60; n++) {
    // The limit of the annotations of a manifest is 256 KiB.
    const note = randomBytes(125 * 1024).toString("hex");
    const body = manifest({ subject, annotations: { n: String(n), note } });
    await registry.expect(`PUT /v2/refs/manifests/${digestOf(body)}`, 201, { body, headers });
  }
  const { result, grown } = await most(t, () =>
    Promise.all(Array.from({ length: 4 }, () => registry.expect(`GET /v2/refs/referrers/${digest}`, 200))),
  );
  for (const answer of result) assert.ok((await answer.text()).length <= 4 * MIB);
  assert.ok(grown < SUM, `the process has grown by ${grown} bytes`);
});
