// Redirects of blob pulls, and the limits of signed and presigned URLs.
import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { test } from "node:test";
import { needs, run } from "../support/clients.mjs";
import { Registry, digestOf, errorOf, temporaryFolder } from "../support/registry.mjs";
import { BUCKET, KEY, S3Server, SECRET } from "../support/s3.mjs";

const SIGNING_KEY = "a-key-of-more-than-thirty-two-characters";

async function withRegistry(vars, use, { s3 } = {}) {
  // URLs expire, by the clock of the S3 server too: time must not leap.
  const registry = await Registry.start({ vars: { ANONYMOUS: "push", ...s3?.vars, ...vars }, edge: { leaps: false } });
  try {
    await use(registry);
  } finally {
    if (process.env.SHOW_LOG) console.log(registry.log);
    await registry.stop();
    s3?.stopNow();
  }
}

async function redirectOf(registry, target, headers = {}) {
  const answer = await registry.expect(`GET ${target}`, 307, { headers });
  assert.equal((await answer.arrayBuffer()).byteLength, 0);
  assert.equal(answer.headers.get("docker-distribution-api-version"), "registry/2.0");
  return new URL(answer.headers.get("location"), registry.url).href;
}

// The registry's own log lines: wrangler prints all variables at its start.
const ownLines = (registry) => registry.log.match(/\{"(?:.*)\}/g) ?? [];

// A line may come a moment after its answer.
async function logged(registry, pattern) {
  for (let tries = 0; tries < 50; tries++) {
    const line = ownLines(registry).find((line) => pattern.test(line));
    if (line) return line;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error(`${pattern} was not logged:\n${registry.log}`);
}

const bytesOf = async (answer) => Buffer.from(await answer.arrayBuffer());
const get = (url, headers = {}, method = "GET") =>
  fetch(url, { method, headers: { "accept-encoding": "identity", ...headers } });

// Cloudflare's token check, as its documentation describes it, for `/path?verify=<seconds>-<mac>`.
function isTimedHmacValidV0(key, uri, ttl, now) {
  const [message, token] = uri.split("?verify=");
  const dash = token.indexOf("-");
  const [seconds, mac] = [token.slice(0, dash), decodeURIComponent(token.slice(dash + 1))];
  const expected = createHmac("sha256", key)
    .update(message + seconds)
    .digest("base64");
  return mac === expected && now < Number(seconds) + ttl;
}

// Resumes a partial download, through the redirect.
async function resumes(url, bytes) {
  const folder = await temporaryFolder();
  const file = path.join(folder, "blob");
  await writeFile(file, bytes.subarray(0, bytes.length / 3));
  await run("curl", ["-sSfL", "-C", "-", "-o", file, url]);
  assert.ok(bytes.equals(await readFile(file)));
  await rm(folder, { recursive: true });
}

test("a signed URL is for one blob, one method and a limited time", needs("curl"), async () => {
  const vars = {
    BLOB_REDIRECT: "signed",
    BLOB_REDIRECT_KEYS: SIGNING_KEY,
    BLOB_REDIRECT_TTL: "20m",
    LOG_LEVEL: "debug",
  };
  await withRegistry(vars, async (registry) => {
    const bytes = randomBytes(3_000_000);
    const digest = await registry.pushBlob("team/app", bytes);
    const other = await registry.pushBlob("team/app", randomBytes(100));
    const target = `/v2/team/app/blobs/${digest}`;

    const head = await registry.expect(`HEAD ${target}`, 200);
    assert.equal(head.headers.get("content-length"), String(bytes.length));
    await registry.expect(`GET ${target}`, 304, { headers: { "if-none-match": `"${digest}"` } });
    const url = await redirectOf(registry, target, { range: "bytes=0-1" });
    const uri = url.slice(registry.url.length);
    const now = Math.floor(Date.now() / 1000);
    assert.ok(isTimedHmacValidV0(SIGNING_KEY, uri, 1200, now), uri);
    assert.ok(!isTimedHmacValidV0(SIGNING_KEY, uri, 1200, now + 1200));

    for (let round = 0; round < 3; round++) {
      const whole = await get(url);
      assert.equal(whole.status, 200);
      assert.equal(whole.headers.get("content-length"), String(bytes.length));
      assert.match(whole.headers.get("cache-control"), /^public, max-age=\d+, immutable, no-transform$/);
      assert.ok(bytes.equals(await bytesOf(whole)));
      for (const [range, from, to] of [
        ["bytes=0-9", 0, 10],
        ["bytes=1000000-", 1_000_000],
        ["bytes=-7", -7],
      ]) {
        const part = await get(url, { range });
        assert.equal(part.status, 206, range);
        assert.ok(bytes.subarray(from, to).equals(await bytesOf(part)), range);
      }
      assert.equal((await get(url, { range: "bytes=9999999-" })).status, 416);
    }
    await resumes(`${registry.url}${target}`, bytes);

    for (const method of ["HEAD", "PUT", "POST", "PATCH", "DELETE"]) {
      assert.equal((await get(url, {}, method)).status, 405, method);
    }
    // `tests/registry/redirects.rs` tests every other forgery, expiry and key rotation.
    const [at] = url.split("?verify=");
    for (const forged of [at, `${url}&x=1`, url.replace(digest.slice(7), other.slice(7))]) {
      assert.equal((await errorOf(await get(forged))).code, "DENIED", forged);
    }

    await registry.expect(`DELETE ${target}`, 202);
    for (const line of [`GET ${target}`, `HEAD ${target}`]) await registry.expect(line, 404);
    assert.equal((await get(url)).status, 200);
    assert.ok(!ownLines(registry).join().includes(SIGNING_KEY));
  });
});

test("a presigned URL leads directly to the S3 server", needs("curl"), async () => {
  const s3 = await S3Server.start();
  const vars = { STORAGE: "s3", BLOB_REDIRECT: "presigned", BLOB_REDIRECT_TTL: "10s", LOG_LEVEL: "debug" };
  await withRegistry(
    vars,
    async (registry) => {
      // In one request, and in chunks of several parts.
      const small = randomBytes(100_000);
      const digest = await registry.pushBlob("a", small);
      const large = randomBytes(20_000_000);
      const first = await registry.startUpload("a");
      let location = first;
      for (let at = 0; at < large.length; at += 7_000_000) {
        const chunk = large.subarray(at, at + 7_000_000);
        location = (await registry.expect(`PATCH ${location}`, 202, { body: chunk })).headers.get("location");
      }
      await registry.expect(`PUT ${location}&digest=${digestOf(large)}`, 201);

      for (const bytes of [small, large]) {
        const target = `/v2/a/blobs/${digestOf(bytes)}`;
        await registry.expect(`HEAD ${target}`, 200);
        const url = await redirectOf(registry, target);
        assert.ok(url.startsWith(`${s3.endpoint}/${BUCKET}/`), url);
        const whole = await get(url);
        assert.equal(whole.headers.get("content-type"), "application/octet-stream");
        assert.ok(bytes.equals(await bytesOf(whole)));
        const part = await get(url, { range: "bytes=10-19" });
        assert.equal(part.status, 206);
        assert.ok(bytes.subarray(10, 20).equals(await bytesOf(part)));
        await resumes(`${registry.url}${target}`, bytes);
      }

      const target = `/v2/a/blobs/${digest}`;
      const url = await redirectOf(registry, target);
      for (const method of ["HEAD", "PUT", "DELETE"]) assert.equal((await get(url, {}, method)).status, 403, method);
      for (const [part, forged] of [
        [digest.slice(7), digestOf(large).slice(7)],
        ["X-Amz-Expires=10", "X-Amz-Expires=1000"],
        ["octet-stream", "html"],
        [/Signature=\w{6}/, "Signature=000000"],
      ]) {
        assert.equal((await get(url.replace(part, forged))).status, 403, forged);
      }

      await registry.expect(`DELETE ${target}`, 202);
      for (const line of [`GET ${target}`, `HEAD ${target}`]) await registry.expect(line, 404);
      await new Promise((resolve) => setTimeout(resolve, 11_000));
      assert.equal((await get(url)).status, 403);

      // Every call of a request is logged, and no secret. The session joins the parts.
      const lines = ownLines(registry).map((line) => JSON.parse(line));
      const operations = new Set(lines.filter((line) => line.driver === "s3").map((line) => line.operation));
      for (const operation of ["head", "get", "put", "put_part", "create_multipart"]) {
        assert.ok(operations.has(operation), `${operation} in ${[...operations]}`);
      }
      for (const secret of [SECRET, "X-Amz-Signature", "Signature="])
        assert.ok(!ownLines(registry).join().includes(secret), secret);
      assert.ok(url.includes(KEY));
    },
    { s3 },
  );
});

test("presigned URLs of an R2 bucket have the same keys, at its S3 endpoint", async () => {
  const s3 = await S3Server.start();
  await withRegistry(
    { BLOB_REDIRECT: "presigned", BLOB_REDIRECT_REPOSITORIES: "here/*=off" },
    async (registry) => {
      const bytes = randomBytes(10_000);
      const digest = await registry.pushBlob("there/app", bytes);
      await registry.expect(`POST /v2/here/app/blobs/uploads/?mount=${digest}&from=there/app`, 201);
      const url = await redirectOf(registry, `/v2/there/app/blobs/${digest}`);
      assert.equal((await get(url)).status, 404);
      // In R2, the binding and the endpoint have the same objects: copy one here.
      const file = path.join(s3.folder, decodeURIComponent(new URL(url).pathname));
      await mkdir(path.dirname(file), { recursive: true });
      await writeFile(file, bytes);
      assert.ok(bytes.equals(await bytesOf(await get(url))));
      const here = await registry.expect(`GET /v2/here/app/blobs/${digest}`, 200);
      assert.ok(bytes.equals(await bytesOf(here)));
    },
    { s3 },
  );
});

test("push, pull, list, mount and delete work on S3", async () => {
  const s3 = await S3Server.start();
  await withRegistry(
    { STORAGE: "s3", LOG_LEVEL: "debug" },
    async (registry) => {
      // Neither sha512 nor referrers: this server uses keys as file names, and theirs are too long.
      const bytes = randomBytes(50_000);
      const digest = await registry.pushBlob("deep", bytes);
      const got = await registry.expect(`GET /v2/deep/blobs/${digest}`, 200);
      assert.ok(bytes.equals(await bytesOf(got)));
      const image = await registry.pushImage("deep", "v1");
      await registry.pushImage("deep/er", "v1");
      await registry.pushImage("deep", "v2");
      const json = async (target) => (await registry.expect(`GET ${target}`, 200)).json();
      assert.deepEqual((await json("/v2/_catalog")).repositories, ["deep", "deep/er"]);
      assert.deepEqual((await json("/v2/deep/tags/list")).tags, ["v1", "v2"]);
      await registry.expect(`POST /v2/other/blobs/uploads/?mount=${image.layer}`, 201);
      await registry.expect(`DELETE /v2/deep/manifests/${image.digest}`, 202);
      assert.deepEqual((await json("/v2/deep/tags/list")).tags, ["v2"]);
      const cancelled = await registry.startUpload("deep");
      const next = await registry.expect(`PATCH ${cancelled}`, 202, { body: randomBytes(9_000_000) });
      await registry.expect(`DELETE ${next.headers.get("location")}`, 204);
    },
    { s3 },
  );
});

test("refused credentials of the store are an error that reveals no secret", async () => {
  const s3 = await S3Server.start();
  const vars = { STORAGE: "s3", S3_SECRET_ACCESS_KEY: "not-the-one-it-is-signed-with" };
  await withRegistry(
    vars,
    async (registry) => {
      const answer = await registry.expect("GET /v2/a/manifests/v1", 500);
      assert.equal((await errorOf(answer)).code, "UNKNOWN");
      const line = await logged(registry, /"level":"error".*403/);
      assert.ok(!line.includes("not-the-one") && !line.includes("Signature="), line);
    },
    { s3 },
  );
});
