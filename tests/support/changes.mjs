// The operations that change a repository, as requests that may be interrupted or fail half-way. Each is
//
//   begin(name, pick)          prepares the repository `name`; returns what the request is about. `pick` chooses a
//                              number from a range
//   send(about, send)          sends the request by `send`
//   check(about, status, how)  looks what is there, then sends the request again. `status` is that of the first answer,
//                              if there was one, and `how.isRecovered` says that what was half-way has been finished
//   isOwn                      whether its keys are also those of others
//   statuses                   of an answer that is not an error
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { image } from "./pushes.mjs";
import { MANIFEST, PART, digestOf } from "./registry.mjs";

// A few at a time.
export async function forEach(list, use) {
  const queue = [...list];
  const work = async () => {
    for (let next; (next = queue.shift());) await use(next);
  };
  await Promise.all(Array.from({ length: 6 }, work));
}

export function changesOf(registry) {
  async function offsetOf(location) {
    const status = await registry.expect(`GET ${location}`, 204);
    const last = Number(status.headers.get("range").slice(2));
    return { offset: last === 0 ? 0 : last + 1, location: status.headers.get("location") };
  }

  async function served(name, bytes) {
    const digest = digestOf(bytes);
    const got = await registry.expect(`GET /v2/${name}/blobs/${digest}`, 200);
    assert.equal(digestOf(Buffer.from(await got.arrayBuffer())), digest);
  }

  async function finishAndCheck(name, location, bytes) {
    await registry.expect(`PUT ${location}&digest=${digestOf(bytes)}`, 201);
    await served(name, bytes);
  }

  // Sends a request again, which may have been carried out before.
  async function again(line, statuses, options = {}) {
    const [method, target] = line.split(" ");
    const answer = await registry.fetch(target, { method, ...options });
    const text = await answer.text();
    assert.ok(statuses.includes(answer.status), `${method} again: ${answer.status}: ${text}`);
  }

  const first = (name) => registry.startUpload(name);
  const begun = async (name, bytes) => {
    const answer = await registry.expect(`PATCH ${await first(name)}`, 202, { body: bytes });
    return answer.headers.get("location");
  };

  // The chunk of a new upload is interrupted. `least` is what must have been kept, in bytes.
  const chunk = (size, least = 0) => ({
    isOwn: true,
    statuses: [202],
    begin: async (name, pick) => ({ name, bytes: randomBytes(size(pick)), location: await first(name) }),
    send: ({ location, bytes }, send) => send(`PATCH ${location}`, { body: bytes }),
    async check({ name, bytes, location: before }) {
      const { offset, location } = await offsetOf(before);
      assert.ok(offset >= least, `only ${offset} bytes were kept`);
      if (offset === bytes.length) return finishAndCheck(name, location, bytes);
      const headers = { "content-range": `${offset}-${bytes.length - 1}` };
      const answer = await registry.expect(`PATCH ${location}`, 202, { body: bytes.subarray(offset), headers });
      await finishAndCheck(name, answer.headers.get("location"), bytes);
    },
  });
  // No number of parts divides this length: the end of the chunk fills no part.
  const ofParts = chunk((pick) => 2 * PART + 6 * pick(0, 1_000_000) + 3);
  const small = chunk((pick) => pick(2, 100_000));

  // The end of an upload is interrupted.
  const commit = (size) => ({
    isOwn: true,
    statuses: [201],
    async begin(name, pick) {
      const bytes = randomBytes(size(pick));
      return { name, bytes, line: `PUT ${await begun(name, bytes)}&digest=${digestOf(bytes)}` };
    },
    send: ({ line }, send) => send(line),
    async check({ name, bytes, line }, status) {
      if (status === 201) await served(name, bytes);
      await again(line, [201]);
      await served(name, bytes);
    },
  });
  const commitOfParts = commit((pick) => PART + pick(1, 1000));
  const commitOfFirst = commit((pick) => pick(2, 100_000));

  // A blob is sent whole, with or without an upload.
  const whole = (size, isPut = false) => ({
    isOwn: true,
    statuses: [201],
    async begin(name, pick) {
      const bytes = randomBytes(size(pick));
      const line = isPut ? `PUT ${await first(name)}&` : `POST /v2/${name}/blobs/uploads/?`;
      return { name, bytes, line: `${line}digest=${digestOf(bytes)}` };
    },
    send: ({ line, bytes }, send) => send(line, { body: bytes }),
    async check({ name, bytes, line }, status) {
      if (status === 201) await served(name, bytes);
      await again(line, [201], { body: bytes });
      await served(name, bytes);
    },
  });
  const wholeSmall = whole((pick) => pick(2, 100_000));
  const wholeLarge = whole((pick) => PART + pick(1, 1000));
  const put = whole((pick) => pick(2, 100_000), true);

  const mount = {
    isOwn: true,
    statuses: [201],
    async begin(name) {
      const bytes = randomBytes(1000);
      await registry.pushBlob(`${name}/source`, bytes);
      return { name, bytes, line: `POST /v2/${name}/blobs/uploads/?mount=${digestOf(bytes)}&from=${name}/source` };
    },
    send: ({ line }, send) => send(line),
    async check({ name, bytes, line }) {
      await served(`${name}/source`, bytes);
      await again(line, [201]);
      await served(name, bytes);
    },
  };

  const cancel = {
    isOwn: true,
    statuses: [204],
    begin: async (name) => ({ location: await begun(name, randomBytes(PART + 1000)) }),
    send: ({ location }, send) => send(`DELETE ${location}`),
    async check({ location }) {
      await again(`DELETE ${location}`, [204, 404]);
      await registry.expect(`GET ${location}`, 404);
    },
  };

  // The digest of the manifest that is served; 404 if there is none.
  const digestAt = async (name, reference) => {
    const answer = await registry.fetch(`/v2/${name}/manifests/${reference}`);
    const bytes = Buffer.from(await answer.arrayBuffer());
    if (answer.status === 404) return 404;
    const digest = digestOf(bytes);
    const served = [answer.status, answer.headers.get("docker-content-digest")];
    assert.deepEqual(served, [200, digest], `GET of the manifest ${reference}: ${answer.status}: ${bytes}`);
    return digest;
  };
  // Every page: a page may be short, or empty with another one behind it.
  const pages = async (target) => {
    const all = [];
    for (let next = target; next;) {
      const answer = await registry.expect(`GET ${next}`, 200);
      all.push(await answer.json());
      next = answer.headers.get("link")?.match(/^<(.*)>; rel="next"$/)[1];
    }
    return all;
  };
  const tagsOf = async (name) => (await pages(`/v2/${name}/tags/list`)).flatMap(({ tags }) => tags);
  const referrersOf = async (name, subject) => {
    const lists = await pages(`/v2/${name}/referrers/${subject}`);
    return lists.flatMap(({ manifests }) => manifests.map(({ digest }) => digest));
  };

  // Everything that is listed can be pulled. A deletion may be finished in between: what cannot be pulled any more must
  // not be listed afterwards.
  async function assertListed(name, subject) {
    for (const tag of await tagsOf(name)) {
      const digest = await digestAt(name, tag);
      if (digest === 404) assert.ok(!(await tagsOf(name)).includes(tag), `the tag ${tag} is listed: ${digest}`);
      else if ((await digestAt(name, digest)) !== digest) {
        assert.notEqual(await digestAt(name, tag), digest, `the tag ${tag} names ${digest}, which is gone`);
      }
    }
    for (const digest of await referrersOf(name, subject)) {
      if ((await digestAt(name, digest)) === digest) continue;
      assert.ok(!(await referrersOf(name, subject)).includes(digest), `the referrer ${digest} is listed`);
    }
  }

  // It can be removed, and is gone then.
  async function assertRemoved(name, subject) {
    for (const tag of await tagsOf(name)) await registry.expect(`DELETE /v2/${name}/manifests/${tag}`, 202);
    const referrers = await referrersOf(name, subject);
    assert.equal(new Set(referrers).size, referrers.length, `listed twice: ${referrers}`);
    for (const digest of referrers) await registry.expect(`DELETE /v2/${name}/manifests/${digest}`, 202);
    assert.deepEqual([await tagsOf(name), await referrersOf(name, subject)], [[], []]);
  }

  // The repository has an image as `v1` and `old`, with a referrer; all of it was acknowledged. `use` says which request
  // is interrupted, what may be there before it is repeated, and what must be there after it.
  const manifest = (use) => ({
    statuses: [201, 202],
    async begin(name) {
      const base = image([100]);
      for (const body of [base.config, ...base.layers]) {
        await registry.expect(`POST /v2/${name}/blobs/uploads/?digest=${digestOf(body)}`, 201, { body });
      }
      for (const tag of ["v1", "old"]) await registry.pushManifest(name, tag, base.manifest);
      // A manifest of the same blobs.
      const variant = (more) => {
        const bytes = Buffer.from(JSON.stringify({ ...JSON.parse(base.manifest), ...more }));
        return { bytes, digest: digestOf(bytes) };
      };
      const subject = { mediaType: MANIFEST, digest: base.digest, size: base.manifest.length };
      const referrer = variant({ subject });
      await registry.pushManifest(name, "referrer", referrer.bytes);
      const another = variant({ annotations: { name } });
      const attached = variant({ subject, annotations: { name } });
      const about = { name, base, layer: digestOf(base.layers[0]), referrer, another, attached };
      return { ...about, ...use(about) };
    },
    send: ({ line, body }, send) => send(line, options(body)),
    async check({ name, base, line, body, statuses, kept = {}, before = {}, after }, status, { isRecovered }) {
      const assertState = async (expected, when) => {
        for (const [reference, wanted] of Object.entries(expected)) {
          const found = await digestAt(name, reference);
          assert.ok([wanted].flat().includes(found), `${when}: ${reference} is ${found}, not ${wanted}`);
        }
      };
      if (isRecovered) await assertListed(name, base.digest);
      await assertState({ ...kept, ...before }, "before the repeated request");
      if (this.statuses.includes(status)) await assertState(after, "acknowledged");
      await again(line, statuses, options(body));
      await assertState({ ...kept, ...after }, "after the repeated request");
      await assertListed(name, base.digest);
      // Where nothing is left to finish: otherwise each deletion waits for it.
      if (isRecovered) await assertRemoved(name, base.digest);
    },
  });
  const options = (body) => (body ? { body, headers: { "content-type": MANIFEST } } : {});

  const push = manifest(({ name, base, another }) => ({
    line: `PUT /v2/${name}/manifests/v2`,
    body: another.bytes,
    statuses: [201],
    kept: { v1: base.digest, old: base.digest },
    before: { v2: [another.digest, 404] },
    after: { v2: another.digest, [another.digest]: another.digest },
  }));
  const move = manifest(({ name, base, another }) => ({
    line: `PUT /v2/${name}/manifests/v1`,
    body: another.bytes,
    statuses: [201],
    kept: { old: base.digest, [base.digest]: base.digest },
    before: { v1: [another.digest, base.digest] },
    after: { v1: another.digest, [another.digest]: another.digest },
  }));
  const retag = manifest(({ name, base }) => ({
    line: `PUT /v2/${name}/manifests/v2`,
    body: base.manifest,
    statuses: [201],
    kept: { v1: base.digest, old: base.digest },
    before: { v2: [base.digest, 404] },
    after: { v2: base.digest },
  }));
  const tagged = manifest(({ name, base, another }) => ({
    line: `PUT /v2/${name}/manifests/${another.digest}?tag=a&tag=b`,
    body: another.bytes,
    statuses: [201],
    kept: { v1: base.digest, old: base.digest },
    before: { a: [another.digest, 404], b: [another.digest, 404] },
    after: { a: another.digest, b: another.digest, [another.digest]: another.digest },
  }));
  const attach = manifest(({ name, base, referrer, attached }) => ({
    line: `PUT /v2/${name}/manifests/sbom`,
    body: attached.bytes,
    statuses: [201],
    kept: { v1: base.digest, referrer: referrer.digest },
    before: { sbom: [attached.digest, 404] },
    after: { sbom: attached.digest, [attached.digest]: attached.digest },
  }));

  const untag = manifest(({ name, base }) => ({
    line: `DELETE /v2/${name}/manifests/v1`,
    statuses: [202, 404],
    kept: { old: base.digest, [base.digest]: base.digest },
    before: { v1: [base.digest, 404] },
    after: { v1: 404 },
  }));
  const remove = manifest(({ name, base, referrer }) => ({
    line: `DELETE /v2/${name}/manifests/${base.digest}`,
    statuses: [202, 404],
    kept: { referrer: referrer.digest },
    before: { v1: [base.digest, 404], old: [base.digest, 404], [base.digest]: [base.digest, 404] },
    after: { v1: 404, old: 404, [base.digest]: 404 },
  }));
  const detach = manifest(({ name, base, referrer }) => ({
    line: `DELETE /v2/${name}/manifests/${referrer.digest}`,
    statuses: [202, 404],
    kept: { v1: base.digest },
    before: { referrer: [referrer.digest, 404] },
    after: { referrer: 404, [referrer.digest]: 404 },
  }));
  const unlink = {
    statuses: [202],
    begin: async (name) => {
      const bytes = randomBytes(1000);
      await registry.pushBlob(name, bytes);
      return { name, bytes, line: `DELETE /v2/${name}/blobs/${digestOf(bytes)}` };
    },
    send: ({ line }, send) => send(line),
    async check({ name, bytes, line }) {
      await again(line, [202, 404]);
      await registry.expect(`GET /v2/${name}/blobs/${digestOf(bytes)}`, 404);
      await registry.pushBlob(name, bytes);
      await served(name, bytes);
    },
  };

  return {
    offsetOf,
    finishAndCheck,
    ofParts,
    chunk,
    small,
    commitOfParts,
    commitOfFirst,
    wholeSmall,
    wholeLarge,
    put,
    mount,
    cancel,
    push,
    move,
    retag,
    tagged,
    attach,
    untag,
    remove,
    detach,
    unlink,
  };
}
