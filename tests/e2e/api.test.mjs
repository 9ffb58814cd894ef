// The API through workerd and its bindings: only behaviour that native tests cannot show, as the comment
// above each test explains. `tests/registry/` tests every endpoint, uploads.test.mjs chunks, restarts and cut
// connections. Without a login, with a password and with a token.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { connect } from "node:net";
import { text } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { INDEX, MANIFEST, PART, Registry, digestOf, errorOf } from "../support/registry.mjs";

for (const proof of [undefined, "basic", "bearer"]) {
  describe(proof ?? "anonymous", () => {
    let registry;
    before(async () => (registry = await Registry.start({ proof })));
    after(() => registry.stop());

    const json = async (target) => (await registry.expect(`GET ${target}`, 200)).json();

    function streamOf(bytes) {
      return new ReadableStream({
        start(controller) {
          for (let at = 0; at < bytes.length; at += 100_000) controller.enqueue(bytes.subarray(at, at + 100_000));
          controller.close();
        },
      });
    }

    // The platform layer writes status, headers and body, for results and errors alike.
    test("answers pass through the runtime unchanged", async () => {
      const base = await registry.expect("GET /v2/", 200);
      assert.equal(await base.text(), "{}");
      assert.equal(base.headers.get("content-length"), "2");
      for (const [line, status, code] of [
        ["GET /v2/a/manifests/x", 404, "MANIFEST_UNKNOWN"],
        ["GET /v2/A/tags/list", 400, "NAME_INVALID"],
        ["POST /v2/", 405, "UNSUPPORTED"],
        // The registry decodes the path; the runtime must not.
        ["GET /v2/a/%62lobs/sha256%3Abad", 400, "DIGEST_INVALID"],
      ]) {
        const answer = await registry.expect(line, status);
        assert.equal(answer.headers.get("docker-distribution-api-version"), "registry/2.0", line);
        assert.equal(answer.headers.get("x-content-type-options"), "nosniff", line);
        assert.equal(answer.headers.get("content-security-policy"), "default-src 'none'; sandbox", line);
        assert.equal(answer.headers.get("content-type"), "application/json", line);
        assert.equal(answer.headers.get("allow"), status === 405 ? "GET, HEAD" : null, line);
        assert.equal((await errorOf(answer)).code, code, line);
      }
    });

    // Sends a request byte by byte as given; returns status, headers and body as text.
    async function raw(head) {
      const authorization = head.includes("Authorization") ? {} : await registry.authorization("/v2/a/tags/list");
      const more = Object.values(authorization).map((value) => `Authorization: ${value}\r\n`);
      const socket = connect(registry.port, "127.0.0.1");
      // A token is for one host.
      const host = new URL(registry.url).host;
      socket.write(Buffer.from(`${head}\r\nHost: ${host}\r\n${more}Connection: close\r\n\r\n`, "latin1"));
      return text(socket);
    }

    // What the runtime lets through is more than HTTP allows, and than the registry's types hold.
    test("requests that HTTP does not allow get an error of the registry", async () => {
      for (const [head, status] of [
        ["GET /v2/ HTTP/1.1\r\nRange: a\x01b", 400],
        ["GET /v2/ HTTP/1.1\r\nContent-Type: a\x7fb", 400],
        ["GET /v2/ HTTP/1.1\r\nX-Other: a\x1bb", 400],
        ["GET /v2/ HTTP/1.1\r\nAuthorization: Basic \xe9\xff", 400],
        ["PUT /v2/a/manifests/%ff HTTP/1.1\r\nContent-Length: 0", 400],
        ["GET /v2/a/manifests/%ff HTTP/1.1", 404],
        [`GET /v2/a/tags/list?last=${"x".repeat(20_000)} HTTP/1.1`, 414],
      ]) {
        const answer = await raw(head);
        assert.match(answer, new RegExp(`^HTTP/1.1 ${status} `), head.slice(0, 60));
        assert.match(answer, /content-security-policy: default-src 'none'; sandbox/i, head.slice(0, 60));
        assert.match(answer, /"errors":\[\{"code":"/, head.slice(0, 60));
      }
    });

    for (const algorithm of proof ? ["sha256"] : ["sha256", "sha512"]) {
      describe(`blobs, ${algorithm}`, () => {
        const name = `blobs/${algorithm}`;

        // The runtime decides whether the Content-Length of a HEAD or a stream survives.
        async function served(bytes) {
          const digest = digestOf(bytes, algorithm);
          const head = await registry.expect(`HEAD /v2/${name}/blobs/${digest}`, 200);
          const got = await registry.expect(`GET /v2/${name}/blobs/${digest}`, 200);
          for (const answer of [head, got]) {
            assert.equal(answer.headers.get("content-length"), String(bytes.length));
            assert.equal(answer.headers.get("docker-content-digest"), digest);
            assert.equal(answer.headers.get("etag"), `"${digest}"`);
            assert.equal(answer.headers.get("accept-ranges"), "bytes");
            assert.equal(answer.headers.get("content-encoding"), null);
            assert.equal(answer.headers.get("content-disposition"), "attachment");
            assert.match(answer.headers.get("cache-control"), /immutable.*no-transform/);
          }
          assert.ok(bytes.equals(Buffer.from(await got.arrayBuffer())), "wrong bytes");
        }

        function created(answer, digest) {
          assert.equal(answer.headers.get("docker-content-digest"), digest);
          assert.equal(answer.headers.get("location"), `/v2/${name}/blobs/${digest}`);
        }

        // R2 verifies the checksum of a single-request push; a mismatch is recognised by the text of its error.
        test("in one request, verified by the store", async () => {
          for (const bytes of [randomBytes(512), Buffer.alloc(0)]) {
            const digest = digestOf(bytes, algorithm);
            const line = `POST /v2/${name}/blobs/uploads/?digest=${digest}`;
            created(await registry.expect(line, 201, { body: bytes }), digest);
            await served(bytes);
          }
          const wrong = digestOf(randomBytes(512), algorithm);
          const line = `POST /v2/${name}/blobs/uploads/?digest=${wrong}`;
          const error = await errorOf(await registry.expect(line, 400, { body: randomBytes(512) }));
          assert.equal(error.code, "DIGEST_INVALID");
          await registry.expect(`HEAD /v2/${name}/blobs/${wrong}`, 404);
        });

        // R2 refuses streams of unknown length: they are cut into parts and hashed in WebAssembly.
        test("as a stream of several parts, without a length", async () => {
          for (const size of [0, 1, 70_000, PART, 2 * PART + 12_345]) {
            const bytes = randomBytes(size);
            const location = await registry.startUpload(name);
            const patched = await registry.expect(`PATCH ${location}`, 202, { body: streamOf(bytes), duplex: "half" });
            assert.equal(patched.headers.get("range"), `0-${Math.max(size - 1, 0)}`);
            const digest = digestOf(bytes, algorithm);
            created(await registry.expect(`PUT ${patched.headers.get("location")}&digest=${digest}`, 201), digest);
            await served(bytes);
          }
          // Here the registry itself detects a wrong digest.
          const bytes = randomBytes(PART + 1);
          const patched = await registry.expect(`PATCH ${await registry.startUpload(name)}`, 202, { body: bytes });
          const wrong = digestOf(randomBytes(5), algorithm);
          const line = `PUT ${patched.headers.get("location")}&digest=${wrong}`;
          assert.equal((await errorOf(await registry.expect(line, 400))).code, "DIGEST_INVALID");
          await registry.expect(`HEAD /v2/${name}/blobs/${wrong}`, 404);
          await registry.expect(`GET ${patched.headers.get("location")}`, 404);
        });
      });
    }

    // R2 reads the range, and the runtime handles the conditional headers first.
    test("ranges and validators", async () => {
      const bytes = randomBytes(2048);
      const line = `GET /v2/ranges/blobs/${await registry.pushBlob("ranges", bytes)}`;
      for (const [range, from, to] of [
        ["bytes=500-1499", 500, 1500],
        ["bytes=500-", 500, 2048],
        ["bytes=-500", 1548, 2048],
      ]) {
        const answer = await registry.expect(line, 206, { headers: { range } });
        assert.equal(answer.headers.get("content-range"), `bytes ${from}-${to - 1}/2048`, range);
        assert.equal(answer.headers.get("content-length"), String(to - from), range);
        assert.ok(bytes.subarray(from, to).equals(Buffer.from(await answer.arrayBuffer())), range);
      }
      const outside = await registry.expect(line, 416, { headers: { range: "bytes=2048-" } });
      assert.equal(outside.headers.get("content-range"), "bytes */2048");
      const several = await registry.expect(line, 206, { headers: { range: "bytes=0-1,5-6" } });
      assert.match(several.headers.get("content-type"), /^multipart\/byteranges; boundary=/);
      assert.equal((await several.arrayBuffer()).byteLength, Number(several.headers.get("content-length")));
      for (const method of ["GET", "HEAD"]) {
        const target = line.replace("GET", method);
        await registry.expect(target, 304, { headers: { "if-none-match": `"${digestOf(bytes)}"` } });
        await registry.expect(target, 200, { headers: { "if-none-match": '"x"' } });
      }
    });

    // workerd compresses responses that look like text, which removes their length.
    test("blobs are never compressed", async () => {
      const digest = await registry.pushBlob("compressible", Buffer.from("a".repeat(100_000)));
      const answer = await registry.expect(`GET /v2/compressible/blobs/${digest}`, 200, {
        headers: { "accept-encoding": "gzip, br" },
      });
      assert.equal(answer.headers.get("content-encoding"), null);
      assert.equal(answer.headers.get("content-length"), "100000");
    });

    // The refused chunk is larger than the runtime's buffers: unless it is drained, the client sees a broken
    // connection instead of the answer. The session is a Durable Object.
    test("a large chunk out of order is refused, and the upload continues until it is cancelled", async () => {
      const location = await registry.startUpload("order");
      const options = { body: randomBytes(3_000_000), headers: { "content-range": "10-3000009" } };
      const refused = await registry.expect(`PATCH ${location}`, 416, options);
      assert.equal(refused.headers.get("range"), "0-0");
      assert.equal((await errorOf(refused)).code, "BLOB_UPLOAD_INVALID");
      const patched = await registry.expect(`PATCH ${refused.headers.get("location")}`, 202, { body: randomBytes(10) });
      const after = patched.headers.get("location");
      assert.equal((await registry.expect(`GET ${after}`, 204)).headers.get("range"), "0-9");
      await registry.expect(`DELETE ${after}`, 204);
      for (const line of [`GET ${after}`, `PATCH ${after}`, `DELETE ${after}`, `GET ${location}`]) {
        assert.equal((await errorOf(await registry.expect(line, 404))).code, "BLOB_UPLOAD_UNKNOWN", line);
      }
    });

    // The largest manifest passes the bindings, and the runtime delivers a refusal before the body is read.
    test("manifests of 4 MiB are accepted, larger ones are refused", async () => {
      const padded = (length) => {
        const empty = JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests: [], pad: "" });
        return Buffer.from(empty.replace('"pad":""', `"pad":"${"x".repeat(length - empty.length)}"`));
      };
      const largest = padded(4 * 1024 * 1024);
      await registry.pushManifest("large", "v1", largest, INDEX);
      const got = await registry.expect("GET /v2/large/manifests/v1", 200);
      assert.ok(largest.equals(Buffer.from(await got.arrayBuffer())));
      const answer = await registry.expect("PUT /v2/large/manifests/v2", 413, {
        body: padded(4 * 1024 * 1024 + 1),
        headers: { "content-type": INDEX },
      });
      assert.equal((await errorOf(answer)).code, "SIZE_INVALID");
    });

    // R2 lists the keys and keeps media types, sizes and referrer descriptors as object metadata, which does not
    // fit every descriptor. The runtime joins repeated headers (OCI-Tag).
    test("an image, its tags, its referrers and the catalog", async () => {
      const name = "team/app";
      const image = await registry.pushImage(name, "v1");
      const referrers = [];
      for (const [artifactType, annotations] of [
        ["application/sbom", { long: "ä".repeat(1000), "org.example": "x" }],
        ["application/sig", { short: "ä", spaces: "two  spaces" }],
        ["application/plain", { "org.example": "x" }],
      ]) {
        const subject = { mediaType: MANIFEST, digest: image.digest, size: image.size };
        const index = { schemaVersion: 2, mediaType: INDEX, manifests: [], artifactType, annotations, subject };
        const body = Buffer.from(JSON.stringify(index));
        const digest = digestOf(body);
        const kind = artifactType.split("/")[1];
        const line = `PUT /v2/${name}/manifests/${digest}?tag=${kind}&tag=v1-${kind}`;
        const pushed = await registry.expect(line, 201, { body, headers: { "content-type": INDEX } });
        assert.equal(pushed.headers.get("oci-tag"), `${kind}, v1-${kind}`);
        assert.equal(pushed.headers.get("oci-subject"), image.digest);
        referrers.push({ mediaType: INDEX, digest, size: body.length, artifactType, annotations });
      }
      referrers.sort((a, b) => (a.digest < b.digest ? -1 : 1));

      for (const reference of ["v1", image.digest]) {
        const head = await registry.expect(`HEAD /v2/${name}/manifests/${reference}`, 200);
        const got = await registry.expect(`GET /v2/${name}/manifests/${reference}`, 200);
        for (const answer of [head, got]) {
          assert.equal(answer.headers.get("content-type"), MANIFEST);
          assert.equal(answer.headers.get("content-length"), String(image.size));
          assert.equal(answer.headers.get("docker-content-digest"), image.digest);
        }
        assert.ok(image.manifest.equals(Buffer.from(await got.arrayBuffer())));
        const headers = { "if-none-match": got.headers.get("etag") };
        await registry.expect(`GET /v2/${name}/manifests/${reference}`, 304, { headers });
      }
      const tags = ["plain", "sbom", "sig", "v1", "v1-plain", "v1-sbom", "v1-sig"];
      assert.deepEqual(await json(`/v2/${name}/tags/list`), { name, tags });
      const first = await registry.expect(`GET /v2/${name}/tags/list?n=1`, 200);
      assert.equal(first.headers.get("link"), `</v2/${name}/tags/list?n=1&last=plain>; rel="next"`);
      assert.ok((await json("/v2/_catalog")).repositories.includes(name));
      assert.deepEqual((await json(`/v2/${name}/referrers/${image.digest}`)).manifests, referrers);

      for (const { digest } of referrers) await registry.expect(`DELETE /v2/${name}/manifests/${digest}`, 202);
      assert.deepEqual((await json(`/v2/${name}/referrers/${image.digest}`)).manifests, []);
      assert.deepEqual((await json(`/v2/${name}/tags/list`)).tags, ["v1"]);
    });

    // A panic ends the WebAssembly instance; the next request needs a new one.
    test("a request that panics gets an answer, and so does the next one", async () => {
      for (const method of ["GET", "POST", "PUT"]) {
        const answer = await registry.expect(`${method} /v2/_test/panic`, 500);
        assert.equal((await errorOf(answer)).code, "UNKNOWN");
        await registry.expect("GET /v2/", 200);
        await registry.pushBlob("after/panic", randomBytes(100));
      }
    });
  });
}
