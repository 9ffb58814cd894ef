// Pushes images over plain HTTP as clients do: docker's way (`POST`, `PATCH` without a length, `PUT`), or each blob
// by one `PUT`. Used by tests and by `npm run bench -- far`.
import { randomBytes } from "node:crypto";
import { MANIFEST, digestOf } from "./registry.mjs";
import { cost, inTime, rounds } from "./edge/measure.mjs";

const KB = 1000;
const MB = 1000 * KB;

// The image of the benchmarks.
export const TEN_LAYERS = [3 * MB, MB, 200 * KB, 50 * KB, 5 * KB, 30 * MB, 2 * KB, 100, 40 * KB, 700 * KB];
// docker pushes this many layers at once.
export const SLOTS = 5;
// The method of a whole push, for messages.
export const WAYS = ["docker", "put"];

// How often a client repeats a request after 503. docker repeats a blob 5 times.
const TRIES = 5;

export function image(sizes, config = randomBytes(300)) {
  const layers = sizes.map((size) => (typeof size === "number" ? randomBytes(size) : size));
  const describe = (mediaType, bytes) => ({ mediaType, digest: digestOf(bytes), size: bytes.length });
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MANIFEST,
      config: describe("application/vnd.oci.image.config.v1+json", config),
      layers: layers.map((bytes) => describe("application/vnd.oci.image.layer.v1.tar+gzip", bytes)),
    }),
  );
  return { layers, config, manifest, digest: digestOf(manifest) };
}

export class Client {
  // `marks` go into the edge's log, with the rules of each request.
  constructor(registry, marks = {}) {
    this.registry = registry;
    this.marks = marks;
  }

  // Requests about one thing: a layer by its number, "config" or "manifest".
  at(slot) {
    return new Client(this.registry, { ...this.marks, slot });
  }

  // Repeats after 503, as the answer asks to.
  async send(line, status, options = {}) {
    for (let tries = 1; ; tries++) {
      const headers = { ...options.headers };
      if (this.registry.isStrict) headers["x-edge"] = JSON.stringify(this.marks);
      const answer = await this.registry.fetch(line.split(" ")[1], {
        ...options,
        ...(options.stream && { body: options.stream(), duplex: "half" }),
        method: line.split(" ")[0],
        headers,
      });
      if (answer.status === status) return answer;
      const text = await answer.text();
      const after = Number(answer.headers.get("retry-after"));
      if (answer.status !== 503 || !after || tries === TRIES || options.once) {
        throw new Error(`${line.replace(/_state=[^&]*/, "_state=")}: ${answer.status} instead of ${status}: ${text}`);
      }
      await new Promise((resolve) => setTimeout(resolve, Math.min(after, 3) * 1000));
    }
  }

  async location(name) {
    const answer = await this.send(`POST /v2/${name}/blobs/uploads/`, 202);
    await answer.arrayBuffer();
    return answer.headers.get("location");
  }

  // A blob as a whole is tried again as clients do: a new upload.
  async blob(name, bytes, way) {
    for (let tries = 1; ; tries++) {
      try {
        return await this.#blob(name, bytes, way);
      } catch (error) {
        if (tries === TRIES || !error.message.includes(": 503 instead")) throw error;
      }
    }
  }

  async #blob(name, bytes, way) {
    const digest = digestOf(bytes);
    let location = await this.location(name);
    if (way === "put") {
      const headers = { "content-type": "application/octet-stream" };
      await this.send(`PUT ${location}&digest=${digest}`, 201, { body: bytes, headers });
      return;
    }
    const stream = () => new Blob([bytes]).stream();
    const patched = await this.send(`PATCH ${location}`, 202, { stream, once: true });
    location = patched.headers.get("location");
    await this.send(`PUT ${location}&digest=${digest}`, 201);
  }

  async manifest(name, tag, { manifest }) {
    const headers = { "content-type": MANIFEST };
    await this.send(`PUT /v2/${name}/manifests/${tag}`, 201, { body: manifest, headers });
  }

  // Layers, some at once, then the config, then the manifest.
  async push(name, tag, image, way, slots = SLOTS) {
    const queue = [...image.layers];
    await Promise.all(
      Array.from({ length: slots }, async () => {
        for (let bytes; (bytes = queue.shift());) {
          await this.at(image.layers.length - queue.length).blob(name, bytes, way);
        }
      }),
    );
    await this.at("config").blob(name, image.config, way);
    await this.at("manifest").manifest(name, tag, image);
  }

  // The manifest by tag and by digest, then config and layers, some at once. Throws if a byte is wrong.
  async pull(name, tag, image, slots = SLOTS) {
    await this.at("manifest").send(`HEAD /v2/${name}/manifests/${tag}`, 200);
    await this.at("manifest").get(`/v2/${name}/manifests/${image.digest}`, image.digest);
    const queue = [image.config, ...image.layers].map((bytes) => digestOf(bytes));
    await Promise.all(
      Array.from({ length: slots }, async () => {
        for (let digest; (digest = queue.shift());) {
          await this.at(image.layers.length + 1 - queue.length).get(`/v2/${name}/blobs/${digest}`, digest);
        }
      }),
    );
  }

  async get(target, digest) {
    const answer = await this.send(`GET ${target}`, 200);
    if (digestOf(Buffer.from(await answer.arrayBuffer())) !== digest) throw new Error(`wrong bytes: ${target}`);
  }
}

// The waiting on the critical path of a push or a pull, in milliseconds. Requests about one layer follow one another:
// their waiting adds up. Layers run in order, `slots` at a time, each in the slot that is free first, as if bandwidth
// and processors cost no time. Config and manifest follow. The waiting of a request is that of its longest chain of
// calls to R2, an object, S3, KV and the Cache API, and of its sleeps between two attempts: see `cost`.
export function criticalPath(requests, slots = SLOTS) {
  const waiting = new Map();
  for (const request of requests) waiting.set(request.slot, (waiting.get(request.slot) ?? 0) + cost(request).waiting);
  const layers = [...waiting].filter(([slot]) => typeof slot === "number").sort(([a], [b]) => a - b);
  const ends = Array(slots).fill(0);
  for (const [, time] of layers) ends[ends.indexOf(Math.min(...ends))] += time;
  return Math.max(...ends) + (waiting.get("config") ?? 0) + (waiting.get("manifest") ?? 0);
}

// The rounds of a blob over its requests, or only those after its last byte was read.
export function roundsOf(requests, { afterLastByte = false } = {}) {
  const since = (request) => (afterLastByte && request.lastByte) || 0;
  return requests.reduce((sum, request) => sum + rounds(inTime(request, since(request))), 0);
}
