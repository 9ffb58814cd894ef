// Measures uploads against the floor and prints tables. See docs/benchmarks.md.
//
//   npm run bench -- uploads                   about 15 minutes
//   npm run bench -- uploads --sizes 64,512    only blobs of these sizes in MiB
//   npm run bench -- uploads --only PATCH      only methods whose name contains this
import { createHash, randomBytes } from "node:crypto";
import { readFile, readdir } from "node:fs/promises";
import http from "node:http";
import os from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { Registry, root } from "../tests/support/registry.mjs";
import { median, table } from "./table.mjs";

const MIB = 1024 * 1024;
const { values: options } = parseArgs({
  options: { sizes: { type: "string", default: "64,512,4096" }, only: { type: "string" } },
});
const sizes = options.sizes.split(",").map(Number);
const agent = new http.Agent({ keepAlive: true, maxSockets: 16 });

// A random blob that is never in memory as a whole: one random MiB, repeated with its number in front.
class Blob {
  constructor(length) {
    this.length = length;
    this.block = randomBytes(MIB);
    const hash = createHash("sha256");
    for (const piece of this.pieces(0, length)) hash.update(piece);
    this.digest = `sha256:${hash.digest("hex")}`;
  }

  *pieces(from, to) {
    for (let at = from; at < to;) {
      const start = at % MIB;
      const piece = Buffer.from(this.block.subarray(start, Math.min(MIB, start + to - at)));
      if (start === 0 && piece.length >= 8) piece.writeBigUInt64LE(BigInt(at / MIB));
      yield piece;
      at += piece.length;
    }
  }
}

function send(registry, method, target, { blob, from = 0, to = blob?.length ?? 0, chunked = false } = {}) {
  return new Promise((resolve, reject) => {
    const headers = { "content-type": "application/octet-stream" };
    if (!chunked) headers["content-length"] = to - from;
    const request = http.request(new URL(target, registry.url), { method, headers, agent }, (answer) => {
      let text = "";
      answer.on("data", (data) => (text += data));
      answer.on("end", () => {
        if (answer.statusCode < 300) resolve(answer.headers);
        else reject(new Error(`${method} ${target}: ${answer.statusCode} ${text}`));
      });
    });
    request.on("error", reject);
    const pieces = blob ? blob.pieces(from, to) : [].values();
    const write = () => {
      for (;;) {
        const { value, done } = pieces.next();
        if (done) return request.end();
        if (!request.write(value)) return request.once("drain", write);
      }
    };
    write();
  });
}

const start = async (registry) => (await send(registry, "POST", "/v2/bench/blobs/uploads/")).location;

// The floor again, with a digest for R2 to verify: the lower bound of the first method.
const VERIFIED = "(the floor, verified by R2)";

const WAYS = {
  [VERIFIED]: async (floor, blob) => send(floor, "PUT", `/verified?sha256=${blob.digest.slice(7)}`, { blob }),
  "PUT, digest known": async (registry, blob) =>
    send(registry, "PUT", `${await start(registry)}&digest=${blob.digest}`, { blob }),
  "one PATCH, no length": async (registry, blob) => {
    const { location } = await send(registry, "PATCH", await start(registry), { blob, chunked: true });
    return finish(registry, location, blob);
  },
  "chunks of 32 MiB": chunks(32 * MIB),
  "chunks of 5 MiB": chunks(5 * MIB),
  "chunks of 7,654,321 bytes": chunks(7_654_321),
};

function chunks(size) {
  return async (registry, blob) => {
    let location = await start(registry);
    for (let from = 0; from < blob.length; from += size) {
      const to = Math.min(blob.length, from + size);
      ({ location } = await send(registry, "PATCH", location, { blob, from, to }));
    }
    return finish(registry, location, blob);
  };
}

const commits = {};
async function finish(registry, location, blob) {
  const started = performance.now();
  await send(registry, "PUT", `${location}&digest=${blob.digest}`);
  (commits[blob.length / MIB] ??= []).push(performance.now() - started);
}

// Samples the memory of all processes of the registry's runtime ten times a second. `peak` is in MiB.
class MemorySampler {
  constructor(registry) {
    this.group = registry.process.pid;
    this.peak = 0;
    this.timer = setInterval(() => this.sample(), 100);
  }

  async sample() {
    let sum = 0;
    for (const pid of await readdir("/proc")) {
      if (!/^\d+$/.test(pid)) continue;
      const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
      const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      if (Number(fields[2]) === this.group && stat.includes("(workerd)")) sum += (Number(fields[21]) * 4096) / MIB;
    }
    this.peak = Math.max(this.peak, Math.round(sum));
  }

  stop() {
    clearInterval(this.timer);
    return this.peak;
  }
}

async function timed(work) {
  const started = performance.now();
  await work();
  return (performance.now() - started) / 1000;
}

const floorConfig = path.join(root, "bench/floor.toml");
const onFloor = (use) => withRuntime({ config: floorConfig }, use);
const onRegistry = (use) => withRuntime({}, use);

// A fresh runtime for each measurement, so that earlier cases do not add to its memory.
async function withRuntime(settings, use) {
  const registry = await Registry.start({ edge: false, ...settings });
  const sampler = new MemorySampler(registry);
  try {
    return { result: await use(registry), peak: sampler.stop() };
  } finally {
    sampler.stop();
    await registry.stop();
  }
}

console.log(`${os.cpus().length} x ${os.cpus()[0].model}, Node ${process.version}\n`);

const perMiB = {};
for (const size of sizes) {
  const rounds = size <= 64 ? 5 : size <= 512 ? 3 : 1;
  const blob = () => new Blob(size * MIB);
  const rows = [];
  const measure = async (on, work) => {
    const { result, peak } = await on(async (registry) => {
      const seconds = [];
      for (let round = 0; round < rounds; round++) {
        const bytes = blob();
        seconds.push(await timed(() => work(registry, bytes)));
      }
      return median(seconds);
    });
    return { seconds: result, peak };
  };
  for (const [way, work] of Object.entries(WAYS)) {
    if (options.only && !way.includes(options.only)) continue;
    // Floor and case alternate, so that other load on the machine affects both.
    const floor = await measure(onFloor, (registry, bytes) => send(registry, "PUT", "/blob", { blob: bytes }));
    const ours = await measure(way === VERIFIED ? onFloor : onRegistry, work);
    (perMiB[way] ??= []).push([size, ours.seconds / size]);
    rows.push([
      way,
      floor.seconds.toFixed(2),
      ours.seconds.toFixed(2),
      (ours.seconds / floor.seconds).toFixed(2),
      floor.peak,
      ours.peak,
    ]);
  }
  console.log(`One blob of ${size} MiB, median of ${rounds}`);
  table(["way", "floor, s", "seconds", "ratio", "floor's peak, MiB", "peak, MiB"], rows);
}

console.log("Growth: milliseconds for each MiB");
table(
  ["way", ...sizes.map((size) => `${size} MiB`)],
  Object.entries(perMiB).map(([way, points]) => [way, ...points.map(([, seconds]) => (seconds * 1000).toFixed(1))]),
);
console.log("Commit: the PUT without a body, median milliseconds");
table(
  Object.keys(commits).map((size) => `${size} MiB`),
  [Object.values(commits).map((times) => median(times).toFixed(0))],
);

if (!options.only) {
  const blobs = Array.from({ length: 200 }, () => new Blob(10 * 1024));
  const together = async (registry, work) => {
    const queue = [...blobs];
    await Promise.all(
      Array.from({ length: 8 }, async () => {
        for (let blob; (blob = queue.pop());) await work(registry, blob);
      }),
    );
  };
  const floor = await onFloor((registry) =>
    timed(() => together(registry, (_, blob) => send(registry, "PUT", `/${blob.digest}`, { blob }))),
  );
  const ours = await onRegistry((registry) => timed(() => together(registry, WAYS["PUT, digest known"])));
  console.log("200 blobs of 10 KiB by POST and PUT, 8 at a time");
  table(
    ["floor (1 write each), s", "seconds (2 requests, 3 writes each)", "ratio", "peak, MiB"],
    [[floor.result.toFixed(2), ours.result.toFixed(2), (ours.result / floor.result).toFixed(2), ours.peak]],
  );
}

if (!options.only) {
  const blobs = Array.from({ length: 4 }, () => new Blob(1024 * MIB));
  const { result, peak } = await onRegistry(async (registry) => {
    const seconds = await timed(() => Promise.all(blobs.map((blob) => WAYS["one PATCH, no length"](registry, blob))));
    const memory = await (await registry.expect("GET /v2/_test/memory", 200)).json();
    return { seconds, wasm: memory.wasm / MIB };
  });
  console.log("Four blobs of 1 GiB by one PATCH each, at once");
  table(["seconds", "peak, MiB", "wasm memory, MiB"], [[result.seconds.toFixed(1), peak, result.wasm.toFixed(1)]]);
}
agent.destroy();
