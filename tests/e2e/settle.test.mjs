// Settling and export: blobs of several parts move to the place where Docker's registry looks for them, and it serves all
// of a copied bucket.
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { execFile } from "node:child_process";
import { readFile, readdir, rm, truncate, utimes } from "node:fs/promises";
import path from "node:path";
import { describe, test } from "node:test";
import { promisify } from "node:util";
import { dockerRegistry, needs, run } from "../support/clients.mjs";
import { writeLayout } from "../support/images.mjs";
import { INDEX, MANIFEST, PART, Registry, digestOf, root, temporaryFolder } from "../support/registry.mjs";
import { BUCKET, S3Server } from "../support/s3.mjs";

const HOUR = 3600;
const TYPES = [MANIFEST, INDEX].join(", ");

// Pushes a blob in chunks.
async function pushChunks(registry, name, bytes, sizes) {
  let location = await registry.startUpload(name);
  for (let from = 0, n = 0; from < bytes.length; n++) {
    const to = Math.min(bytes.length, from + sizes[n % sizes.length]);
    const answer = await registry.expect(`PATCH ${location}`, 202, {
      body: bytes.subarray(from, to),
      headers: { "content-range": `${from}-${to - 1}` },
    });
    location = answer.headers.get("location");
    from = to;
  }
  await registry.expect(`PUT ${location}&digest=${digestOf(bytes)}`, 201);
}

async function pushImage(registry, name, tag, layers, sizes) {
  const config = Buffer.from(JSON.stringify({ architecture: "amd64", os: "linux", of: `${name}:${tag}` }));
  await registry.pushBlob(name, config);
  for (const layer of layers) await pushChunks(registry, name, layer, sizes);
  const describe = (mediaType, bytes) => ({ mediaType, digest: digestOf(bytes), size: bytes.length });
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MANIFEST,
      config: describe("application/vnd.oci.image.config.v1+json", config),
      layers: layers.map((layer) => describe("application/vnd.oci.image.layer.v1.tar", layer)),
    }),
  );
  await registry.pushManifest(name, tag, manifest);
}

// Runs a job to its end; returns its totals.
async function runJob(registry, job) {
  for (;;) {
    const state = await (await registry.expect(`POST /v2/_pierhead/jobs/${job}/run`, 200)).json();
    if (!state.running) {
      assert.deepEqual(state.ended[0].failures, []);
      return state.ended[0].totals;
    }
  }
}

// Pulls everything from a registry: each manifest by tag and by digest, each blob; all verified. Returns the digests.
async function pullAll(url, images) {
  const pulled = new Set();
  const get = async (target, digest) => {
    const answer = await fetch(`${url}/v2/${target}`, { headers: { accept: TYPES } });
    const hash = createHash("sha256");
    const content = [];
    for await (const chunk of answer.body) {
      hash.update(chunk);
      content.push(chunk);
    }
    assert.equal(answer.status, 200, target);
    const found = `sha256:${hash.digest("hex")}`;
    if (digest) assert.equal(found, digest, target);
    pulled.add(found);
    return [found, Buffer.concat(content)];
  };
  const manifest = async (name, reference) => {
    const [digest, content] = await get(`${name}/manifests/${reference}`, reference.includes(":") && reference);
    const { config, layers = [], manifests = [] } = JSON.parse(content);
    for (const child of manifests) await manifest(name, child.digest);
    for (const blob of [config, ...layers].filter(Boolean)) await get(`${name}/blobs/${blob.digest}`, blob.digest);
    return digest;
  };
  for (const [name, tags] of Object.entries(images)) {
    const listed = await (await fetch(`${url}/v2/${name}/tags/list`)).json();
    assert.deepEqual(listed.tags.sort(), tags);
    for (const tag of tags) await manifest(name, await manifest(name, tag));
  }
  const catalog = await (await fetch(`${url}/v2/_catalog`)).json();
  // Docker's registry lists also those that have only blobs.
  const listed = catalog.repositories.filter((name) => name in images);
  assert.deepEqual(listed.sort(), Object.keys(images));
  return pulled;
}

// Runs `npm run export`; returns its exit code and what it prints.
async function exported(args, env = {}) {
  const command = promisify(execFile)(process.execPath, [path.join(root, "scripts/export.mjs"), ...args], {
    env: { PATH: process.env.PATH, HOME: process.env.HOME, WRANGLER_SEND_METRICS: "false", ...env },
  });
  const { code = 0, stdout, stderr } = await command.catch((error) => error);
  return { code, stdout, stderr };
}

const IMAGES = { "many/archs": ["v1"], "team/app": ["v1", "v2"], "team/other": ["v1"] };
const SHARED = randomBytes(2 * PART + 1);

// Images with layers of one to four parts, in chunks of these sizes; returns the number of blobs of several parts.
async function pushAll(registry, folder, sizes) {
  const layers = [randomBytes(100), SHARED, randomBytes(3 * PART + 12_345)];
  await pushImage(registry, "team/app", "v1", layers, sizes ?? [PART + 1, 5_000_000, PART]);
  await pushImage(registry, "team/app", "v2", [SHARED, randomBytes(PART + 1)], sizes ?? [3_000_000]);
  await pushImage(registry, "team/other", "v1", [SHARED], sizes ?? [20_000_000]);
  await writeLayout(path.join(folder, "many"), [1000, PART + 100_000], ["amd64", "arm64"]);
  const target = `docker://${registry.host}/many/archs:v1`;
  const copy = ["--insecure-policy", "copy", "--all", "--dest-tls-verify=false", `oci:${folder}/many:latest`, target];
  await run("skopeo", copy);
  return 5;
}

describe("settling", needs("docker-registry", "skopeo"), () => {
  test("docker-registry serves all of a bucket that was pushed in chunks", async () => {
    const folder = await temporaryFolder();
    const registry = await Registry.start();
    let theirs;
    try {
      const parts = await pushAll(registry, folder);
      await registry.advance(HOUR);
      const moved = await runJob(registry, "settle");
      assert.deepEqual([moved.settled, moved.removed], [parts, 0]);
      const before = await pullAll(registry.url, IMAGES);
      await registry.advance(HOUR + 60);
      const removed = await runJob(registry, "settle");
      assert.deepEqual([removed.settled, removed.removed], [0, parts]);
      assert.deepEqual(await pullAll(registry.url, IMAGES), before);
      for (const job of ["fsck", "scrub"]) assert.deepEqual((await runJob(registry, job)).damage, {}, job);
      // It goes on to be a registry: the same layers again, in one request, and elsewhere.
      await registry.pushBlob("team/third", SHARED);
      await registry.expect(`POST /v2/team/fourth/blobs/uploads/?mount=${digestOf(SHARED)}&from=team/app`, 201);

      await registry.kill();
      await registry.withBucket(async (bucket) => {
        for (const prefix of ["pierhead/blobs/", "pierhead/uploads/"]) {
          assert.deepEqual((await bucket.list({ prefix })).objects, [], prefix);
        }
      });
      const files = path.join(folder, "registry");
      const from = ["--from", path.join(registry.folder, "state")];
      const first = await exported([files, ...from]);
      assert.match(
        first.stdout,
        /^copied \d+ links, \d+ blobs and manifests, \d+ bytes; 0 were there\n$/,
        first.stderr,
      );
      theirs = await dockerRegistry(folder);
      assert.deepEqual(await pullAll(theirs.url, IMAGES), before);
      const target = `docker://${theirs.host}/many/archs:v1`;
      await run("skopeo", [
        "--insecure-policy",
        "copy",
        "--all",
        "--src-tls-verify=false",
        target,
        `dir:${folder}/back`,
      ]);
      await theirs.stop();

      // An interrupted export goes on: what is missing or cut off is copied again, and nothing else.
      const data = (bytes) => {
        const hex = digestOf(bytes).slice(7);
        return path.join(files, `docker/registry/v2/blobs/sha256/${hex.slice(0, 2)}/${hex}/data`);
      };
      await truncate(data(SHARED), 1000);
      const second = await exported([files, ...from]);
      assert.match(second.stdout, / links, 1 blobs and manifests, /, second.stderr);
      assert.equal(digestOf(await readFile(data(SHARED))), digestOf(SHARED));
    } finally {
      await theirs?.stop();
      await registry.stop();
      await rm(folder, { recursive: true, force: true });
    }
  });

  test("an S3 bucket settles, and is exported before and after", needs("s3s-fs"), async () => {
    const folder = await temporaryFolder();
    const s3 = await S3Server.start();
    const vars = { ANONYMOUS: "push", STORAGE: "s3", ...s3.vars };
    const registry = await Registry.start({ vars, edge: { leaps: false } });
    let theirs;
    try {
      // The server refuses gaps in the numbers of parts, which chunks of any size leave.
      const parts = await pushAll(registry, folder, [1 << 30]);
      const before = await pullAll(registry.url, IMAGES);
      const files = path.join(folder, "registry");
      // The bytes of several parts are elsewhere: the export finds them.
      const early = await exported([files], s3.vars);
      assert.equal(early.code, 0, early.stderr);
      theirs = await dockerRegistry(folder);
      assert.deepEqual(await pullAll(theirs.url, IMAGES), before);
      await theirs.stop();
      // The server refuses requests from another time, so the clock cannot be moved: what was pushed is made older.
      const descriptors = path.join(s3.folder, BUCKET, "pierhead/descriptors/sha256");
      const old = Date.now() / 1000 - HOUR;
      for (const name of await readdir(descriptors)) await utimes(path.join(descriptors, name), old, old);
      assert.equal((await runJob(registry, "settle")).settled, parts);
      assert.deepEqual(await pullAll(registry.url, IMAGES), before);
      const late = await exported([files], s3.vars);
      assert.match(late.stdout, / links, 0 blobs and manifests, /, late.stderr);
      await rm(files, { recursive: true });
      assert.equal((await exported([files], s3.vars)).code, 0);
      theirs = await dockerRegistry(folder);
      assert.deepEqual(await pullAll(theirs.url, IMAGES), before);
      const wrong = await exported([files], { ...s3.vars, S3_SECRET_ACCESS_KEY: "wrong" });
      assert.notEqual(wrong.code, 0);
    } finally {
      await theirs?.stop();
      await registry.stop();
      s3.stopNow();
      await rm(folder, { recursive: true, force: true });
    }
  });
});
