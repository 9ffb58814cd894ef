// Copies a registry into a folder, in the layout of Docker's registry: `npm run export -- help`. See docs/settling.md.
import { spawnSync } from "node:child_process";
import { createHash, createHmac } from "node:crypto";
import { createWriteStream, existsSync } from "node:fs";
import { mkdir, mkdtemp, rename, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { Readable, Transform } from "node:stream";
import { pipeline } from "node:stream/promises";
import { parseArgs } from "node:util";

const HELP = `Usage: npm run export -- <folder> [options]

Copies docker/registry/v2/ into the folder, and checks the digest of all bytes. Repeat it to go on after an interruption,
or to copy what is new: bytes that are there are not copied again.

  --from <folder>  the folder of a local registry, which must not be running; default: .pierhead

With S3_ENDPOINT, S3_BUCKET, S3_ACCESS_KEY_ID, S3_SECRET_ACCESS_KEY and perhaps S3_REGION in the environment, the registry
is in that bucket. For R2, the endpoint is https://<account>.r2.cloudflarestorage.com.`;

const ROOT = "docker/registry/v2/";
const DESCRIPTORS = "pierhead/descriptors/";

// Objects that are copied at the same time, and attempts to copy one.
const CONCURRENCY = 6;
const TRIES = 5;

class Failure extends Error {}

// The bucket of a local registry, through the simulator.
class LocalBucket {
  static async open(folder) {
    if (!existsSync(path.join(folder, "v3/r2"))) throw new Failure(`there is no local registry in ${folder}`);
    // `npm start` holds this lock for as long as it runs.
    const lock = path.join(folder, "lock");
    if (existsSync(lock) && spawnSync("flock", ["-n", lock, "true"]).status === 1) {
      throw new Failure(`the registry in ${folder} is running: stop it first`);
    }
    const { getPlatformProxy } = await import("wrangler");
    const bucket = new LocalBucket();
    bucket.settings = await mkdtemp(path.join(tmpdir(), "pierhead-export-"));
    const configPath = path.join(bucket.settings, "wrangler.toml");
    await writeFile(configPath, 'name = "export"\n[[r2_buckets]]\nbinding = "BUCKET"\nbucket_name = "pierhead"\n');
    bucket.platform = await getPlatformProxy({ configPath, persist: { path: path.resolve(folder, "v3") } });
    bucket.binding = bucket.platform.env.BUCKET;
    return bucket;
  }

  async *list(prefix) {
    for (let cursor; ;) {
      const page = await this.binding.list({ prefix, cursor });
      yield* page.objects.map(({ key, size }) => ({ key, size }));
      if (!page.truncated) return;
      cursor = page.cursor;
    }
  }

  async read(key) {
    const object = await this.binding.get(key);
    return object && Readable.fromWeb(object.body);
  }

  async close() {
    await this.platform.dispose();
    await rm(this.settings, { recursive: true, force: true });
  }
}

// A bucket of S3, R2 or a compatible store. Requests are signed with AWS Signature Version 4.
class S3Bucket {
  constructor(env) {
    for (const name of ["S3_ENDPOINT", "S3_BUCKET", "S3_ACCESS_KEY_ID", "S3_SECRET_ACCESS_KEY"]) {
      if (!env[name]) throw new Failure(`set ${name}`);
    }
    this.url = new URL(env.S3_ENDPOINT);
    this.bucket = env.S3_BUCKET;
    this.region = env.S3_REGION || "auto";
    this.id = env.S3_ACCESS_KEY_ID;
    this.secret = env.S3_SECRET_ACCESS_KEY;
  }

  async #get(key, query = {}) {
    const encode = (text) => encodeURIComponent(text).replace(/[!'()*]/g, (c) => `%${c.charCodeAt().toString(16)}`);
    const parts = [...this.url.pathname.split("/").filter(Boolean), this.bucket, ...(key ? key.split("/") : [])];
    const pathname = `/${parts.map(encode).join("/")}`;
    const sorted = Object.entries(query).sort(([a], [b]) => (a < b ? -1 : 1));
    const search = sorted.map(([name, value]) => `${encode(name)}=${encode(value)}`).join("&");
    const date = new Date().toISOString().replace(/[-:]|\.\d+/g, "");
    const scope = `${date.slice(0, 8)}/${this.region}/s3/aws4_request`;
    const headers = { host: this.url.host, "x-amz-content-sha256": "UNSIGNED-PAYLOAD", "x-amz-date": date };
    const names = Object.keys(headers).join(";");
    const lines = Object.entries(headers).map(([name, value]) => `${name}:${value}\n`);
    const canonical = ["GET", pathname, search, lines.join(""), names, "UNSIGNED-PAYLOAD"].join("\n");
    const hash = createHash("sha256").update(canonical).digest("hex");
    const hmac = (key, text) => createHmac("sha256", key).update(text).digest();
    const signing = scope.split("/").reduce(hmac, `AWS4${this.secret}`);
    const signature = hmac(signing, ["AWS4-HMAC-SHA256", date, scope, hash].join("\n")).toString("hex");
    headers.authorization = `AWS4-HMAC-SHA256 Credential=${this.id}/${scope}, SignedHeaders=${names}, Signature=${signature}`;
    delete headers.host;
    const answer = await fetch(new URL(`${pathname}?${search}`, this.url), { headers });
    if (answer.ok || (key && answer.status === 404)) return answer;
    const message = (await answer.text()).match(/<Message>([^<]*)/)?.[1];
    throw new Error(`${key || "the listing"}: ${answer.status} ${message ?? ""}`.trimEnd());
  }

  async *list(prefix) {
    const unescape = (text) =>
      text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&quot;", '"').replaceAll("&amp;", "&");
    const element = (xml, name) => unescape(xml.match(new RegExp(`<${name}>([^<]*)</${name}>`))?.[1] ?? "");
    for (let token; ;) {
      const query = { "list-type": "2", prefix, ...(token && { "continuation-token": token }) };
      const xml = await again(async () => (await this.#get("", query)).text());
      for (const [, object] of xml.matchAll(/<Contents>(.*?)<\/Contents>/gs)) {
        yield { key: element(object, "Key"), size: Number(element(object, "Size")) };
      }
      token = element(xml, "NextContinuationToken");
      if (!token) return;
    }
  }

  async read(key) {
    const answer = await this.#get(key);
    if (answer.status === 404) {
      await answer.arrayBuffer();
      return null;
    }
    return Readable.fromWeb(answer.body);
  }

  async close() {}
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

// Repeats what failed for a moment.
async function again(attempt) {
  for (let tries = 1; ; tries++) {
    try {
      return await attempt();
    } catch (error) {
      if (error instanceof Failure || tries === TRIES) throw error;
      await pause(500 * 2 ** tries);
    }
  }
}

// The digest in the key of bytes.
function digestOf(key) {
  const [, algorithm, hex] = key.match(/\/blobs\/(sha256|sha512)\/..\/([0-9a-f]+)\/data$/) ?? [];
  return hex && { algorithm, hex };
}

class Export {
  constructor(bucket, folder) {
    this.bucket = bucket;
    this.folder = folder;
    this.counts = { links: 0, blobs: 0, bytes: 0, present: 0 };
    this.failures = [];
  }

  // Copies an object to a key of the folder. Nothing incomplete or wrong gets its name.
  async copy(from, key) {
    const file = path.join(this.folder, key);
    if (!path.resolve(file).startsWith(path.resolve(this.folder, ROOT))) throw new Failure(`${key} is no path`);
    await mkdir(path.dirname(file), { recursive: true });
    const source = await this.bucket.read(from);
    // It was deleted since it was listed.
    if (!source) return;
    const digest = digestOf(key);
    const hash = createHash(digest?.algorithm ?? "sha256");
    let size = 0;
    const hashing = new Transform({
      transform(chunk, _, done) {
        size += chunk.length;
        hash.update(chunk);
        done(null, chunk);
      },
    });
    try {
      await pipeline(source, hashing, createWriteStream(`${file}.part`));
      if (digest && hash.digest("hex") !== digest.hex) throw new Error(`${from}: the bytes have another digest`);
      await rename(`${file}.part`, file);
    } catch (error) {
      await rm(`${file}.part`, { force: true });
      throw error;
    }
    if (digest) this.counts.blobs++;
    else this.counts.links++;
    this.counts.bytes += size;
  }

  async has(key, size) {
    const found = await stat(path.join(this.folder, key)).catch(() => null);
    const isThere = found?.isFile() && (size === undefined || found.size === size);
    if (isThere) this.counts.present++;
    return isThere;
  }

  // Does something for each object below a prefix, a few at a time. One bad object keeps none of the others.
  async each(prefix, work) {
    const busy = new Set();
    for await (const object of this.bucket.list(prefix)) {
      const task = again(() => work(object))
        .catch((error) => this.failures.push(error.message))
        .finally(() => busy.delete(task));
      busy.add(task);
      if (busy.size >= CONCURRENCY) await Promise.race(busy);
    }
    await Promise.all(busy);
  }

  async run() {
    // Links first: what they name is there when the bytes are listed.
    await this.each(`${ROOT}repositories/`, ({ key }) => this.copy(key, key));
    await this.each(`${ROOT}blobs/`, async ({ key, size }) => {
      if (digestOf(key) && !(await this.has(key, size))) await this.copy(key, key);
    });
    // The bytes of what is not settled are elsewhere.
    await this.each(DESCRIPTORS, async ({ key }) => {
      const [algorithm, hex] = key.slice(DESCRIPTORS.length).split("/");
      const data = `${ROOT}blobs/${algorithm}/${hex.slice(0, 2)}/${hex}/data`;
      const descriptor = await this.bucket.read(key);
      if (!descriptor) return;
      const { at, size } = JSON.parse((await descriptor.toArray()).join(""));
      if (at && !(await this.has(data, size))) await this.copy(at, data);
    });
  }
}

async function main() {
  const options = { from: { type: "string", default: ".pierhead" }, help: { type: "boolean", short: "h" } };
  let parsed;
  try {
    parsed = parseArgs({ allowPositionals: true, options });
  } catch (error) {
    throw new Failure(`${error.message}\n\n${HELP}`);
  }
  const { values, positionals } = parsed;
  if (values.help || positionals[0] === "help") return console.log(HELP);
  if (positionals.length !== 1) throw new Failure(HELP);
  const bucket = process.env.S3_ENDPOINT ? new S3Bucket(process.env) : await LocalBucket.open(values.from);
  try {
    const copying = new Export(bucket, positionals[0]);
    await copying.run();
    const { failures, counts } = copying;
    const { links, blobs, bytes, present } = counts;
    console.log(`copied ${links} links, ${blobs} blobs and manifests, ${bytes} bytes; ${present} were there`);
    for (const failure of failures) console.error(failure);
    if (failures.length > 0) process.exitCode = 1;
  } finally {
    await bucket.close();
  }
}

main().catch((error) => {
  if (!(error instanceof Failure)) throw error;
  console.error(error.message);
  process.exitCode = 1;
});
