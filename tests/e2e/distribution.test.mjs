// The layout is `distribution`'s: each registry serves the bucket of the other.
import assert from "node:assert/strict";
import { mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { test } from "node:test";
import { dockerRegistry, needs, run } from "../support/clients.mjs";
import { writeLayout } from "../support/images.mjs";
import { Registry, digestOf, temporaryFolder, MANIFEST } from "../support/registry.mjs";

const skopeo = (...args) => run("skopeo", ["--insecure-policy", ...args]);

test("a bucket written by docker-registry is served unchanged", needs("docker-registry", "skopeo"), async () => {
  const folder = await temporaryFolder();
  const theirs = await dockerRegistry(folder);
  let ours;
  try {
    await writeLayout(path.join(folder, "image"), [1000, 2_000_000]);
    const index = await writeLayout(path.join(folder, "many"), [500], ["amd64", "arm64"]);
    await skopeo(
      "copy",
      "--dest-tls-verify=false",
      `oci:${folder}/image:latest`,
      `docker://${theirs.host}/team/app:v1`,
    );
    await skopeo(
      "copy",
      "--dest-tls-verify=false",
      "--format=v2s2",
      `oci:${folder}/image:latest`,
      `docker://${theirs.host}/team/app:docker`,
    );
    await skopeo(
      "copy",
      "--all",
      "--dest-tls-verify=false",
      `oci:${folder}/many:latest`,
      `docker://${theirs.host}/many:v1`,
    );
    const raw = await skopeo("inspect", "--raw", "--tls-verify=false", `docker://${theirs.host}/team/app:v1`);
    await theirs.stop();

    ours = await Registry.start();
    await ours.kill();
    await ours.withBucket(async (bucket) => {
      for (const entry of await readdir(theirs.files, { recursive: true, withFileTypes: true })) {
        if (!entry.isFile()) continue;
        const file = path.join(entry.parentPath, entry.name);
        await bucket.put(path.relative(theirs.files, file), await readFile(file));
      }
    });
    await ours.run();

    for (const [n, reference] of [
      "team/app:v1",
      "team/app:docker",
      `team/app@${digestOf(Buffer.from(raw))}`,
    ].entries()) {
      await skopeo("copy", "--src-tls-verify=false", `docker://${ours.host}/${reference}`, `dir:${folder}/back-${n}`);
    }
    await skopeo(
      "copy",
      "--all",
      "--src-tls-verify=false",
      `docker://${ours.host}/many@${index}`,
      `dir:${folder}/back-many`,
    );
    assert.equal(await skopeo("inspect", "--raw", "--tls-verify=false", `docker://${ours.host}/team/app:v1`), raw);
    assert.deepEqual(
      JSON.parse(await skopeo("list-tags", "--tls-verify=false", `docker://${ours.host}/team/app`)).Tags,
      ["docker", "v1"],
    );
    const head = await ours.expect("HEAD /v2/team/app/manifests/v1", 200);
    assert.equal(head.headers.get("content-type"), MANIFEST);
    const layer = JSON.parse(raw).layers[1];
    const part = await ours.expect(`GET /v2/team/app/blobs/${layer.digest}`, 206, { headers: { range: "bytes=-10" } });
    assert.equal(part.headers.get("content-range"), `bytes ${layer.size - 10}-${layer.size - 1}/${layer.size}`);
    await ours.expect(`GET /v2/many/blobs/${layer.digest}`, 404);

    // The catalog and mounts without a source need indexes that docker-registry does not write: the check of
    // both trees adds them.
    assert.deepEqual((await (await ours.expect("GET /v2/_catalog", 200)).json()).repositories, []);
    for (let running = true; running;) {
      ({ running } = await (await ours.expect("POST /v2/_pierhead/jobs/fsck/run", 200)).json());
    }
    assert.deepEqual((await (await ours.expect("GET /v2/_catalog", 200)).json()).repositories, ["many", "team/app"]);
    await ours.expect(`POST /v2/elsewhere/blobs/uploads/?mount=${layer.digest}`, 201);
    await skopeo("copy", "--dest-tls-verify=false", `oci:${folder}/image:latest`, `docker://${ours.host}/team/app:v2`);
    await skopeo("delete", "--tls-verify=false", `docker://${ours.host}/team/app:docker`);
    assert.ok((await (await ours.expect("GET /v2/team/app/tags/list", 200)).json()).tags.includes("v2"));
  } finally {
    await theirs.stop();
    await ours?.stop();
    await rm(folder, { recursive: true, force: true });
  }
});

test("docker-registry serves a small image that was pushed here", needs("docker-registry", "skopeo"), async () => {
  const folder = await temporaryFolder();
  let theirs;
  const ours = await Registry.start();
  try {
    const index = await writeLayout(path.join(folder, "image"), [1000, 2_000_000], ["amd64", "arm64"]);
    await skopeo(
      "copy",
      "--all",
      "--dest-tls-verify=false",
      `oci:${folder}/image:latest`,
      `docker://${ours.host}/team/app:v1`,
    );
    await ours.kill();
    await ours.withBucket(async (bucket) => {
      let cursor;
      do {
        const page = await bucket.list({ prefix: "docker/", cursor });
        for (const { key } of page.objects) {
          const file = path.join(folder, "registry", key);
          await mkdir(path.dirname(file), { recursive: true });
          await writeFile(file, Buffer.from(await (await bucket.get(key)).arrayBuffer()));
        }
        cursor = page.truncated ? page.cursor : undefined;
      } while (cursor);
    });
    theirs = await dockerRegistry(folder);
    for (const [n, reference] of ["team/app:v1", `team/app@${index}`].entries()) {
      await skopeo(
        "copy",
        "--all",
        "--src-tls-verify=false",
        `docker://${theirs.host}/${reference}`,
        `dir:${folder}/back-${n}`,
      );
    }
    const catalog = await (await fetch(`http://${theirs.host.replace("localhost", "127.0.0.1")}/v2/_catalog`)).json();
    assert.deepEqual(catalog.repositories, ["team/app"]);
  } finally {
    await theirs?.stop();
    await ours.stop();
    await rm(folder, { recursive: true, force: true });
  }
});
