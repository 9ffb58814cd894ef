// Pulls that stay near, behind a played Workers Caching: what a warm pull costs, and how old an answer can be.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, test } from "node:test";
import { Registry, digestOf, MANIFEST } from "../support/registry.mjs";

const ENTRY = "tests/support/edge/near-entry.mjs";
const BOUND = 60;
const FAR = { r2: 80, object: 60, cached: 5 };
const ZERO = { r2: 0, object: 0, cached: 0 };

const VARS = { ANONYMOUS: "push", DIGEST_CACHE_SECONDS: String(BOUND) };

let registry;
before(async () => {
  registry = await Registry.start({ main: ENTRY, vars: { ...VARS, TAG_CACHE_SECONDS: String(BOUND) } });
});
after(() => registry.stop());

async function near(order, on = registry, center = "a") {
  const method = order ? "PUT" : "GET";
  const body = order && JSON.stringify(order);
  return (await on.expect(`${method} /v2/_near?center=${center}`, 200, { body })).json();
}

// Replaces the WebAssembly instance, so that only the played cache remembers anything.
async function newIsolate(on = registry) {
  const answer = await on.fetch("/v2/_test/panic");
  assert.equal(answer.status, 500);
  await answer.arrayBuffer();
}

const from = (center, headers = {}) => ({ headers: { "x-data-center": center, ...headers } });

async function statusOf(target, center = "a", method = "GET", headers = {}) {
  const answer = await registry.fetch(target, { method, ...from(center, headers) });
  const body = Buffer.from(await answer.arrayBuffer());
  return { status: answer.status, body, answer };
}

async function waitFor(condition, what) {
  for (let tries = 0; tries < 200; tries++) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  assert.fail(`never: ${what}`);
}

// The purges so far have been made.
const purged = async (count) => waitFor(async () => ((await near()).counts.Facts?.purge ?? 0) >= count, "the purge");

const SIZES = [3_000_000, 1_000_000, 200_000, 50_000, 5_000, 8_000_000, 2_000, 100, 40_000, 700_000];

async function pushLargeImage(on, name) {
  const layers = SIZES.map((size) => randomBytes(size));
  const config = Buffer.from(
    JSON.stringify({ architecture: "amd64", os: "linux", random: randomBytes(8).toString("hex") }),
  );
  const describe = (mediaType, bytes) => ({ mediaType, digest: digestOf(bytes), size: bytes.length });
  for (const blob of [config, ...layers]) await on.pushBlob(name, blob);
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MANIFEST,
      config: describe("application/vnd.oci.image.config.v1+json", config),
      layers: layers.map((layer) => describe("application/vnd.oci.image.layer.v1.tar", layer)),
    }),
  );
  await on.pushManifest(name, "v1", manifest);
  // The registry tidies up after uploads a second later.
  await new Promise((resolve) => setTimeout(resolve, 2_000));
  return manifest;
}

// Pulls as docker does: the manifest by tag, then config and layers, five at a time. Returns the waiting on the
// critical path, the calls to bindings, and the cached calls.
async function pull(on, name) {
  const start = await near(undefined, on);
  const get = async (path) => {
    const answer = await on.expect(`GET /v2/${name}/${path}`, 200);
    const bytes = Buffer.from(await answer.arrayBuffer());
    const [took, calls] = ["x-took", "x-calls"].map((name) => Number(answer.headers.get(name)));
    return { bytes, took, calls };
  };
  const manifest = await get("manifests/v1");
  const { config, layers } = JSON.parse(manifest.bytes);
  const blobs = [config, ...layers];
  const lanes = await Promise.all(
    Array.from({ length: 5 }, async () => {
      const sum = { took: manifest.took, calls: manifest.calls };
      for (let blob = blobs.shift(); blob; blob = blobs.shift()) {
        const found = await get(`blobs/${blob.digest}`);
        assert.equal(digestOf(found.bytes), blob.digest);
        sum.took += found.took;
        sum.calls += found.calls;
      }
      return sum;
    }),
  );
  const longest = (what) => Math.max(...lanes.map((lane) => lane[what]));
  const end = await near(undefined, on);
  const total = (counts) =>
    Object.values(counts).reduce((sum, { hit, miss, bypass, collapsed }) => sum + hit + miss + bypass + collapsed, 0);
  const far = end.far.r2 + end.far.object - start.far.r2 - start.far.object;
  return {
    far,
    cached: total(end.counts) - total(start.counts),
    // What a pull with few far calls waits for: they are on the critical path, and so are the longest lane's calls.
    waited: far * FAR.r2 + longest("calls") * FAR.cached,
    took: longest("took"),
  };
}

test("a warm pull makes no far call", async () => {
  await pushLargeImage(registry, "large");
  // The isolate of the push remembers the manifest.
  await newIsolate();
  await near({ distances: FAR });
  try {
    const cold = await pull(registry, "large");
    await newIsolate();
    const otherIsolate = await pull(registry, "large");
    const warm = await pull(registry, "large");
    console.log(JSON.stringify({ cold, otherIsolate, warm }));
    // Memory knows what the repository has: the bytes of config and layers are 11 calls.
    assert.deepEqual([warm.far, warm.cached], [0, 11]);
    assert.ok(warm.waited <= 75, `${warm.waited} ms`);
    // Otherwise a request asks twice.
    assert.deepEqual([otherIsolate.far, otherIsolate.cached], [0, 24]);
    assert.ok(otherIsolate.waited <= 75, `${otherIsolate.waited} ms`);
    assert.ok(cold.far <= 24, `${cold.far} far calls`);
  } finally {
    await near({ distances: ZERO });
  }
});

test("with strict tags, a warm pull makes one far call", async () => {
  const strict = await Registry.start({ main: ENTRY, vars: VARS });
  try {
    await pushLargeImage(strict, "large");
    await near({ distances: FAR }, strict);
    await pull(strict, "large");
    const warm = await pull(strict, "large");
    console.log(JSON.stringify({ strictTags: warm }));
    assert.equal(warm.far, 1);
    assert.ok(warm.waited <= 75 + 80, `${warm.waited} ms`);
  } finally {
    await strict.stop();
  }
});

test("answers of the default entry point are never to be cached", async () => {
  const { digest, layer } = await registry.pushImage("never", "v1");
  for (const path of ["/v2/", "/v2/never/manifests/v1", `/v2/never/manifests/${digest}`, `/v2/never/blobs/${layer}`]) {
    const { status, answer } = await statusOf(path);
    assert.equal(status, 200);
    assert.equal(answer.headers.get("cloudflare-cdn-cache-control"), "no-store", path);
    assert.equal(answer.headers.get("cf-cache-status"), null);
  }
  // The paths of the inner entry points lead nowhere.
  for (const path of [`/facts/blobs/${layer}/never`, `/blobs/${layer}`, `/v2/facts/blobs/${layer}/never`]) {
    const answer = await registry.fetch(path, { headers: { host: "inner" } });
    assert.equal(answer.status, 404, path);
    await answer.arrayBuffer();
  }
});

// Each `change` is made in data centre `b`, while `a` has the old answers in its cache.
async function changed(name, { purge, order = {} }) {
  const { layer, digest, manifest } = await registry.pushImage(name, "v1");
  const next = await registry.pushImage(name, "v2");
  await newIsolate();
  const targets = [`/v2/${name}/blobs/${layer}`, `/v2/${name}/manifests/v1`, `/v2/${name}/manifests/${digest}`];
  await near({ moods: { purge, ...order } });
  const before = (await near()).counts.Facts;
  for (const target of targets) assert.equal((await statusOf(target)).status, 200);
  await registry.expect(`DELETE ${targets[0]}`, 202, from("b"));
  await registry.expect(`DELETE ${targets[2]}`, 202, from("b"));
  await registry.pushManifest(name, "v1", next.manifest);
  const made = async () => {
    const { purge, refused } = (await near()).counts.Facts;
    return purge + refused > before.purge + before.refused;
  };
  await waitFor(made, "the purge");
  // The isolate that made the change knows of it: ask another one.
  const see = async (center = "a") => {
    await newIsolate();
    const found = [];
    for (const target of targets) found.push(await statusOf(target, center));
    const isOld = found[1].body.equals(manifest);
    assert.ok(isOld || found[1].body.equals(next.manifest));
    return [found[0].status, isOld ? "old" : "new", found[2].status];
  };
  return { see, targets, next };
}

const OLD = [200, "old", 200];
const NEW = [404, "new", 404];
const prompt = { purge: "prompt", delay: 0, hold: false, forgetsAge: false };

test("no answer is older than its bound if the purge is lost or refused", async () => {
  for (const [name, purge, forgetsAge] of [
    ["lost", "lost", false],
    ["refused", "refused", false],
    ["forgetful", "lost", true],
  ]) {
    const { see } = await changed(name, { purge, order: { forgetsAge } });
    assert.deepEqual(await see(), OLD);
    await near({ ahead: BOUND - 10 });
    assert.deepEqual(await see(), OLD);
    await near({ ahead: 10 });
    assert.deepEqual(await see(), NEW);
    assert.deepEqual(await see("b"), NEW);
    await near({ moods: prompt });
  }
});

test("a purge that is late takes effect when it arrives", async () => {
  const { see } = await changed("late", { purge: "late", order: { delay: 20 } });
  assert.deepEqual(await see(), OLD);
  await near({ ahead: 20 });
  // The later changes are purged with the next purge, a few seconds later.
  await waitFor(async () => {
    await near({ ahead: 20 });
    return (await see()).join() === NEW.join();
  }, "the purge");
  await near({ moods: prompt });
});

test("a purge makes other data centres see a change", async () => {
  const { see } = await changed("prompt", { purge: "prompt" });
  await waitFor(async () => (await see()).join() === NEW.join(), "the purge");
});

test("a fill under way during a purge is not kept past the bound", async () => {
  const { layer } = await registry.pushImage("flight", "v1");
  const target = `/v2/flight/blobs/${layer}`;
  await newIsolate();
  await near({ moods: { hold: true } });
  assert.equal((await statusOf(target)).status, 200);
  await newIsolate();
  const { purge } = (await near()).counts.Facts;
  await registry.expect(`DELETE ${target}`, 202, from("b"));
  await purged(purge + 1);
  // The answer is stored only now, with its full max-age.
  await near({ ahead: BOUND - 10, moods: { hold: false }, release: true });
  await newIsolate();
  assert.equal((await statusOf(target)).status, 200);
  await near({ ahead: 10 });
  await newIsolate();
  assert.equal((await statusOf(target)).status, 404);
});

test("the age of an answer counts from the start of its read", async () => {
  const { layer } = await registry.pushImage("slow", "v1");
  const target = `/v2/slow/blobs/${layer}`;
  await newIsolate();
  // The write of the tag's index may still be under way.
  await near({ moods: { purge: "lost" }, slow: { key: layer.split(":")[1], seconds: BOUND - 20 } });
  assert.equal((await statusOf(target)).status, 200);
  await registry.expect(`DELETE ${target}`, 202, from("b"));
  await newIsolate();
  assert.equal((await statusOf(target)).status, 200);
  await near({ ahead: 20 });
  await newIsolate();
  assert.equal((await statusOf(target)).status, 404);
  await near({ moods: prompt });
});

test("checks read the store, and absence is not cached", async () => {
  const { layer, digest } = await registry.pushImage("checks", "v1");
  const blob = `/v2/checks/blobs/${layer}`;
  const byDigest = `/v2/checks/manifests/${digest}`;
  await newIsolate();
  for (const target of [blob, byDigest]) assert.equal((await statusOf(target)).status, 200);
  await near({ moods: { purge: "lost" } });
  for (const target of [blob, byDigest]) await registry.expect(`DELETE ${target}`, 202, from("b"));
  await newIsolate();
  for (const target of [blob, byDigest]) {
    assert.equal((await statusOf(target, "a", "HEAD")).status, 404);
    assert.equal((await statusOf(target, "a", "GET", { "cache-control": "no-cache" })).status, 404);
    assert.equal((await statusOf(target)).status, 200, "within the bound");
    assert.equal((await statusOf(target.replace("checks", "other"))).status, 404);
  }
  await registry.expect(`POST /v2/other/blobs/uploads/?mount=${layer}&from=checks`, 202);

  const bytes = randomBytes(1000);
  const later = `/v2/checks/blobs/${digestOf(bytes)}`;
  for (const center of ["a", "b"]) assert.equal((await statusOf(later, center)).status, 404);
  await registry.pushBlob("checks", bytes);
  for (const center of ["a", "b"]) assert.equal((await statusOf(later, center)).status, 200);
  await near({ moods: prompt });
});

test("ranges come from the whole, and concurrent pulls read it once", async () => {
  const bytes = randomBytes(300_000);
  const digest = await registry.pushBlob("whole", bytes);
  const target = `/v2/whole/blobs/${digest}`;
  const range = { range: "bytes=1000-1999" };
  const miss = (await near()).counts.Blobs.miss;
  await near({ distances: { r2: 20 } });
  const answers = await Promise.all(Array.from({ length: 8 }, () => statusOf(target)));
  await near({ distances: ZERO });
  for (const { status, body } of answers) assert.ok(status === 200 && body.equals(bytes));
  assert.equal((await near()).counts.Blobs.miss, miss + 1);
  const part = await statusOf(target, "a", "GET", range);
  assert.ok(part.status === 206 && part.body.equals(bytes.subarray(1000, 2000)));
  assert.equal(part.answer.headers.get("cf-cache-status"), null);
  assert.equal((await near()).counts.Blobs.miss, miss + 1);

  // What the cache refuses or has evicted comes from the store.
  for (const order of [{ clear: true, moods: { limit: 1000 } }, { moods: { limit: 512e6, capacity: 10 } }]) {
    await near(order);
    assert.ok((await statusOf(target)).body.equals(bytes));
    assert.ok((await statusOf(target, "b", "GET", range)).body.equals(bytes.subarray(1000, 2000)));
  }
  await near({ moods: { capacity: 1e9 } });
});

test("purges are coalesced", async () => {
  const { manifest } = await registry.pushImage("coalesced", "v0");
  await near({ ahead: 600 });
  const { purge, refused } = (await near()).counts.Facts;
  for (let n = 0; n < 20; n++) await registry.pushManifest("coalesced", `v${n}`, manifest);
  await purged(purge + 1);
  await new Promise((resolve) => setTimeout(resolve, 6_000));
  const counts = (await near()).counts.Facts;
  assert.ok(counts.purge <= purge + 3, `${counts.purge - purge} purges`);
  assert.equal(counts.refused, refused);
});

test("without Workers Caching, the registry works and says so once", async () => {
  const plain = await Registry.start({ vars: { ...VARS, TAG_CACHE_SECONDS: String(BOUND) } });
  try {
    const { layer, manifest } = await plain.pushImage("plain", "v1");
    for (let n = 0; n < 3; n++) {
      await (await plain.expect(`GET /v2/plain/blobs/${layer}`, 200)).arrayBuffer();
      const answer = await plain.expect("GET /v2/plain/manifests/v1", 200);
      assert.ok(Buffer.from(await answer.arrayBuffer()).equals(manifest));
    }
    await waitFor(() => plain.log.includes("Workers Caching"), "the line");
    assert.equal(plain.log.split("Workers Caching is not available").length, 2);
  } finally {
    await plain.stop();
  }
});
