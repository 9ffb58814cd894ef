// Abandoned uploads are removed by the alarms of their sessions.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readdir } from "node:fs/promises";
import path from "node:path";
import { test } from "node:test";
import { PART, Registry, digestOf, errorOf } from "../support/registry.mjs";
import { BUCKET, S3Server } from "../support/s3.mjs";

// The keys of all stored objects of uploads.
async function inR2(registry) {
  await registry.kill();
  return registry.withBucket(async (bucket) => {
    const { objects } = await bucket.list({ prefix: "pierhead/uploads/" });
    return objects.map((object) => object.key);
  });
}

async function onS3(s3) {
  const files = await readdir(s3.folder, { recursive: true, withFileTypes: true });
  const names = files
    .filter((file) => file.isFile())
    .map((file) => path.relative(s3.folder, path.join(file.parentPath, file.name)));
  // The server keeps unjoined parts and metadata of objects beside the buckets.
  return names
    .filter((name) => name.startsWith(`${BUCKET}/pierhead/uploads/`) || name.startsWith(".upload"))
    .map((name) => name.replace(`${BUCKET}/`, ""))
    .sort();
}

async function abandon(vars, names) {
  const registry = await Registry.start({ vars: { ANONYMOUS: "push", UPLOAD_TTL: "1m", ...vars } });
  try {
    const locations = [];
    for (const size of [1000, 2 * PART + 1000]) {
      const patched = await registry.expect(`PATCH ${await registry.startUpload("left")}`, 202, {
        body: randomBytes(size),
      });
      locations.push(patched.headers.get("location"));
    }
    const kept = [await registry.pushBlob("kept", randomBytes(100))];
    const bytes = randomBytes(PART + 1000);
    const patched = await registry.expect(`PATCH ${await registry.startUpload("kept")}`, 202, { body: bytes });
    await registry.expect(`PUT ${patched.headers.get("location")}&digest=${digestOf(bytes)}`, 201);
    kept.push(digestOf(bytes));
    await registry.advance(66);
    for (const location of locations) {
      assert.equal((await errorOf(await registry.expect(`GET ${location}`, 404))).code, "BLOB_UPLOAD_UNKNOWN");
    }
    for (const digest of kept) {
      const got = await registry.expect(`GET /v2/kept/blobs/${digest}`, 200);
      assert.equal(digestOf(Buffer.from(await got.arrayBuffer())), digest);
    }
    assert.deepEqual(await names(registry), []);
  } finally {
    await registry.stop();
  }
}

test("an abandoned upload is removed from R2 and from S3 when it expires", async () => {
  const s3 = await S3Server.start();
  try {
    await Promise.all([abandon({}, inR2), abandon({ STORAGE: "s3", ...s3.vars }, () => onS3(s3))]);
  } finally {
    s3.stopNow();
  }
});

test("the cron trigger runs the purge, which logs a report", async () => {
  const registry = await Registry.start({ vars: { ANONYMOUS: "push", PURGE: "dry-run" } });
  try {
    // The second chunk is staged.
    let patched = await registry.expect(`PATCH ${await registry.startUpload("young")}`, 202, { body: randomBytes(10) });
    patched = await registry.expect(`PATCH ${patched.headers.get("location")}`, 202, { body: randomBytes(10) });
    await registry.expect("GET /cdn-cgi/local/scheduled", 200);
    // The log line comes a moment later.
    for (let tries = 0; tries < 50 && !registry.log.includes('purge"'); tries++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    assert.match(registry.log, /"job":"purge".*"dry_run":true,"finished":true,"purged":\[\],"seen":1/);
    await registry.expect(`GET ${patched.headers.get("location")}`, 204);
  } finally {
    await registry.stop();
  }
});
