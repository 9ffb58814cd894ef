// What nobody comes back for is removed, by the session's own alarm.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import path from "node:path";
import { test } from "node:test";
import { getPlatformProxy } from "wrangler";
import { PART, Registry, errorOf } from "../support/registry.mjs";

test("an abandoned upload is gone when its time is over", async () => {
  const registry = await Registry.start({ vars: { ANONYMOUS: "push", UPLOAD_TTL: "1m" } });
  try {
    const locations = [];
    for (const size of [1000, 2 * PART + 1000]) {
      const patched = await registry.expect(`PATCH ${await registry.startUpload("left")}`, 202, { body: randomBytes(size) });
      locations.push(patched.headers.get("location"));
    }
    const kept = await registry.pushBlob("kept", randomBytes(100));
    await new Promise((resolve) => setTimeout(resolve, 62_000));
    for (const location of locations) {
      assert.equal((await errorOf(await registry.expect(`GET ${location}`, 404))).code, "BLOB_UPLOAD_UNKNOWN");
    }
    await registry.expect(`HEAD /v2/kept/blobs/${kept}`, 200);
    await registry.kill();
    const configPath = path.join(registry.folder, "wrangler.toml");
    const platform = await getPlatformProxy({ configPath, persist: { path: path.join(registry.folder, "state/v3") } });
    try {
      const { objects } = await platform.env.BUCKET.list({ prefix: "pierhead/uploads/" });
      assert.deepEqual(objects.map((object) => object.key), []);
    } finally {
      await platform.dispose();
    }
  } finally {
    await registry.stop();
  }
});
