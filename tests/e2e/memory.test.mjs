// The memory of an isolate under requests that stall, many manifests at once, and content made to be expensive. On the
// plain simulator: the strict edge keeps a log in the same process.
//
// What the registry counts, and the memory of WebAssembly, are asserted exactly. V8 also counts what its garbage collector
// has not looked at, and the runtime's process holds the simulator and its sockets too: these only bound the whole.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { readFileSync, readdirSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import http from "node:http";
import path from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { PART, Registry, digestOf, errorOf, temporaryFolder } from "../support/registry.mjs";

const MIB = 1024 * 1024;
// The limits in src/platform/budget.rs: buffers with the reserve, contents, and the cache.
const BUFFERS = 48 * MIB;
const CONTENTS = 12 * MIB;
const CACHE = 8 * MIB;
// Code, stacks and tables.
const CODE = 8 * MIB;
// Growth of the process: the sum of all budgets.
const SUM = 100e6;
// The platform ends an isolate above this. V8 also counts what its garbage collector has not looked at: the buffers of
// requests that end while they read.
const PLATFORM = 128e6;

let registry;
beforeEach(async () => {
  registry = await Registry.start({ edge: false });
  // What the first requests of each kind make.
  await registry.pushImage("warm", "up", { layer: randomBytes(MIB) });
});
afterEach(() => registry.stop());

// The resident memory of each process of a worker's runtime, in bytes.
function residents({ process: { pid: group } }) {
  const found = new Map();
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name))) {
    try {
      const [, name, fields] = readFileSync(`/proc/${pid}/stat`, "utf8").match(/\((.*)\) (.*)/);
      if (name !== "workerd" || Number(fields.split(" ")[2]) !== group) continue;
      const [, kilobytes] = readFileSync(`/proc/${pid}/status`, "utf8").match(/VmRSS:\s+(\d+)/);
      found.set(pid, Number(kilobytes) * 1024);
    } catch {
      // It has ended.
    }
  }
  return found;
}

// Watches the process that runs a worker. Returns a function that tells by how many bytes it has grown at most.
function watch(worker) {
  // Another process takes the requests and passes them on. It is smaller at the start, and has buffers of its own.
  const [largest] = [...residents(worker)].toSorted(([, one], [, other]) => other - one);
  assert.ok(largest, "no process of the runtime");
  const [pid, before] = largest;
  let peak = before;
  const timer = setInterval(() => (peak = Math.max(peak, residents(worker).get(pid) ?? 0)), 20).unref();
  return () => {
    clearInterval(timer);
    return peak - before;
  };
}

async function counted() {
  const memory = await (await registry.expect("GET /v2/_test/memory", 200)).json();
  return { ...memory, buffers: memory.lent + memory.idle };
}

// Returns a function that asks V8 what the registry's isolate holds, in bytes: its heap, and behind that the buffers
// and the memory of WebAssembly.
async function inspect() {
  const { spawnargs } = registry.process;
  const port = spawnargs[spawnargs.indexOf("--inspector-port") + 1];
  const [{ webSocketDebuggerUrl }] = await (await fetch(`http://127.0.0.1:${port}/json`)).json();
  // Without an origin, it is refused.
  const socket = new WebSocket(webSocketDebuggerUrl, { headers: { origin: "http://localhost" } });
  await once(socket, "open");
  const asked = new Map();
  socket.addEventListener("message", ({ data }) => {
    const { id, result } = JSON.parse(data);
    // wrangler asks and is told too.
    asked.get(id)?.(result);
  });
  const isolate = async () => {
    const id = 1_000_000 + asked.size;
    const usage = new Promise((resolve) => asked.set(id, resolve));
    socket.send(JSON.stringify({ id, method: "Runtime.getHeapUsage" }));
    const { usedSize, embedderHeapUsedSize, backingStorageSize } = await usage;
    const heap = usedSize + embedderHeapUsedSize;
    return { heap, backing: backingStorageSize, isolate: heap + backingStorageSize };
  };
  return { isolate, end: () => socket.close() };
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// Looks at the memory until `work` is done, every `pause` milliseconds. Returns by how much the process has grown, and
// how often it has looked: each look is a request, of which the simulator keeps some memory.
async function most(t, work, pause = 20) {
  const { isolate, end } = await inspect();
  const peak = { ...(await counted()), ...(await isolate()) };
  const growth = watch(registry);
  const over = new AbortController();
  let looks = 0;
  const watching = (async () => {
    while (!over.signal.aborted) {
      const now = { ...(await counted()), ...(await isolate()) };
      for (const [name, bytes] of Object.entries(now)) peak[name] = Math.max(peak[name], bytes);
      looks++;
      await sleep(pause);
    }
  })();
  const result = await work().finally(() => over.abort());
  await watching;
  end();
  const grown = growth();
  const inMib = Object.entries(peak).map(([name, bytes]) => `${name} ${(bytes / MIB).toFixed(1)}`);
  t.diagnostic(`at most, in MiB: ${inMib.join(", ")}; grown by ${(grown / MIB).toFixed(1)}`);
  assert.ok(peak.lent <= BUFFERS, `${peak.lent} lent`);
  assert.ok(peak.buffers <= BUFFERS, `${peak.buffers} of buffers, lent or idle`);
  assert.ok(peak.contents <= CONTENTS, `${peak.contents} of contents`);
  assert.ok(peak.wasm <= CONTENTS + CACHE + CODE, `${peak.wasm} of WebAssembly`);
  assert.ok(peak.isolate <= PLATFORM, `${peak.isolate} in the isolate`);
  return { result, grown, looks };
}

// A PATCH that sends this much of a part, and then nothing. Resolves with the answer, or with null if the client ends
// it.
function stall(location, bytes, { url } = registry) {
  const headers = { "content-length": PART };
  const request = http.request(new URL(location, url), { method: "PATCH", headers });
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

const SETTINGS = `name = "bare"
main = "bare.mjs"
compatibility_date = "2026-11-01"
r2_buckets = [{ binding = "BUCKET", bucket_name = "bare" }]
`;

// A worker that keeps nothing: it reads all it is sent at once, or stores one body after another.
const BARE = `let isReading = false;
const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
export default {
  async fetch(request, { BUCKET }) {
    if (!request.body) return new Response("{}");
    const { searchParams } = new URL(request.url);
    if (searchParams.has("stored")) {
      while (isReading) await sleep(10);
      isReading = true;
      await BUCKET.put(crypto.randomUUID(), request.body);
      isReading = false;
      return new Response(null, { status: 202 });
    }
    const stalls = Number(searchParams.get("stalls") ?? Infinity);
    const reader = request.body.getReader({ mode: "byob" });
    let view = new Uint8Array(64 * 1024);
    for (let read = 0; read < stalls;) {
      const { value, done } = await reader.read(view);
      if (done) return new Response(null, { status: 202 });
      read += value.length;
      view = new Uint8Array(value.buffer);
    }
    await sleep(5_000);
    await reader.cancel();
    return new Response(null, { status: 408 });
  },
};`;

// By how much the process of that worker grows under these requests, in bytes: the share of the runtime and of the
// simulator.
async function shareOfOthers(work) {
  const folder = await temporaryFolder();
  const config = path.join(folder, "wrangler.toml");
  await writeFile(path.join(folder, "bare.mjs"), BARE);
  await writeFile(config, SETTINGS);
  const bare = await Registry.start({ folder, config });
  try {
    const look = async () => (await bare.expect("GET /", 200)).arrayBuffer();
    const send = async (body) => (await bare.expect("PATCH /", 202, { body })).arrayBuffer();
    await send(randomBytes(MIB));
    const growth = watch(bare);
    await work({ bare, look, send });
    return growth();
  } finally {
    await bare.stop();
  }
}

test("40 uploads that stall stay within the budget, and give way to others", async (t) => {
  const bytes = randomBytes(7_000_000);
  let others = 0;
  const work = async () => {
    const stalled = [];
    for (let n = 0; n < 40; n++) stalled.push(stall(await registry.startUpload("stalled"), bytes));
    await sleep(2_000);
    // Again and again, as clients do.
    const started = Date.now();
    for (;;) {
      const location = await registry.startUpload("other");
      const answer = await registry.fetch(location, { method: "PATCH", body: randomBytes(MIB) });
      others++;
      if (answer.status === 202) break;
      assert.equal(answer.status, 503);
      assert.ok(Date.now() - started < 120_000, "no other upload has come through");
    }
    t.diagnostic(`another upload took ${Date.now() - started} ms`);
    for (const { status, text } of (await Promise.all(stalled.map(({ answer }) => answer))).filter(Boolean)) {
      assert.ok([408, 503].includes(status), text);
    }
  };
  const { grown, looks } = await most(t, work, 500);
  await released();
  const share = await shareOfOthers(async ({ bare, look, send }) => {
    const stalls = Array.from({ length: 40 }, () => stall(`/?stalls=${bytes.length}`, bytes, bare));
    for (let n = 0; n < looks; n++) await look();
    for (let n = 0; n < others; n++) await send(randomBytes(MIB));
    for (const { answer } of stalls) assert.equal((await answer).status, 408);
  });
  t.diagnostic(`a worker that keeps nothing grows by ${(share / MIB).toFixed(1)}`);
  // The budget lends BUFFERS at most. The rest of SUM, 47 MiB, is for the heap, and for what is freed later.
  assert.ok(grown - share < SUM, `the process has grown by ${grown} bytes, without the registry by ${share}`);
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

// An index.
function manifest(extra) {
  const empty = { schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: [] };
  return Buffer.from(JSON.stringify({ ...empty, ...extra }));
}
const headers = { "content-type": "application/vnd.oci.image.index.v1+json" };

// Different manifests of 4 MiB, which are accepted: a field that nobody knows is not limited.
function largest(count) {
  return Array.from({ length: count }, (_, n) => {
    const { length } = manifest({ n, pad: "" });
    return manifest({ n, pad: "x".repeat(4 * MIB - length) });
  });
}

test("48 manifests of 4 MiB at once", async (t) => {
  const bodies = largest(48);
  const { result, grown, looks } = await most(
    t,
    () =>
      Promise.all(
        bodies.map(async (body, n) => {
          const answer = await registry.fetch(`/v2/many/manifests/n${n}`, { method: "PUT", body, headers });
          await answer.arrayBuffer();
          return answer.status;
        }),
      ),
    200,
  );
  const accepted = result.filter((status) => status === 201).length;
  t.diagnostic(`${accepted} accepted`);
  // They wait for memory in line, some for too long.
  assert.ok(
    result.every((status) => [201, 503].includes(status)),
    String(result),
  );
  assert.ok(accepted >= 12, `only ${accepted} accepted`);
  await released();
  // What waits for the registry waits in the simulator, and what it stores passes through it.
  const share = await shareOfOthers(async ({ bare, look }) => {
    const sent = Promise.all(
      bodies.map(async (body) => (await bare.expect("PATCH /?stored", 202, { body })).arrayBuffer()),
    );
    for (let n = 0; n < looks; n++) await look();
    await sent;
  });
  t.diagnostic(`a worker that keeps nothing grows by ${(share / MIB).toFixed(1)}`);
  assert.ok(grown - share < SUM, `the process has grown by ${grown} bytes, without the registry by ${share}`);
});

test("24 manifests of 4 MiB are pulled at once", async (t) => {
  const digests = [];
  for (const body of largest(24)) {
    const answer = await registry.expect("PUT /v2/pulled/manifests/v1", 201, { body, headers });
    digests.push(answer.headers.get("docker-content-digest"));
  }
  // Of so many, the cache in memory holds one.
  const pull = async (digest) => {
    const answer = await registry.expect(`GET /v2/pulled/manifests/${digest}`, 200);
    assert.equal(digestOf(Buffer.from(await answer.arrayBuffer())), digest);
  };
  await most(t, () => Promise.all(digests.map(pull)));
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
