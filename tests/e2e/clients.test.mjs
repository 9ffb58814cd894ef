// Real clients push, list, inspect, pull and delete, with each kind of storage and redirect.
import assert from "node:assert/strict";
import { readdir, readFile, rm } from "node:fs/promises";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { containersTool, needs, run, startContainerd, startDocker } from "../support/clients.mjs";
import { writeLayout } from "../support/images.mjs";
import { INDEX, Registry, digestOf, root, temporaryFolder } from "../support/registry.mjs";
import { S3Server } from "../support/s3.mjs";

// A small layer, one of several parts, and one in between.
const LAYERS = [1_000, 20_000_000, 300_000];

const REGISTRIES = {
  "R2, blobs from the registry": () => ({}),
  "R2, blobs from signed URLs": () => ({ BLOB_REDIRECT: "signed" }),
  "S3, blobs from presigned URLs": (s3) => ({ STORAGE: "s3", BLOB_REDIRECT: "presigned", ...s3.vars }),
};

for (const [name, vars] of Object.entries(REGISTRIES))
  describe(name, () => {
    let registry, s3, folder, layout, digest;
    before(async () => {
      if (name.startsWith("S3")) s3 = await S3Server.start();
      // An S3 server refuses signatures from the future: the clock must not leap.
      const edge = s3 ? { leaps: false } : {};
      registry = await Registry.start({ vars: { ANONYMOUS: "push", ...vars(s3) }, edge });
      folder = await temporaryFolder();
      layout = path.join(folder, "image");
      digest = await writeLayout(layout, LAYERS);
    });
    after(async () => {
      await registry?.stop();
      s3?.stopNow();
      await rm(folder, { recursive: true, force: true });
    });

    // Asserts that every blob of one layout is in the other, with the right content.
    async function assertSameBlobs(one, other) {
      const names = await readdir(path.join(one, "blobs/sha256"));
      for (const name of names) {
        assert.equal(digestOf(await readFile(path.join(other, "blobs/sha256", name))), `sha256:${name}`);
      }
    }

    test("skopeo", needs("skopeo"), async () => {
      const skopeo = (...args) => run("skopeo", ["--insecure-policy", ...args]);
      const image = `docker://${registry.host}/clients/skopeo`;
      await skopeo("copy", "--dest-tls-verify=false", `oci:${layout}:latest`, `${image}:v1`);
      assert.equal(JSON.parse(await skopeo("inspect", "--tls-verify=false", `${image}:v1`)).Digest, digest);
      for (const [n, reference] of [":v1", `@${digest}`].entries()) {
        const back = path.join(folder, `skopeo-${n}`);
        await skopeo("copy", "--src-tls-verify=false", image + reference, `oci:${back}:latest`);
        await assertSameBlobs(layout, back);
      }
      await skopeo(
        "copy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        `${image}:v1`,
        `docker://${registry.host}/clients/mounted:v1`,
      );
      await skopeo(
        "copy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        "--format=v2s2",
        `${image}:v1`,
        `${image}:docker`,
      );
      const tags = JSON.parse(await skopeo("list-tags", "--tls-verify=false", image)).Tags;
      assert.deepEqual(tags, ["docker", "v1"]);
      await skopeo("delete", "--tls-verify=false", `${image}:v1`);
      await registry.expect("GET /v2/clients/skopeo/manifests/v1", 404);
      await registry.expect("GET /v2/clients/mounted/manifests/v1", 200);
    });

    test("skopeo, several architectures", needs("skopeo"), async () => {
      const many = path.join(folder, "many");
      const index = await writeLayout(many, [500, 600], ["amd64", "arm64", "riscv64"]);
      const image = `docker://${registry.host}/clients/many:v1`;
      await run("skopeo", [
        "--insecure-policy",
        "copy",
        "--all",
        "--dest-tls-verify=false",
        `oci:${many}:latest`,
        image,
      ]);
      const raw = await run("skopeo", ["inspect", "--raw", "--tls-verify=false", image]);
      assert.equal(digestOf(Buffer.from(raw)), index);
      assert.equal(JSON.parse(raw).manifests.length, 3);
      const back = path.join(folder, "many-back");
      await run("skopeo", [
        "--insecure-policy",
        "copy",
        "--all",
        "--src-tls-verify=false",
        image,
        `oci:${back}:latest`,
      ]);
      await assertSameBlobs(many, back);
      const head = await registry.expect("HEAD /v2/clients/many/manifests/v1", 200);
      assert.equal(head.headers.get("content-type"), INDEX);
    });

    for (const tool of ["podman", "buildah"]) {
      test(tool, needs(tool), async (t) => {
        const storage = path.join(folder, tool);
        const podman = await containersTool(t, tool, storage);
        const id = (await podman("pull", "--quiet", "oci:image:latest")).trim();
        const image = `${registry.host}/clients/${tool}:v1`;
        await podman("push", "--tls-verify=false", "--digestfile", `${storage}-digest`, id, image);
        const pushed = (await readFile(`${storage}-digest`, "utf8")).trim();
        await podman("rmi", "--force", id);
        for (const reference of [image, `${registry.host}/clients/${tool}@${pushed}`]) {
          const pulled = (await podman("pull", "--quiet", "--tls-verify=false", reference)).trim();
          assert.equal(pulled.slice(0, 12), id.slice(0, 12));
        }
      });
    }

    test("docker", needs("dockerd", "docker", "skopeo"), async () => {
      const { docker, stop } = await startDocker(folder, layout);
      try {
        const image = `${registry.host}/clients/docker:v1`;
        await docker("tag", "base:v1", image);
        const pushed = (await docker("push", image)).match(/digest: (sha256:[0-9a-f]{64})/)[1];
        const id = await docker("image", "inspect", "-f", "{{.Id}}", image);
        await docker("rmi", image, "base:v1");
        for (const reference of [image, `${registry.host}/clients/docker@${pushed}`]) {
          await docker("pull", reference);
          assert.equal(await docker("image", "inspect", "-f", "{{.Id}}", reference), id);
        }
        await docker("tag", image, `${registry.host}/clients/docker-mounted:v1`);
        await docker("push", `${registry.host}/clients/docker-mounted:v1`);
      } finally {
        await stop();
      }
    });

    test("containerd", needs("containerd", "ctr"), async () => {
      const { ctr, load, stop } = await startContainerd(path.join(folder, "containerd"));
      try {
        const image = `${registry.host}/clients/containerd:v1`;
        await load(layout, image);
        await ctr("images", "push", "--plain-http", image);
        await ctr("images", "rm", image);
        await ctr("content", "prune", "references").catch(() => {});
        await ctr("content", "fetch", "--plain-http", image);
        const list = await ctr("images", "ls");
        assert.match(list, /clients\/containerd:v1/);
      } finally {
        await stop();
      }
    });

    test("oci-client", needs("cargo"), async () => {
      const env = { ...process.env, PIERHEAD: registry.host, CARGO_TERM_COLOR: "never" };
      const output = await run("cargo", ["test", "--test", "oci_client"], { cwd: root, env, timeout: 600_000 });
      assert.match(output, /test result: ok\. [1-9]/);
    });
  });
