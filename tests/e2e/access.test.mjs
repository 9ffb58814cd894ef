// Settings and credentials through the runtime and a real client. `tests/registry/access.rs` tests the
// policy.
import assert from "node:assert/strict";
import { rm } from "node:fs/promises";
import path from "node:path";
import { test } from "node:test";
import { needs, run } from "../support/clients.mjs";
import { writeLayout } from "../support/images.mjs";
import { Registry, errorOf, temporaryFolder } from "../support/registry.mjs";

async function withRegistry(vars, use) {
  const registry = await Registry.start({ vars });
  try {
    await use(registry);
  } finally {
    await registry.stop();
  }
}

async function challenged(registry, line) {
  const answer = await registry.expect(line, 401);
  assert.match(answer.headers.get("www-authenticate"), /^Bearer realm=/, line);
  assert.equal((await errorOf(answer)).code, "UNAUTHORIZED", line);
}

// An `Env` without variables, as in a first deployment.
test("without a configuration, every request gets a challenge", async () => {
  await withRegistry({}, async (registry) => {
    for (const line of ["GET /v2/", "POST /v2/a/blobs/uploads/"]) await challenged(registry, line);
  });
});

// The entry point answers, which exists only in the worker.
test("an invalid configuration is reported with the expected values", async () => {
  await withRegistry({ ANONYMOUS: "everybody", UPLOAD_TTL: "soon" }, async (registry) => {
    for (let n = 0; n < 2; n++) {
      const error = await errorOf(await registry.expect("GET /v2/", 503));
      assert.equal(error.code, "UNAVAILABLE");
      assert.match(error.message, /ANONYMOUS must be one of none, pull, push/);
      assert.match(error.message, /UPLOAD_TTL must be a time/);
    }
  });
});

// Hashes of the htpasswd tool, bcrypt in WebAssembly, and a client that follows the challenge.
test("users log in with htpasswd passwords", needs("htpasswd", "skopeo"), async () => {
  const lines = [];
  for (const [user, password, cost] of [
    ["ann", "p:w ü", "5"],
    ["bob", "hunter2", "10"],
  ]) {
    lines.push((await run("htpasswd", ["-nbB", "-C", cost, user, password])).trim());
  }
  await withRegistry({ HTPASSWD: lines.join("\n") }, async (registry) => {
    const basic = (text) => ({ headers: { authorization: `Basic ${Buffer.from(text).toString("base64")}` } });
    await registry.expect("GET /v2/", 200, basic("ann:p:w ü"));
    await registry.expect("GET /v2/", 200, basic("bob:hunter2"));
    for (const wrong of ["ann:hunter2", "bob:", "eve:hunter2"]) await registry.expect("GET /v2/", 401, basic(wrong));
    await challenged(registry, "GET /v2/");

    const folder = await temporaryFolder();
    try {
      await writeLayout(path.join(folder, "image"), [1000, 100_000]);
      const image = `docker://${registry.host}/users/ann:v1`;
      const skopeo = (...args) => run("skopeo", ["--insecure-policy", ...args], { cwd: folder });
      await skopeo("copy", "--dest-tls-verify=false", "--dest-creds=bob:hunter2", "oci:image:latest", image);
      await skopeo("inspect", "--tls-verify=false", "--creds=bob:hunter2", image);
      await assert.rejects(skopeo("inspect", "--tls-verify=false", "--creds=bob:wrong", image));
      await assert.rejects(skopeo("inspect", "--tls-verify=false", "--no-creds", image));
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});

// The writer, an object, reads the policy too.
test("an immutable tag takes one image", needs("skopeo"), async () => {
  const policy = `
    [[tags]]
    repositories = ["team/**"]
    immutable = ["v*"]
  `;
  await withRegistry({ ANONYMOUS: "push", POLICY: policy }, async (registry) => {
    const folder = await temporaryFolder();
    try {
      await writeLayout(path.join(folder, "first"), [1000]);
      await writeLayout(path.join(folder, "second"), [2000]);
      const copy = (from, to) =>
        run("skopeo", [
          "--insecure-policy",
          "copy",
          "--dest-tls-verify=false",
          `oci:${folder}/${from}:latest`,
          `docker://${registry.host}/${to}`,
        ]);
      await copy("first", "team/app:v1");
      await copy("first", "team/app:v1");
      await assert.rejects(copy("second", "team/app:v1"), /immutable/);
      await copy("second", "team/app:latest");
      await copy("second", "app:v1");
      await copy("first", "app:v1");
      const error = await errorOf(await registry.expect("DELETE /v2/team/app/manifests/v1", 403));
      assert.match(error.message, /immutable/);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
});
