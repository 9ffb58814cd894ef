// The specification's endpoints, over HTTP, in workerd: statuses, headers, bodies.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { INDEX, MANIFEST, PART, Registry, digestOf, errorOf } from "../support/registry.mjs";

let registry;
before(async () => (registry = await Registry.start()));
after(() => registry.stop());

const unique = () => `r${randomBytes(6).toString("hex")}`;

test("every answer says what this is", async () => {
  const base = await registry.expect("GET /v2/", 200);
  assert.equal(await base.text(), "{}");
  assert.equal(base.headers.get("content-type"), "application/json");
  for (const target of ["/v2/", "/v2/a/manifests/x", "/v2/A/tags/list", "/v2/x"]) {
    const answer = await registry.fetch(target);
    assert.equal(answer.headers.get("docker-distribution-api-version"), "registry/2.0", target);
    assert.match(answer.headers.get("content-type"), /^application\/json/);
  }
});

test("errors have the specification's codes and statuses", async () => {
  const digest = digestOf(randomBytes(10));
  const cases = [
    ["GET /v2/Bad/tags/list", 400, "NAME_INVALID"],
    ["GET /v2/a..b/manifests/latest", 400, "NAME_INVALID"],
    ["GET /v2/none/tags/list", 404, "NAME_UNKNOWN"],
    ["GET /v2/none/manifests/latest", 404, "MANIFEST_UNKNOWN"],
    [`GET /v2/none/manifests/${digest}`, 404, "MANIFEST_UNKNOWN"],
    ["GET /v2/none/manifests/sha256:bad", 400, "DIGEST_INVALID"],
    ["PUT /v2/none/manifests/sha256:bad", 400, "DIGEST_INVALID"],
    ["GET /v2/none/manifests/-x", 400, "MANIFEST_INVALID"],
    [`GET /v2/none/blobs/${digest}`, 404, "BLOB_UNKNOWN"],
    ["GET /v2/none/blobs/sha256:bad", 400, "DIGEST_INVALID"],
    [`DELETE /v2/none/blobs/${digest}`, 404, "BLOB_UNKNOWN"],
    [`DELETE /v2/none/manifests/${digest}`, 404, "MANIFEST_UNKNOWN"],
    ["DELETE /v2/none/manifests/latest", 404, "MANIFEST_UNKNOWN"],
    ["GET /v2/none/referrers/bad", 400, "DIGEST_INVALID"],
    ["GET /v2/none/blobs/uploads/0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a697887", 404, "BLOB_UPLOAD_UNKNOWN"],
    ["PATCH /v2/none/blobs/uploads/0d8f0eb4-9f2a-4b5e-a1d2-3c4b5a697887?_state=x.y", 404, "BLOB_UPLOAD_UNKNOWN"],
    ["PUT /v2/none/manifests/latest", 400, "MANIFEST_INVALID"],
    ["GET /v2/none/tags/list?n=-1", 400, "UNSUPPORTED"],
    ["POST /v2/", 405, "UNSUPPORTED"],
    ["PATCH /v2/none/manifests/latest", 405, "UNSUPPORTED"],
    ["GET /v2/none", 404, "UNSUPPORTED"],
  ];
  for (const [line, status, code] of cases) {
    const error = await errorOf(await registry.expect(line, status));
    assert.equal(error.code, code, line);
    assert.ok(error.message.length > 10, line);
  }
});

for (const algorithm of ["sha256", "sha512"]) {
  describe(`blobs, ${algorithm}`, () => {
    const name = `blobs/${algorithm}`;

    async function served(bytes, repository = name) {
      const digest = digestOf(bytes, algorithm);
      const head = await registry.expect(`HEAD /v2/${repository}/blobs/${digest}`, 200);
      const got = await registry.expect(`GET /v2/${repository}/blobs/${digest}`, 200);
      for (const answer of [head, got]) {
        assert.equal(answer.headers.get("content-length"), String(bytes.length));
        assert.equal(answer.headers.get("docker-content-digest"), digest);
        assert.equal(answer.headers.get("etag"), `"${digest}"`);
        assert.equal(answer.headers.get("accept-ranges"), "bytes");
        assert.equal(answer.headers.get("content-encoding"), null);
        assert.match(answer.headers.get("cache-control"), /immutable.*no-transform/);
      }
      assert.ok(bytes.equals(Buffer.from(await got.arrayBuffer())), "wrong bytes");
    }

    function created(answer, digest) {
      assert.equal(answer.headers.get("docker-content-digest"), digest);
      assert.equal(answer.headers.get("location"), `/v2/${name}/blobs/${digest}`);
    }

    test("in one POST", async () => {
      const bytes = randomBytes(512);
      const digest = digestOf(bytes, algorithm);
      created(await registry.expect(`POST /v2/${name}/blobs/uploads/?digest=${digest}`, 201, { body: bytes }), digest);
      await served(bytes);
    });

    test("by POST and PUT", async () => {
      const bytes = randomBytes(512);
      const started = await registry.expect(`POST /v2/${name}/blobs/uploads/`, 202);
      assert.equal(started.headers.get("range"), "0-0");
      assert.match(started.headers.get("docker-upload-uuid"), /^[0-9a-f-]{36}$/);
      const digest = digestOf(bytes, algorithm);
      const location = started.headers.get("location");
      created(await registry.expect(`PUT ${location}&digest=${digest}`, 201, { body: bytes }), digest);
      await served(bytes);
    });

    test("in chunks, with the algorithm announced or not, with a last chunk in the PUT or not", async () => {
      for (const query of ["", `?digest-algorithm=${algorithm}`]) {
        for (const putsLast of [false, true]) {
          const bytes = randomBytes(3 * 1024 - 5);
          const digest = digestOf(bytes, algorithm);
          let location = await registry.startUpload(name, query);
          let at = 0;
          for (const end of [1024, 2048, bytes.length]) {
            const isLast = putsLast && end === bytes.length;
            const line = isLast ? `PUT ${location}&digest=${digest}` : `PATCH ${location}`;
            const options = { body: bytes.subarray(at, end), headers: { "content-range": `${at}-${end - 1}` } };
            const answer = await registry.expect(line, isLast ? 201 : 202, options);
            if (!isLast) assert.equal(answer.headers.get("range"), `0-${end - 1}`);
            location = answer.headers.get("location");
            at = end;
          }
          if (!putsLast) created(await registry.expect(`PUT ${location}&digest=${digest}`, 201), digest);
          await served(bytes);
        }
      }
    });

    test("as a stream without a length, of several parts", async () => {
      for (const size of [0, 1, 70_000, PART, 2 * PART + 12_345]) {
        const bytes = randomBytes(size);
        const body = new ReadableStream({
          start(controller) {
            for (let at = 0; at < size; at += 100_000) controller.enqueue(bytes.subarray(at, at + 100_000));
            controller.close();
          },
        });
        const location = await registry.startUpload(name);
        const patched = await registry.expect(`PATCH ${location}`, 202, { body, duplex: "half" });
        assert.equal(patched.headers.get("range"), `0-${Math.max(size - 1, 0)}`);
        const digest = digestOf(bytes, algorithm);
        created(await registry.expect(`PUT ${patched.headers.get("location")}&digest=${digest}`, 201), digest);
        await served(bytes);
      }
    });

    test("out of order: 416, and the session goes on", async () => {
      const bytes = randomBytes(3000);
      const digest = digestOf(bytes, algorithm);
      let location = await registry.startUpload(name);
      const send = (method, from, to, status) =>
        registry.expect(`${method} ${location}${method === "PUT" ? `&digest=${digest}` : ""}`, status, {
          body: bytes.subarray(from, to),
          headers: { "content-range": `${from}-${to - 1}` },
        });
      const refused = async (method, from, to, range) => {
        const answer = await send(method, from, to, 416);
        assert.equal(answer.headers.get("range"), range);
        location = answer.headers.get("location");
        assert.equal((await errorOf(answer)).code, "BLOB_UPLOAD_INVALID");
        const status = await registry.expect(`GET ${location}`, 204);
        assert.equal(status.headers.get("range"), range);
        location = status.headers.get("location");
      };
      await refused("PATCH", 1000, 2000, "0-0");
      await refused("PUT", 2000, 3000, "0-0");
      location = (await send("PATCH", 0, 1000, 202)).headers.get("location");
      await refused("PATCH", 0, 1000, "0-999");
      await refused("PATCH", 2000, 3000, "0-999");
      location = (await send("PATCH", 1000, 2000, 202)).headers.get("location");
      await refused("PUT", 0, 1000, "0-1999");
      created(await send("PUT", 2000, 3000, 201), digest);
      await served(bytes);
    });

    test("a wrong digest stores nothing, whichever way it comes", async () => {
      const bytes = randomBytes(2000);
      const digest = digestOf(randomBytes(2000), algorithm);
      const refused = async (line, options) => {
        assert.equal((await errorOf(await registry.expect(line, 400, options))).code, "DIGEST_INVALID");
        await registry.expect(`HEAD /v2/${name}/blobs/${digest}`, 404);
      };
      await refused(`POST /v2/${name}/blobs/uploads/?digest=${digest}`, { body: bytes });
      await refused(`PUT ${await registry.startUpload(name)}&digest=${digest}`, { body: bytes });
      const location = await registry.startUpload(name);
      const patched = await registry.expect(`PATCH ${location}`, 202, { body: bytes });
      await refused(`PUT ${patched.headers.get("location")}&digest=${digest}`);
      await registry.expect(`GET ${patched.headers.get("location")}`, 404);
      const large = await registry.expect(`PATCH ${await registry.startUpload(name)}`, 202, { body: randomBytes(PART + 1) });
      await refused(`PUT ${large.headers.get("location")}&digest=${digest}`);
    });

    test("the empty blob", async () => {
      const empty = Buffer.alloc(0);
      const digest = digestOf(empty, algorithm);
      created(await registry.expect(`PUT ${await registry.startUpload(name)}&digest=${digest}`, 201), digest);
      await served(empty);
      await registry.expect(`DELETE /v2/${name}/blobs/${digest}`, 202);
      await registry.expect(`HEAD /v2/${name}/blobs/${digest}`, 404);
    });

    test("mounted from a repository, from any, or not at all", async () => {
      const bytes = randomBytes(700);
      const [source, target, other] = [unique(), unique(), unique()];
      const digest = await registry.pushBlob(source, bytes, algorithm);
      await registry.expect(`HEAD /v2/${target}/blobs/${digest}`, 404);
      const missing = await registry.expect(`POST /v2/${target}/blobs/uploads/?mount=${digest}&from=${other}`, 202);
      assert.ok(missing.headers.get("location"));
      const mounted = await registry.expect(`POST /v2/${target}/blobs/uploads/?mount=${digest}&from=${source}`, 201);
      assert.equal(mounted.headers.get("location"), `/v2/${target}/blobs/${digest}`);
      await served(bytes, target);
      await registry.expect(`POST /v2/${other}/blobs/uploads/?mount=${digest}`, 201);
      await registry.expect(`DELETE /v2/${source}/blobs/${digest}`, 202);
      await served(bytes, other);
      const unknown = digestOf(randomBytes(5), algorithm);
      await registry.expect(`POST /v2/${other}/blobs/uploads/?mount=${unknown}`, 202);
    });

    test("ranges and validators", async () => {
      const bytes = randomBytes(2048);
      const digest = await registry.pushBlob(name, bytes, algorithm);
      const line = `GET /v2/${name}/blobs/${digest}`;
      for (const [range, from, to] of [
        ["bytes=500-1499", 500, 1500],
        ["bytes=500-", 500, 2048],
        ["bytes=-500", 1548, 2048],
        ["bytes=2000-5000", 2000, 2048],
        ["bytes=0-0", 0, 1],
      ]) {
        const answer = await registry.expect(line, 206, { headers: { range } });
        assert.equal(answer.headers.get("content-range"), `bytes ${from}-${to - 1}/2048`, range);
        assert.equal(answer.headers.get("content-length"), String(to - from), range);
        assert.ok(bytes.subarray(from, to).equals(Buffer.from(await answer.arrayBuffer())), range);
      }
      for (const range of ["bytes=500-0", "bytes=5000-10000", "bytes=2048-", "bytes=-0"]) {
        const answer = await registry.expect(line, 416, { headers: { range } });
        assert.equal(answer.headers.get("content-range"), "bytes */2048", range);
      }
      const several = await registry.expect(line, 200, { headers: { range: "bytes=0-1,5-6" } });
      assert.equal((await several.arrayBuffer()).byteLength, 2048);
      for (const method of ["GET", "HEAD"]) {
        const target = line.replace("GET", method);
        await registry.expect(target, 304, { headers: { "if-none-match": `"x", "${digest}"` } });
        await registry.expect(target, 200, { headers: { "if-none-match": '"x"' } });
      }
      const compressible = Buffer.from("a".repeat(100_000));
      await registry.pushBlob(name, compressible, algorithm);
      const answer = await registry.expect(`GET /v2/${name}/blobs/${digestOf(compressible, algorithm)}`, 200, {
        headers: { "accept-encoding": "gzip, br" },
      });
      assert.equal(answer.headers.get("content-encoding"), null);
      assert.equal(answer.headers.get("content-length"), "100000");
    });
  });
}

test("an upload can be cancelled, and belongs to its repository", async () => {
  const location = await registry.startUpload("cancel/a");
  const patched = await registry.expect(`PATCH ${location}`, 202, { body: randomBytes(10) });
  const after = patched.headers.get("location");
  await registry.expect(`GET ${after.replace("cancel/a", "cancel/b")}`, 404);
  await registry.expect(`DELETE ${after}`, 204);
  for (const line of [`GET ${after}`, `PATCH ${after}`, `DELETE ${after}`, `GET ${location}`, `PATCH ${location}`]) {
    assert.equal((await errorOf(await registry.expect(line, 404))).code, "BLOB_UPLOAD_UNKNOWN", line);
  }
  await registry.expect(`DELETE ${await registry.startUpload("cancel/a")}`, 204);
});

test("a last chunk sent to the first location is refused, not lost", async () => {
  const bytes = randomBytes(2000);
  const location = await registry.startUpload("stale");
  await registry.expect(`PATCH ${location}`, 202, { body: bytes.subarray(0, 1000) });
  const line = `PUT ${location}&digest=${digestOf(bytes)}`;
  const refused = await registry.expect(line, 416, { body: bytes.subarray(1000) });
  assert.equal(refused.headers.get("range"), "0-999");
  const again = `PUT ${refused.headers.get("location")}&digest=${digestOf(bytes)}`;
  await registry.expect(again, 201, { body: bytes.subarray(1000) });
});

test("lengths that do not agree are refused", async () => {
  const location = await registry.startUpload("lengths");
  const headers = { "content-range": "0-99" };
  const error = await errorOf(await registry.expect(`PATCH ${location}`, 400, { body: randomBytes(50), headers }));
  assert.equal(error.code, "SIZE_INVALID");
  for (const content of [50, 150]) {
    const body = new ReadableStream({
      start(controller) {
        controller.enqueue(randomBytes(content));
        controller.close();
      },
    });
    const answer = await registry.expect(`PATCH ${location}`, 400, { body, headers, duplex: "half" });
    assert.equal((await errorOf(answer)).code, "SIZE_INVALID");
  }
  const malformed = await registry.expect(`PATCH ${location}`, 416, { body: "x", headers: { "content-range": "x" } });
  assert.equal(malformed.headers.get("range"), "0-0");
  assert.equal((await registry.expect(`GET ${location}`, 204)).headers.get("range"), "0-0");
});

test("manifests are served as they were pushed, by tag and by digest", async () => {
  const name = unique();
  const { digest, manifest, size } = await registry.pushImage(name, "v1");
  for (const reference of ["v1", digest]) {
    const head = await registry.expect(`HEAD /v2/${name}/manifests/${reference}`, 200);
    const got = await registry.expect(`GET /v2/${name}/manifests/${reference}`, 200);
    for (const answer of [head, got]) {
      assert.equal(answer.headers.get("content-type"), MANIFEST);
      assert.equal(answer.headers.get("content-length"), String(size));
      assert.equal(answer.headers.get("docker-content-digest"), digest);
    }
    assert.ok(manifest.equals(Buffer.from(await got.arrayBuffer())));
    const etag = got.headers.get("etag");
    await registry.expect(`GET /v2/${name}/manifests/${reference}`, 304, { headers: { "if-none-match": etag } });
  }
  const moved = await registry.pushImage(name, "v1");
  const now = await registry.expect(`HEAD /v2/${name}/manifests/v1`, 200);
  assert.equal(now.headers.get("docker-content-digest"), moved.digest);
  await registry.expect(`GET /v2/${name}/manifests/${digest}`, 200);
});

test("a push by digest verifies it and can set tags", async () => {
  const name = unique();
  for (const algorithm of ["sha256", "sha512"]) {
    const manifest = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests: [], algorithm }));
    const digest = digestOf(manifest, algorithm);
    const line = `PUT /v2/${name}/manifests/${digest}`;
    const headers = { "content-type": INDEX };
    const answer = await registry.expect(`${line}?tag=a-${algorithm}&tag=b-${algorithm}`, 201, { body: manifest, headers });
    assert.deepEqual(answer.headers.get("oci-tag").split(", "), [`a-${algorithm}`, `b-${algorithm}`]);
    assert.equal(answer.headers.get("docker-content-digest"), digest);
    for (const tag of ["a", "b"]) {
      const head = await registry.expect(`HEAD /v2/${name}/manifests/${tag}-${algorithm}`, 200);
      assert.equal(head.headers.get("docker-content-digest"), digest);
    }
    const wrong = await registry.expect(line, 400, { body: Buffer.concat([manifest, Buffer.from(" ")]), headers });
    assert.equal((await errorOf(wrong)).code, "DIGEST_INVALID");
  }
});

test("manifests that refer to missing blobs are refused, each blob named", async () => {
  const name = unique();
  const config = await registry.pushBlob(name, Buffer.from("{}"));
  const [one, two] = [digestOf(randomBytes(4)), digestOf(randomBytes(4))];
  const descriptor = (digest, more) => ({ mediaType: "application/x", digest, size: 2, ...more });
  const manifest = (layers) =>
    JSON.stringify({ schemaVersion: 2, mediaType: MANIFEST, config: descriptor(config), layers });
  const refused = await registry.expect(`PUT /v2/${name}/manifests/latest`, 400, {
    body: manifest([descriptor(one), descriptor(two)]),
    headers: { "content-type": MANIFEST },
  });
  const { errors } = await refused.json();
  assert.deepEqual(errors.map((error) => error.code), ["MANIFEST_BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN"]);
  assert.deepEqual(errors.map((error) => error.detail.digest).sort(), [one, two].sort());
  await registry.pushManifest(name, "foreign", manifest([descriptor(one, { urls: ["https://store.example/x"] })]));
  const index = JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests: [descriptor(one)] });
  await registry.pushManifest(name, "sparse", index, INDEX);
  // A blob of another repository is no blob of this one.
  const elsewhere = await registry.pushBlob(unique(), randomBytes(9));
  await registry.expect(`PUT /v2/${name}/manifests/latest`, 400, {
    body: manifest([descriptor(elsewhere)]),
    headers: { "content-type": MANIFEST },
  });
});

test("manifests of 4 MiB are taken, larger ones are not", async () => {
  const name = unique();
  const padded = (length) => {
    const empty = JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests: [], annotations: { pad: "" } });
    return empty.replace('"pad":""', `"pad":"${"x".repeat(length - empty.length)}"`);
  };
  await registry.pushManifest(name, "large", padded(4 * 1024 * 1024), INDEX);
  const got = await registry.expect(`GET /v2/${name}/manifests/large`, 200);
  assert.equal((await got.arrayBuffer()).byteLength, 4 * 1024 * 1024);
  const answer = await registry.expect(`PUT /v2/${name}/manifests/larger`, 413, {
    body: padded(4 * 1024 * 1024 + 1),
    headers: { "content-type": INDEX },
  });
  assert.equal((await errorOf(answer)).code, "SIZE_INVALID");
});

test("deleting: a tag alone, or a manifest with its tags", async () => {
  const name = unique();
  const { digest } = await registry.pushImage(name, "a");
  for (const tag of ["b", "c"]) {
    const got = await registry.expect(`GET /v2/${name}/manifests/${digest}`, 200);
    await registry.pushManifest(name, tag, Buffer.from(await got.arrayBuffer()));
  }
  const other = await registry.pushImage(name, "c");
  await registry.expect(`DELETE /v2/${name}/manifests/a`, 202);
  await registry.expect(`GET /v2/${name}/manifests/a`, 404);
  await registry.expect(`GET /v2/${name}/manifests/${digest}`, 200);
  await registry.expect(`DELETE /v2/${name}/manifests/${digest}`, 202);
  for (const reference of [digest, "a", "b"]) await registry.expect(`GET /v2/${name}/manifests/${reference}`, 404);
  const kept = await registry.expect(`HEAD /v2/${name}/manifests/c`, 200);
  assert.equal(kept.headers.get("docker-content-digest"), other.digest);
  await registry.expect(`DELETE /v2/${name}/manifests/${digest}`, 404);
  const list = await (await registry.expect(`GET /v2/${name}/tags/list`, 200)).json();
  assert.deepEqual(list, { name, tags: ["c"] });
});

test("tags are listed in order, page by page", async () => {
  const name = unique();
  const index = JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests: [] });
  const tags = ["v1", "v1-a", "v1.0", "v10", "V", "_x", "latest", "v"];
  for (const tag of tags) await registry.pushManifest(name, tag, index, INDEX);
  const sorted = [...tags].sort();
  const whole = await (await registry.expect(`GET /v2/${name}/tags/list`, 200)).json();
  assert.deepEqual(whole.tags, sorted);
  for (const n of [1, 2, 3, 8]) {
    const seen = [];
    for (let target = `/v2/${name}/tags/list?n=${n}`; target; ) {
      const answer = await registry.expect(`GET ${target}`, 200);
      const page = (await answer.json()).tags;
      assert.ok(page.length <= n && page.length > 0);
      seen.push(...page);
      const link = answer.headers.get("link");
      target = link && link.match(/^<(.*)>; rel="next"$/)[1];
    }
    assert.deepEqual(seen, sorted, `n=${n}`);
  }
  const none = await registry.expect(`GET /v2/${name}/tags/list?n=0`, 200);
  assert.deepEqual((await none.json()).tags, []);
  assert.equal(none.headers.get("link"), null);
  const last = await registry.expect(`GET /v2/${name}/tags/list?last=v1`, 200);
  assert.deepEqual((await last.json()).tags, sorted.filter((tag) => tag > "v1"));
});

test("the catalog has every repository with a manifest, page by page", async () => {
  const prefix = unique();
  const names = ["a", "a/b", "a-b", "b"].map((name) => `${prefix}/${name}`);
  for (const name of names) await registry.pushImage(name, "x");
  const seen = [];
  for (let target = "/v2/_catalog?n=2"; target; ) {
    const answer = await registry.expect(`GET ${target}`, 200);
    seen.push(...(await answer.json()).repositories);
    const link = answer.headers.get("link");
    target = link && link.match(/^<(.*)>; rel="next"$/)[1];
  }
  assert.deepEqual(seen.filter((name) => name.startsWith(prefix)), [...names].sort());
  assert.deepEqual(seen, [...seen].sort());
});

test("referrers: of a subject that may be absent, filtered, paged, removed", async () => {
  const name = unique();
  const subject = { mediaType: MANIFEST, digest: digestOf(randomBytes(8)), size: 123 };
  const list = async (query = "") => {
    const answer = await registry.expect(`GET /v2/${name}/referrers/${subject.digest}${query}`, 200);
    assert.equal(answer.headers.get("content-type"), INDEX);
    const index = await answer.json();
    assert.deepEqual([index.schemaVersion, index.mediaType], [2, INDEX]);
    return { answer, manifests: index.manifests };
  };
  assert.deepEqual((await list()).manifests, []);
  const config = { mediaType: "application/vnd.oci.image.config.v1+json", digest: await registry.pushBlob(name, Buffer.from("{}")), size: 2 };
  const push = async (manifest) => {
    const body = JSON.stringify({ schemaVersion: 2, subject, ...manifest });
    const answer = await registry.pushManifest(name, digestOf(body), body, manifest.mediaType);
    assert.equal(answer.headers.get("oci-subject"), subject.digest);
    return { digest: digestOf(body), size: Buffer.byteLength(body), mediaType: manifest.mediaType };
  };
  const long = { long: "ä".repeat(1000), "org.example": "x" };
  const image = await push({ mediaType: MANIFEST, config, layers: [] });
  const signature = await push({ mediaType: MANIFEST, artifactType: "application/sig", config, layers: [], annotations: long });
  const index = await push({ mediaType: INDEX, artifactType: "application/sbom", manifests: [] });
  const bare = await push({ mediaType: INDEX, manifests: [] });
  const expected = [
    { ...image, artifactType: config.mediaType },
    { ...signature, artifactType: "application/sig", annotations: long },
    { ...index, artifactType: "application/sbom" },
    bare,
  ];
  const byDigest = (a, b) => (a.digest < b.digest ? -1 : 1);
  assert.deepEqual((await list()).manifests.sort(byDigest), expected.sort(byDigest));
  const filtered = await list("?artifactType=application%2Fsig");
  assert.equal(filtered.answer.headers.get("oci-filters-applied"), "artifactType");
  assert.deepEqual(filtered.manifests.map((entry) => entry.digest), [signature.digest]);
  const seen = [];
  for (let query = "?n=3"; query; ) {
    const page = await list(query);
    seen.push(...page.manifests);
    const link = page.answer.headers.get("link");
    query = link && link.match(/^<[^?]*(\?.*)>; rel="next"$/)[1];
  }
  assert.deepEqual(seen.sort(byDigest), expected);
  await registry.expect(`DELETE /v2/${name}/manifests/${signature.digest}`, 202);
  assert.equal((await list()).manifests.length, 3);
});

test("other kinds of manifest are kept with their type", async () => {
  const name = unique();
  const config = { mediaType: "application/vnd.docker.container.image.v1+json", digest: await registry.pushBlob(name, Buffer.from("{}")), size: 2 };
  for (const [type, content] of [
    ["application/vnd.docker.distribution.manifest.v2+json", { config, layers: [] }],
    ["application/vnd.docker.distribution.manifest.list.v2+json", { manifests: [] }],
    ["application/vnd.example.thing+json", { anything: ["goes"] }],
  ]) {
    const body = JSON.stringify({ schemaVersion: 2, mediaType: type, ...content });
    await registry.pushManifest(name, "x", body, type);
    const got = await registry.expect(`GET /v2/${name}/manifests/x`, 200);
    assert.equal(got.headers.get("content-type"), type);
    assert.equal(await got.text(), body);
  }
  for (const [type, body] of [[MANIFEST, "not json"], [MANIFEST, "{}"], [INDEX, JSON.stringify({ mediaType: MANIFEST, manifests: [] })]]) {
    const answer = await registry.expect(`PUT /v2/${name}/manifests/x`, 400, { body, headers: { "content-type": type } });
    assert.equal((await errorOf(answer)).code, "MANIFEST_INVALID");
  }
});

test("a panic is answered, and so is the next request", async () => {
  for (const method of ["GET", "POST"]) {
    const answer = await registry.expect(`${method} /v2/_test/panic`, 500);
    assert.equal((await errorOf(answer)).code, "UNKNOWN");
    await registry.expect("GET /v2/", 200);
    await registry.pushBlob("after/panic", randomBytes(100));
  }
});
