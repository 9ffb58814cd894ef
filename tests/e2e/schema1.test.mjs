// skopeo converts an image to Docker's schema 1, which libtrust signs, and pushes it; and converts it back.
import assert from "node:assert/strict";
import { generateKeyPairSync, sign } from "node:crypto";
import { readFile, readdir, rm } from "node:fs/promises";
import path from "node:path";
import { gunzipSync } from "node:zlib";
import { after, before, describe, test } from "node:test";
import { needs, run } from "../support/clients.mjs";
import { writeLayout } from "../support/images.mjs";
import { Registry, digestOf, temporaryFolder } from "../support/registry.mjs";

const SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws";
const PAYLOAD = "application/vnd.docker.distribution.manifest.v1+json";
const DOCKER = "application/vnd.docker.distribution.manifest.v2+json";

const skopeo = (...args) => run("skopeo", ["--insecure-policy", ...args]);

describe("schema 1", needs("skopeo"), () => {
  let registry, folder, layout;
  before(async () => {
    registry = await Registry.start({ vars: { ANONYMOUS: "push", SCHEMA1: "full" } });
    folder = await temporaryFolder();
    layout = path.join(folder, "image");
    await writeLayout(layout, [1_000, 300_000], ["amd64"], { history: true });
  });
  after(async () => {
    await registry?.stop();
    await rm(folder, { recursive: true, force: true });
  });

  const manifest = async (name, reference, accept) => {
    const response = await registry.expect(`GET /v2/${name}/manifests/${reference}`, 200, { headers: { accept } });
    return { response, text: await response.text() };
  };

  // The digests of the archives in a folder of blobs, whatever compresses them.
  const archives = async (blobs) => {
    const found = [];
    for (const name of await readdir(blobs)) {
      const bytes = await readFile(path.join(blobs, name));
      if (bytes[0] === 0x1f && bytes[1] === 0x8b) found.push(digestOf(gunzipSync(bytes)));
    }
    return found.sort();
  };

  test("skopeo pushes, pulls and converts", async () => {
    const image = `docker://${registry.host}/clients/old:v1`;
    const push = (to) => skopeo("copy", "--format=v2s1", "--dest-tls-verify=false", `oci:${layout}:latest`, to);
    await push(image);
    const { response, text } = await manifest("clients/old", "v1", `${SIGNED}, ${PAYLOAD}`);
    assert.equal(response.headers.get("content-type"), SIGNED);
    const payload = await manifest("clients/old", "v1", PAYLOAD);
    assert.equal(payload.response.headers.get("content-type"), PAYLOAD);
    const digest = digestOf(Buffer.from(payload.text));
    assert.equal(response.headers.get("docker-content-digest"), digest);
    const { signatures, ...signed } = JSON.parse(text);
    assert.deepEqual(signed, JSON.parse(payload.text));
    assert.equal(signatures.length, 1);
    const head = await registry.expect("HEAD /v2/clients/old/manifests/v1", 200, { headers: { accept: SIGNED } });
    assert.equal(head.headers.get("content-length"), String(Buffer.byteLength(text)));

    // What skopeo pulls has the digest that it computes of the payload, by tag and by digest.
    for (const [n, reference] of [":v1", `@${digest}`].entries()) {
      const back = path.join(folder, `back-${n}`);
      await skopeo(
        "copy",
        "--src-tls-verify=false",
        `docker://${registry.host}/clients/old${reference}`,
        `dir:${back}`,
      );
      assert.equal(await readFile(path.join(back, "manifest.json"), "utf8"), text);
    }

    // Signed again, with another key: the signature is added, and skopeo still takes it.
    await push(image);
    const again = await manifest("clients/old", "v1", SIGNED);
    assert.equal(again.response.headers.get("docker-content-digest"), digest);
    assert.equal(JSON.parse(again.text).signatures.length, 2);
    await skopeo("copy", "--src-tls-verify=false", image, `dir:${path.join(folder, "twice")}`);

    // To another repository, for which it is signed again; and back to schema 2.
    const tls = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    await skopeo("copy", ...tls, image, `docker://${registry.host}/clients/other:v2`);
    const other = await manifest("clients/other", "v2", SIGNED);
    assert.equal(JSON.parse(other.text).name, "clients/other");
    await skopeo("copy", ...tls, "--format=v2s2", image, `docker://${registry.host}/clients/new:v1`);
    const converted = await manifest("clients/new", "v1", DOCKER);
    assert.equal(converted.response.headers.get("content-type"), DOCKER);
    const oci = path.join(folder, "oci");
    await skopeo("copy", "--src-tls-verify=false", `docker://${registry.host}/clients/new:v1`, `oci:${oci}:latest`);
    assert.deepEqual(await archives(path.join(oci, "blobs/sha256")), await archives(path.join(layout, "blobs/sha256")));

    await skopeo("delete", "--tls-verify=false", image);
    await registry.expect("GET /v2/clients/old/manifests/v1", 404);
  });

  test("signatures of every algorithm are verified by the runtime", async () => {
    const layer = await registry.pushBlob("clients/signed", Buffer.from("layer"));
    const url = (data) => Buffer.from(data).toString("base64url");
    for (const [algorithm, hash, type, options] of [
      ["ES256", "sha256", "ec", { namedCurve: "P-256" }],
      ["ES384", "sha384", "ec", { namedCurve: "P-384" }],
      ["RS256", "sha256", "rsa", { modulusLength: 2048 }],
    ]) {
      const { privateKey, publicKey } = generateKeyPairSync(type, options);
      const fields = { schemaVersion: 1, name: "clients/signed", tag: "v1", architecture: algorithm };
      const lists = { fsLayers: [{ blobSum: layer }], history: [{ v1Compatibility: "{}" }] };
      const payload = JSON.stringify({ ...fields, ...lists });
      const formatLength = payload.length - 1;
      const encoded = url(JSON.stringify({ formatLength, formatTail: url("}") }));
      const signing = Buffer.from(`${encoded}.${url(payload)}`);
      const signature = sign(hash, signing, { key: privateKey, dsaEncoding: "ieee-p1363" });
      const put = (changed, status) => {
        const header = { jwk: publicKey.export({ format: "jwk" }), alg: algorithm };
        const signatures = JSON.stringify([{ header, signature: url(changed), protected: encoded }]);
        const body = `${payload.slice(0, -1)},"signatures":${signatures}}`;
        const request = { method: "PUT", headers: { "content-type": SIGNED }, body };
        return registry.expect("PUT /v2/clients/signed/manifests/v1", status, request);
      };
      const wrong = Buffer.from(signature);
      wrong[20] ^= 1;
      const refused = await put(wrong, 400);
      assert.equal((await refused.json()).errors[0].code, "MANIFEST_UNVERIFIED");
      const answer = await put(signature, 201);
      assert.equal(answer.headers.get("docker-content-digest"), digestOf(Buffer.from(payload)));
      const served = JSON.parse((await manifest("clients/signed", "v1", SIGNED)).text);
      assert.equal(served.signatures[0].header.alg, algorithm);
    }
  });

  test("a forged manifest is refused", async () => {
    const image = `docker://${registry.host}/clients/forged:v1`;
    await skopeo("copy", "--format=v2s1", "--dest-tls-verify=false", `oci:${layout}:latest`, image);
    const { text } = await manifest("clients/forged", "v1", SIGNED);
    for (const [body, status] of [
      [text, 201],
      [text.replace("amd64", "arm64"), 400],
      [text.replace(/"signature":"(.)/, (_, first) => `"signature":"${first === "A" ? "B" : "A"}`), 400],
    ]) {
      const put = { method: "PUT", headers: { "content-type": SIGNED }, body };
      const response = await registry.expect("PUT /v2/clients/forged/manifests/v1", status, put);
      if (status === 400) assert.equal((await response.json()).errors[0].code, "MANIFEST_UNVERIFIED");
    }
  });
});
