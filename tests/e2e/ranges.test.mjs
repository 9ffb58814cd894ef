// Several ranges in one request, over a real connection: lengths, cut connections, redirects, caches, and what a partial
// pull sends.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { get as send } from "node:http";
import path from "node:path";
import { after, before, test } from "node:test";
import { containersTool, needs, run } from "../support/clients.mjs";
import { Registry, digestOf, temporaryFolder } from "../support/registry.mjs";
import { S3Server } from "../support/s3.mjs";

const SIZE = 30_000_000;
// More than the sockets on the way hold, which may be tens of megabytes.
const LARGE = 100_000_000;

let registry;
let blob;
let digest;
let large;
let largeDigest;
before(async () => {
  // Each range is read from the store, also when the whole was read before.
  registry = await Registry.start({ vars: { ANONYMOUS: "push", LOG_LEVEL: "debug", EDGE_CACHE_MIB: "0" } });
  [blob, digest] = await pushLarge(registry, "a");
  [large, largeDigest] = await pushLarge(registry, "large", LARGE);
});
after(() => registry.stop());

// In parts of 8 MiB.
async function pushLarge(registry, name, size = SIZE) {
  const bytes = randomBytes(size);
  let location = await registry.startUpload(name);
  for (let at = 0; at < size; at += 20_000_000) {
    const body = bytes.subarray(at, at + 20_000_000);
    location = (await registry.expect(`PATCH ${location}`, 202, { body })).headers.get("location");
  }
  await registry.expect(`PUT ${location}&digest=${digestOf(bytes)}`, 201);
  return [bytes, digestOf(bytes)];
}

// `count` ranges of `length` bytes, evenly over the blob: pairs of the first byte and the end.
const spread = (count, length, size = SIZE) =>
  Array.from({ length: count }, (_, n) => {
    const at = Math.floor((n * size) / count);
    return [at, at + length];
  });

const header = (ranges) => ({ range: `bytes=${ranges.map(([at, end]) => `${at}-${end - 1}`).join(",")}` });

// Sends a request over a connection of its own. Resolves to the answer, with the bytes that came, and whether the connection
// was cut. `each` sees each piece.
function request(url, headers, each = () => {}) {
  return new Promise((resolve, reject) => {
    const outgoing = send(url, { headers, agent: false }, (answer) => {
      const pieces = [];
      let isCut = false;
      answer.on("data", (piece) => {
        pieces.push(piece);
        each(piece, outgoing, answer);
      });
      answer.on("error", () => (isCut = true));
      answer.on("close", () => resolve({ answer, body: Buffer.concat(pieces), isCut: isCut || !answer.complete }));
    });
    outgoing.on("error", reject);
  });
}

// The parts of an answer, as pairs of offset and bytes. Nothing else may be in it.
function partsOf(type, body, size = SIZE) {
  const [, boundary] = type.match(/^multipart\/byteranges; boundary=([0-9a-f]{32})$/);
  const parts = [];
  let at = 0;
  for (let line = ""; ; line = "\r\n") {
    const rest = body.subarray(at, at + 300).toString("latin1");
    if (rest === `${line}--${boundary}--\r\n` && at + rest.length === body.length) return parts;
    const head = `${line}--${boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes `;
    assert.ok(rest.startsWith(head), JSON.stringify(rest));
    const [range, first, last] = rest.slice(head.length).match(new RegExp(`^(\\d+)-(\\d+)/${size}\r\n\r\n`));
    at += head.length + range.length;
    const end = at + Number(last) - Number(first) + 1;
    parts.push([Number(first), body.subarray(at, end)]);
    at = end;
  }
}

function check({ answer, body, isCut }, bytes, ranges) {
  assert.ok(!isCut);
  assert.equal(answer.statusCode, 206);
  // The exact length, not a chunked encoding.
  assert.equal(answer.headers["content-length"], String(body.length));
  assert.equal(answer.headers["transfer-encoding"], undefined);
  assert.equal(answer.headers["content-range"], undefined);
  const parts = partsOf(answer.headers["content-type"], body, bytes.length);
  assert.deepEqual(
    parts.map(([at, part]) => [at, at + part.length]),
    ranges,
  );
  for (const [at, part] of parts) assert.ok(bytes.subarray(at, at + part.length).equals(part), `at ${at}`);
}

const url = () => `${registry.url}/v2/a/blobs/${digest}`;
const largeUrl = () => `${registry.url}/v2/large/blobs/${largeDigest}`;
const calls = async () => {
  const { log } = await registry.edgeLog();
  return log.flatMap((request) => request.calls).filter((call) => call.class === "r2" && call.kind === "get");
};

test("many ranges of a large blob come in one answer of known length", async () => {
  for (const [count, length] of [
    [2, 1],
    [2, 14_000_000],
    [16, 1_000_000],
    [64, 1],
    [64, 300_000],
  ]) {
    const ranges = spread(count, length);
    await registry.edge();
    check(await request(url(), header(ranges)), blob, ranges);
    assert.equal((await calls()).length, count);
    // In any order.
    check(await request(url(), header(ranges.toReversed())), blob, ranges);
  }
  const one = await request(url(), { range: "bytes=10-19,20-29" });
  assert.equal(one.answer.statusCode, 206);
  assert.equal(one.answer.headers["content-range"], `bytes 10-29/${SIZE}`);
  assert.ok(one.body.equals(blob.subarray(10, 30)));
  for (const headers of [header(spread(65, 10)), { range: "bytes=0-,0-,0-" }]) {
    const whole = await request(url(), headers);
    assert.equal(whole.answer.statusCode, 200);
    assert.ok(whole.body.equals(blob));
  }
  const none = await request(url(), { range: `bytes=${SIZE}-,-0` });
  assert.deepEqual([none.answer.statusCode, none.answer.headers["content-range"]], [416, `bytes */${SIZE}`]);
  const head = await registry.expect(`HEAD /v2/a/blobs/${digest}`, 200, { headers: header(spread(3, 10)) });
  assert.equal(head.headers.get("content-length"), String(SIZE));
});

// containers/image, `GetBlobAt`: it takes the parts one after the other for its ranges, in order.
test("a partial pull gets a part for each range", async () => {
  // The two indexes of a layer in the format zstd:chunked, with the header of a frame between them.
  const indexes = [
    [SIZE - 500_000, SIZE - 200_008],
    [SIZE - 200_000, SIZE - 72],
  ];
  check(await request(url(), header(indexes)), blob, indexes);
  // The missing files, with the gaps that it does not merge.
  let at = 4096;
  const files = Array.from({ length: 50 }, (_, n) => {
    const file = [at, at + 1000 + n * 7919];
    at = file[1] + 1025;
    return file;
  });
  check(await request(url(), header(files)), blob, files);
});

test("podman pulls the files that it lacks", needs("podman", "buildah"), async (t) => {
  const folder = await temporaryFolder();
  const state = await mkdtemp("/tmp/run-");
  t.after(() => Promise.all([folder, state].map((path) => rm(path, { recursive: true, force: true }))));
  const buildah = await containersTool(t, "buildah", path.join(folder, "build"));
  // Two images, of which every third file differs.
  const files = Array.from({ length: 60 }, () => randomBytes(20_000 + Math.floor(Math.random() * 30_000)));
  for (const tag of ["v1", "v2"]) {
    const context = path.join(folder, tag);
    await mkdir(context);
    for (const [n, bytes] of files.entries()) {
      if (tag === "v2" && n % 3 === 1) files[n] = randomBytes(bytes.length);
      await writeFile(path.join(context, `f${n}`), files[n]);
    }
    await writeFile(path.join(folder, `${tag}.file`), `FROM scratch\nCOPY . /data\n`);
    await buildah("bud", "-q", "-f", path.join(folder, `${tag}.file`), "-t", tag, context);
    const options = ["--tls-verify=false", "--format", "oci", "--compression-format", "zstd:chunked"];
    await buildah("push", ...options, tag, `docker://${registry.host}/podman:${tag}`);
  }

  const settings = path.join(folder, "storage.conf");
  const lines = ["[storage]", 'driver = "overlay"', `graphroot = "${folder}/store"`, `runroot = "${state}"`];
  lines.push("[storage.options]", 'pull_options = { enable_partial_images = "true" }');
  await writeFile(settings, `${lines.join("\n")}\n`);
  const env = { ...process.env, CONTAINERS_STORAGE_CONF: settings };
  const podman = (...args) => run("podman", args, { env });
  try {
    await podman("info");
  } catch (error) {
    return t.skip(`partial pulls need overlay mounts: ${error.message.split("\n")[0]}`);
  }
  // podman 4.3 closes a part while it reads it (`handle206Response`), and panics now and then: then it is run again.
  const pull = async (tag) => {
    for (let tries = 1; ; tries++) {
      try {
        return await podman("pull", "-q", "--tls-verify=false", `${registry.host}/podman:${tag}`);
      } catch (error) {
        if (tries === 5 || !/^panic: [^]*handle206Response/m.test(error.stderr)) throw error;
      }
    }
  };
  await pull("v1");
  await registry.edge();
  await pull("v2");
  const { log } = await registry.edgeLog();
  const reads = log.map((request) => request.calls.filter((call) => call.class === "r2" && call.kind === "get").length);
  // The index of the layer, and then what differs: a third of the files.
  assert.ok(Math.max(...reads) >= 15, `one of the requests has many ranges: ${reads}`);

  const root = (await podman("image", "mount", `${registry.host}/podman:v2`)).trim();
  for (const [n, bytes] of files.entries()) {
    assert.ok(bytes.equals(await readFile(path.join(root, "data", `f${n}`))), `f${n}`);
  }
  await podman("image", "umount", "-a");
  return undefined;
});

test("ranges are opened a few ahead, and only as fast as the client reads", async () => {
  const ranges = spread(64, 1_500_000, LARGE);
  await registry.edge();
  let opened;
  const result = await request(largeUrl(), header(ranges), (piece, outgoing, answer) => {
    if (opened) return;
    // After the first piece the client rests.
    opened = (async () => {
      answer.pause();
      await new Promise((resolve) => setTimeout(resolve, 2000));
      const { length } = await calls();
      answer.resume();
      return length;
    })();
  });
  check(result, large, ranges);
  const length = await opened;
  assert.ok(length > 0 && length < 60, `${length} ranges were opened for a client that did not read`);
});

test("a range that fails in the middle cuts the answer", async () => {
  const ranges = spread(20, 100_000);
  for (const at of [1, 5, 19]) {
    await registry.edge({ faults: [{ call: "r2.get", at, kind: "error" }] });
    const { answer, body, isCut } = await request(url(), header(ranges));
    assert.ok(isCut, `at ${at}`);
    assert.equal(answer.statusCode, 206);
    assert.ok(body.length < Number(answer.headers["content-length"]));
    assert.ok(registry.log.includes(`"ranges_cut":"${digest}"`));
  }
  // If none can be read, the answer has its status: the first is tried twice, since the place in memory may be wrong.
  await registry.edge({ faults: [{ call: "r2.get", probability: 1, kind: "error" }] });
  assert.equal((await request(url(), header(ranges))).answer.statusCode, 500);
  // A busy store is asked again.
  await registry.edge({ faults: [{ call: "r2.get", at: 7, kind: "busy" }] });
  check(await request(url(), header(ranges)), blob, ranges);
  await registry.edge();
});

test("a client that goes away ends the reads", async () => {
  const ranges = spread(64, 1_500_000, LARGE);
  await registry.edge();
  await request(largeUrl(), header(ranges), (piece, outgoing) => outgoing.destroy());
  await new Promise((resolve) => setTimeout(resolve, 1000));
  const before = (await calls()).length;
  await new Promise((resolve) => setTimeout(resolve, 2000));
  assert.equal((await calls()).length, before);
  assert.ok(before > 0 && before < 64, `${before} ranges were opened`);
  // Nothing of it is left: many more follow.
  for (let n = 0; n < 20; n++) await request(largeUrl(), header(ranges), (piece, outgoing) => outgoing.destroy());
  check(await request(largeUrl(), header(ranges)), large, ranges);
});

test("the edge cache answers ranges", async () => {
  const vars = { ANONYMOUS: "push", MIDDLEWARE: "server-timing" };
  const cached = await Registry.start({ vars });
  try {
    const [bytes, digest] = await pushLarge(cached, "a", 9_000_000);
    const target = `${cached.url}/v2/a/blobs/${digest}`;
    const ranges = spread(30, 1000, bytes.length);
    await (await fetch(target)).arrayBuffer();
    for (let tries = 0; ; tries++) {
      await cached.edge();
      check(await request(target, header(ranges)), bytes, ranges);
      const { log } = await cached.edgeLog();
      const gets = log.flatMap((request) => request.calls).filter((call) => call.class === "r2" && call.kind === "get");
      if (gets.length === 0) break;
      assert.ok(tries < 100, `${gets.length} reads of the store`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  } finally {
    await cached.stop();
  }
});

test("a request for several ranges is answered here in every redirect mode", async () => {
  for (const mode of ["presigned", "signed"]) {
    const s3 = await S3Server.start();
    const vars = { ANONYMOUS: "push", STORAGE: "s3", BLOB_REDIRECT: mode, ...s3.vars };
    const redirecting = await Registry.start({ vars, edge: { leaps: false } });
    try {
      const bytes = randomBytes(2_000_000);
      const digest = await redirecting.pushBlob("a", bytes);
      const target = `${redirecting.url}/v2/a/blobs/${digest}`;
      const ranges = spread(10, 1000, bytes.length);
      check(await request(target, header(ranges)), bytes, ranges);
      const single = await request(target, { range: "bytes=0-9" });
      assert.equal(single.answer.statusCode, 307);
      const location = new URL(single.answer.headers.location, target).href;
      if (mode === "signed") check(await request(location, header(ranges)), bytes, ranges);
      assert.equal((await request(target, header(spread(65, 10, bytes.length)))).answer.statusCode, 307);
    } finally {
      await redirecting.stop();
      s3.stopNow();
    }
  }
});

test("manifests have ranges", async () => {
  const { digest, manifest } = await registry.pushImage("a", "v1");
  for (const reference of ["v1", digest]) {
    const target = `${registry.url}/v2/a/manifests/${reference}`;
    // containerd 2.1 sends this when it pulls in parallel.
    const all = await request(target, { range: "bytes=0-" });
    assert.equal(all.answer.statusCode, 206);
    assert.equal(all.answer.headers["content-range"], `bytes 0-${manifest.length - 1}/${manifest.length}`);
    assert.ok(all.body.equals(manifest));
    const some = await request(target, { range: "bytes=10-19" });
    assert.deepEqual([some.answer.statusCode, some.answer.headers["content-length"]], [206, "10"]);
    assert.ok(some.body.equals(manifest.subarray(10, 20)));
    assert.equal((await request(target, { range: `bytes=${manifest.length}-` })).answer.statusCode, 416);
  }
});
