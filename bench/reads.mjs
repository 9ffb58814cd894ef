// Measures reads against the floor and against docker-registry on the local disk. See docs/benchmarks.md.
//
//   npm run bench -- reads
import { randomBytes } from "node:crypto";
import { rm } from "node:fs/promises";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { dockerRegistry, find } from "../tests/support/clients.mjs";
import { Registry, digestOf, root, temporaryFolder } from "../tests/support/registry.mjs";
import { median, quantile, table } from "./table.mjs";

const MIB = 1024 * 1024;
const CLIENTS = [1, 8, 64];
const agent = new http.Agent({ keepAlive: true, maxSockets: Math.max(...CLIENTS) });

// Sends a request and drops the body. Resolves with milliseconds, bytes and storage calls.
function ask(url, { method = "GET", headers = {}, status = 200 } = {}) {
  return new Promise((resolve, reject) => {
    const started = performance.now();
    const request = http.request(
      url,
      { method, agent, headers: { "accept-encoding": "identity", ...headers } },
      (answer) => {
        let bytes = 0;
        answer.on("data", (data) => (bytes += data.length));
        answer.on("error", reject);
        answer.on("end", () => {
          if (answer.statusCode !== status) return reject(new Error(`${method} ${url}: ${answer.statusCode}`));
          const calls = answer.headers["server-timing"]?.match(/desc="(\d+) calls"/)?.[1];
          resolve({ milliseconds: performance.now() - started, bytes, calls: calls && Number(calls) });
        });
      },
    );
    request.on("error", reject);
    request.end();
  });
}

// Sends `count` requests from concurrent clients, at least one each, after a warm-up request.
async function measure(clients, count, url, options) {
  await ask(url, options);
  const results = [];
  let left = Math.max(count, clients);
  const started = performance.now();
  await Promise.all(
    Array.from({ length: clients }, async () => {
      while (left-- > 0) results.push(await ask(url, options));
    }),
  );
  const seconds = (performance.now() - started) / 1000;
  const times = results.map((result) => result.milliseconds);
  return {
    p50: quantile(times, 0.5),
    p99: quantile(times, 0.99),
    rate: results.length / seconds,
    throughput: results.reduce((sum, result) => sum + result.bytes, 0) / MIB / seconds,
    calls: median(results.map((result) => result.calls ?? 0)),
  };
}

const small = randomBytes(MIB);
const large = randomBytes(64 * MIB);

// Pushes both blobs and an image to any registry; returns the manifest's digest.
async function push(url) {
  const registry = Object.assign(new Registry(), { url });
  // docker-registry's locations are absolute.
  const pushBlob = async (bytes) => {
    const location = new URL(await registry.startUpload("bench"), url);
    location.searchParams.set("digest", digestOf(bytes));
    await registry.expect(`PUT ${location.href}`, 201, { body: bytes });
  };
  registry.pushBlob = (_, bytes) => pushBlob(bytes);
  await pushBlob(small);
  return (await registry.pushImage("bench", "v1", { layer: large })).digest;
}

const timing = { MIDDLEWARE: "server-timing" };
const folder = await temporaryFolder();
const servers = [];
const start = async (settings) => {
  const registry = await Registry.start({ edge: false, ...settings });
  servers.push(registry);
  return registry;
};

try {
  console.log(`${os.cpus().length} x ${os.cpus()[0].model}, Node ${process.version}\n`);
  const floor = await start({ config: path.join(root, "bench/floor.toml") });
  for (const [key, body] of [
    ["small", small],
    ["large", large],
    ["blob", small],
  ]) {
    await floor.expect(`PUT /${key}`, 201, { body });
  }
  const plain = await start({ vars: { ANONYMOUS: "push", EDGE_CACHE_MIB: "0", ...timing } });
  const cached = await start({ vars: { ANONYMOUS: "push", ...timing } });
  const signed = await start({ vars: { ANONYMOUS: "push", BLOB_REDIRECT: "signed", ...timing } });
  const digest = await push(plain.url);
  for (const registry of [cached, signed]) await push(registry.url);
  const theirs = find("docker-registry") && (await dockerRegistry(folder));
  const theirDigest = theirs && (await push(theirs.url));
  servers.push({ stop: async () => theirs?.stop() });

  const manifest = (registry, reference) => `${registry.url}/v2/bench/manifests/${reference}`;
  const blob = (registry, bytes) => `${registry.url}/v2/bench/blobs/${digestOf(bytes)}`;
  const accept = { accept: "application/vnd.oci.image.manifest.v1+json" };
  const last = { range: "bytes=-1048576" };
  const ranged = { headers: last, status: 206 };
  const many = 600;
  const cases = [
    ["a constant, no storage (floor)", many, `${floor.url}/constant`],
    ["a constant after one `head` (floor)", many, `${floor.url}/head`],
    ["manifest by digest, GET", many, manifest(plain, digest)],
    ["manifest by digest, GET (docker-registry)", many, theirs && manifest(theirs, theirDigest), { headers: accept }],
    ["manifest by tag, GET", many, manifest(plain, "v1")],
    ["manifest by tag, GET (docker-registry)", many, theirs && manifest(theirs, "v1"), { headers: accept }],
    ["manifest by tag, HEAD", many, manifest(plain, "v1"), { method: "HEAD" }],
    [
      "manifest by tag, HEAD (docker-registry)",
      many,
      theirs && manifest(theirs, "v1"),
      { method: "HEAD", headers: accept },
    ],
    ["blob, 307", many, blob(signed, small), { status: 307 }],
    ["1 MiB (floor: one `get`)", 200, `${floor.url}/small`],
    ["blob, 1 MiB", 200, blob(plain, small)],
    ["blob, 1 MiB, from the edge cache", 200, blob(cached, small)],
    ["blob, 1 MiB (docker-registry)", 200, theirs && blob(theirs, small)],
    ["64 MiB (floor: one `get`)", 12, `${floor.url}/large`],
    ["blob, 64 MiB", 12, blob(plain, large)],
    ["blob, 64 MiB, from the edge cache", 12, blob(cached, large)],
    ["blob, 64 MiB (docker-registry)", 12, theirs && blob(theirs, large)],
    ["the last 1 MiB of 64 (floor: one `get`)", 200, `${floor.url}/large`, ranged],
    ["the last 1 MiB of 64", 200, blob(plain, large), ranged],
    ["the last 1 MiB of 64, from the edge cache", 200, blob(cached, large), ranged],
    ["the last 1 MiB of 64 (docker-registry)", 200, theirs && blob(theirs, large), ranged],
  ];
  // The edge cache fills in the background.
  for (const bytes of [small, large]) await ask(blob(cached, bytes));
  await new Promise((resolve) => setTimeout(resolve, 3000));

  for (const clients of CLIENTS) {
    const rows = [];
    for (const [name, count, url, options] of cases) {
      if (!url) continue;
      const { p50, p99, rate, throughput, calls } = await measure(clients, count, url, options);
      const isOurs = !name.includes("(");
      rows.push([
        name,
        p50.toFixed(1),
        p99.toFixed(1),
        rate.toFixed(0),
        throughput > 1 ? throughput.toFixed(0) : "",
        isOurs ? calls : "",
      ]);
    }
    console.log(`${clients} client${clients > 1 ? "s at once" : ""}`);
    table(["what", "p50, ms", "p99, ms", "requests/s", "MiB/s", "calls to storage"], rows);
  }
} finally {
  agent.destroy();
  for (const server of servers) await server.stop();
  await rm(folder, { recursive: true, force: true });
}
