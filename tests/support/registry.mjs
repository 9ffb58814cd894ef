// Starts the registry in workerd through wrangler, as `npm start` does, with its own port and folder, by default on
// the strict edge: see tests/support/edge/.
import { spawn } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import path from "node:path";
import { getPlatformProxy } from "wrangler";
import { findCredentials, worker } from "./credentials.mjs";
import { cost } from "./edge/measure.mjs";

export const root = fileURLToPath(new URL("../..", import.meta.url));
export const PART = 8 * 1024 * 1024;

// Each test process takes its ports from a window of its own, below the range from which the system picks the
// ports of outgoing connections: a port stays free until the server that was given it listens.
const WINDOW = 24;
const firstPort = 20_000 + (process.pid % 500) * WINDOW;
let given = 0;

export async function freePort() {
  for (let tries = 0; tries < WINDOW; tries++) {
    const port = firstPort + (given++ % WINDOW);
    const server = createServer();
    const free = await new Promise((resolve) => {
      server.once("error", () => resolve(false));
      server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
    });
    if (free) return port;
  }
  throw new Error(`no free port between ${firstPort} and ${firstPort + WINDOW}`);
}

export async function temporaryFolder() {
  const folder = path.join(root, "tests/.tmp");
  await mkdir(folder, { recursive: true });
  return mkdtemp(path.join(folder, "t-"));
}

const PLAIN = "src/cloudflare/entry.mjs";
const STRICT = "tests/support/edge/entry.mjs";

// For tests that fail to log in more often than the limit allows an address: see `toml` of Registry.start.
export const withoutLoginLimit = (toml) => toml.replace(/^\[\[ratelimits\]\]\n(.+\n)+/m, "");

// Writes a copy of wrangler.toml that uses the worker as built and absolute paths.
async function configuration(folder, vars, main, checkout, change) {
  const toml = change(await readFile(path.join(checkout, "wrangler.toml"), "utf8"))
    .replace(/\[build\][^[]*/, 'compatibility_flags = ["nodejs_als"]\n\n')
    .replace(/^main = .*$/m, `main = ${JSON.stringify(path.resolve(checkout, main))}`)
    .replace('"./www"', JSON.stringify(path.join(checkout, "www")));
  const file = path.join(folder, "wrangler.toml");
  const settings = Object.entries(vars).map(([name, value]) => `${name} = ${JSON.stringify(value)}`);
  await writeFile(file, toml.replace(/\[vars\][^]*$/, `[vars]\n${settings.join("\n")}\n`));
  return file;
}

// The strict edge's entry point in another checkout: its own, or for one from before there was an edge, this one's
// over the other's worker.
async function strictEntry(folder, checkout) {
  if (existsSync(path.join(checkout, STRICT))) return STRICT;
  const worker = await readFile(path.join(checkout, PLAIN), "utf8");
  const isThere = (line) => worker.includes(line.match(/^export const (\w+)/)?.[1] ?? "");
  const entry = (await readFile(path.join(root, STRICT), "utf8"))
    .split("\n")
    .filter(isThere)
    .join("\n")
    .replace('"../../../src/', `"${checkout}/src/`)
    .replaceAll('"./', `"${path.join(root, path.dirname(STRICT))}/`);
  const file = path.join(folder, "entry.mjs");
  await writeFile(file, entry);
  return file;
}

// The password of the user admin, where requests need a proof of who they come from.
const PASSWORD = "correct horse battery";

export class Registry {
  // `proof` is how requests prove that, unless they say so themselves: "basic" or "bearer"; without it, anybody may push.
  // `edge` are rules of the strict edge, or `false` for the plain simulator; `main` is another entry point, and
  // `config` starts another worker instead. `checkout` is the folder of another version of the registry. `toml` changes
  // its wrangler.toml.
  static async start({
    proof,
    vars = proof ? { ADMIN_PASSWORD: PASSWORD } : { ANONYMOUS: "push" },
    folder,
    config,
    edge = {},
    main,
    checkout = root,
    toml = (text) => text,
  } = {}) {
    const registry = new Registry();
    registry.toml = toml;
    registry.proof = proof;
    registry.config = config;
    registry.isStrict = edge !== false && !config;
    // EDGE_RULE takes another rule for tests that name none.
    registry.rules = { ...(process.env.EDGE_RULE && { rule: process.env.EDGE_RULE }), ...edge };
    registry.folder = folder ?? (await temporaryFolder());
    registry.checkout = checkout;
    registry.main = main ?? (registry.isStrict ? await strictEntry(registry.folder, checkout) : PLAIN);
    registry.vars = { SIGNING_SECRET: "generated", ...vars };
    registry.port = await freePort();
    registry.host = `localhost:${registry.port}`;
    registry.url = `http://127.0.0.1:${registry.port}`;
    await registry.run();
    return registry;
  }

  async run() {
    const vars = { ...this.vars };
    if (this.isStrict) vars.EDGE_STATE = JSON.stringify({ rules: this.rules, state: this.edgeState });
    const config = this.config ?? (await configuration(this.folder, vars, this.main, this.checkout, this.toml));
    const options = ["dev", "-c", config, "--ip", "127.0.0.1", "--port", String(this.port)];
    options.push("--inspector-port", String(await freePort()), "--persist-to", path.join(this.folder, "state"));
    this.log = "";
    this.process = spawn(path.join(root, "node_modules/.bin/wrangler"), options, {
      cwd: this.folder,
      stdio: ["ignore", "pipe", "pipe"],
      detached: true,
      env: { ...process.env, CI: "true", WRANGLER_SEND_METRICS: "false", NO_COLOR: "1" },
    });
    for (const output of [this.process.stdout, this.process.stderr]) output.on("data", (data) => (this.log += data));
    const deadline = Date.now() + 60_000;
    while (Date.now() < deadline) {
      if (this.process.exitCode !== null) break;
      const answer = await fetch(`${this.url}/v2/`, { signal: AbortSignal.timeout(20_000) }).catch(() => null);
      await answer?.arrayBuffer();
      if (answer && (this.config || answer.headers.get("content-type") === "application/json")) return;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    await this.kill();
    throw new Error(`the registry did not start:\n${this.log}`);
  }

  // Opens the registry's bucket. The registry must not be running.
  async withBucket(use) {
    const configPath = path.join(this.folder, "bucket.toml");
    await writeFile(configPath, 'name = "bucket"\n[[r2_buckets]]\nbinding = "BUCKET"\nbucket_name = "pierhead"\n');
    const platform = await getPlatformProxy({ configPath, persist: { path: path.join(this.folder, "state/v3") } });
    try {
      return await use(platform.env.BUCKET);
    } finally {
      await platform.dispose();
    }
  }

  // Kills the runtime's process group at once, like a crash.
  async kill() {
    await this.#control("GET").catch(() => {});
    if (this.process.exitCode === null && this.process.signalCode === null) {
      const ended = new Promise((resolve) => this.process.once("exit", resolve));
      process.kill(-this.process.pid, "SIGKILL");
      await ended;
    }
    this.leak ??= findCredentials(worker(this.log), this.vars);
  }

  async restart() {
    await this.kill();
    await this.run();
  }

  async stop() {
    await this.kill();
    await rm(this.folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
    if (this.misuse) throw new Error(`the worker misused the platform: ${this.misuse}`);
    if (this.leak) throw new Error(`the log holds a credential: ${this.leak}`);
  }

  // Asks the strict edge's control endpoint, and keeps what a restart must not lose.
  async #control(method, query = "", body = undefined) {
    if (!this.isStrict) return null;
    // Alarms that are due may have much to do.
    const signal = AbortSignal.timeout(method === "POST" ? 60_000 : 5000);
    const answer = await fetch(`${this.url}/v2/_edge${query}`, {
      method,
      ...(body && { body: JSON.stringify(body) }),
      signal,
    });
    const result = await answer.json();
    if (result.error) throw new Error(result.error);
    this.edgeState = result.state;
    const { unknown, orphans, overloadedRetries } = result.misuse;
    if (unknown.length + orphans.length + overloadedRetries > 0) this.misuse = JSON.stringify(result.misuse);
    return result;
  }

  // Sets the rules of the strict edge: see tests/support/edge/rules.mjs. Counters and log start anew.
  edge(rules = {}) {
    this.rules = { ...(process.env.EDGE_RULE && { rule: process.env.EDGE_RULE }), ...rules };
    return this.#control("PUT", "", this.rules);
  }

  // The strict edge's counters and its log of requests, since the rules were set.
  edgeLog() {
    return this.#control("GET", "?log");
  }

  // How many calls the strict edge holds, by the name of their fault.
  async held() {
    return (await this.#control("GET")).held;
  }

  // Moves the clock; alarms that are due have run afterwards.
  advance(seconds) {
    return this.#control("POST", `?advance=${seconds}`);
  }

  // The time in the worker, in milliseconds.
  async now() {
    return (await this.#control("GET")).now;
  }

  // Sends a request with rules of its own. Returns its answer, and its rounds, waiting and calls: see
  // tests/support/edge/measure.mjs.
  async rounds(line, { rules = {}, status, ...options } = {}) {
    const [method, target] = line.split(" ");
    const tag = randomBytes(8).toString("hex");
    const headers = { ...options.headers, "x-edge": JSON.stringify({ ...rules, tag }) };
    const answer = await this.fetch(target, { method, ...options, headers });
    if (status && answer.status !== status) throw new Error(`${line}: ${answer.status}: ${await answer.text()}`);
    const body = Buffer.from(await answer.arrayBuffer());
    const request = (await this.edgeLog()).log.find((request) => request.tag === tag);
    return { answer, body, request, ...cost(request) };
  }

  async fetch(target, options = {}) {
    const url = new URL(target, this.url);
    const headers = { "accept-encoding": "identity", ...(await this.authorization(target)), ...options.headers };
    return fetch(url, { redirect: "manual", ...options, headers });
  }

  // The header that proves who a request comes from: a password, or a token for the repository.
  async authorization(target) {
    if (!this.proof) return {};
    const basic = { authorization: `Basic ${Buffer.from(`admin:${PASSWORD}`).toString("base64")}` };
    if (this.proof === "basic") return basic;
    const name = target.match(/^\/v2\/(.+)\/(blobs|manifests|tags|referrers)\//)?.[1];
    const scope = name ? `repository:${name}:*` : "registry:catalog:*";
    // Not kept: on the strict edge minutes may pass between two requests.
    const answer = await fetch(`${this.url}/token?scope=${scope}`, { headers: basic });
    return { authorization: `Bearer ${(await answer.json()).token}` };
  }

  // Sends a request; `line` is its method and target. Throws unless the answer has this status.
  async expect(line, status, options = {}) {
    const [method, target] = line.split(" ");
    const answer = await this.fetch(target, { method, ...options });
    if (answer.status !== status) {
      throw new Error(`${line}: ${answer.status} instead of ${status}: ${await answer.text()}`);
    }
    return answer;
  }

  async startUpload(name, query = "") {
    const answer = await this.expect(`POST /v2/${name}/blobs/uploads/${query}`, 202);
    return answer.headers.get("location");
  }

  async pushBlob(name, bytes, algorithm = "sha256") {
    const digest = digestOf(bytes, algorithm);
    const location = await this.startUpload(name);
    await this.expect(`PUT ${location}&digest=${digest}`, 201, { body: bytes });
    return digest;
  }

  // Pushes an image with one layer; returns its digests, its manifest and the manifest's size.
  async pushImage(name, reference, { layer = randomBytes(100), extra = {} } = {}) {
    const config = Buffer.from(
      JSON.stringify({ architecture: "amd64", os: "linux", random: randomBytes(8).toString("hex") }),
    );
    const describe = (mediaType, bytes) => ({ mediaType, digest: digestOf(bytes), size: bytes.length });
    await this.pushBlob(name, config);
    await this.pushBlob(name, layer);
    const manifest = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: MANIFEST,
        config: describe("application/vnd.oci.image.config.v1+json", config),
        layers: [describe("application/vnd.oci.image.layer.v1.tar", layer)],
        ...extra,
      }),
    );
    const digest = digestOf(manifest);
    await this.pushManifest(name, reference ?? digest, manifest);
    return { digest, manifest, config: digestOf(config), layer: digestOf(layer), size: manifest.length };
  }

  pushManifest(name, reference, manifest, type = MANIFEST) {
    return this.expect(`PUT /v2/${name}/manifests/${reference}`, 201, {
      body: manifest,
      headers: { "content-type": type },
    });
  }
}

export const MANIFEST = "application/vnd.oci.image.manifest.v1+json";
export const INDEX = "application/vnd.oci.image.index.v1+json";

export function digestOf(bytes, algorithm = "sha256") {
  return `${algorithm}:${createHash(algorithm).update(bytes).digest("hex")}`;
}

// The only error of an answer.
export async function errorOf(answer) {
  const { errors } = await answer.json();
  if (errors.length !== 1) throw new Error(`expected one error: ${JSON.stringify(errors)}`);
  return errors[0];
}
