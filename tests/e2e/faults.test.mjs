// Kills the runtime at chosen moments of every operation, and cuts connections at random points of chunked uploads.
// Afterwards what was acknowledged holds, an upload resumes at its offset, the same request repeated succeeds, and what
// is listed can be pulled and removed.
import assert from "node:assert/strict";
import { randomBytes, randomInt } from "node:crypto";
import http from "node:http";
import { after, before, test } from "node:test";
import { Kills, ROUNDS } from "../support/kills.mjs";
import { image } from "../support/pushes.mjs";
import { MANIFEST, PART, Registry, digestOf } from "../support/registry.mjs";

const CUTS = 12;
const SMALLEST_PART = 5 * 1024 * 1024;

let registry;
before(async () => (registry = await Registry.start()));
after(() => registry.stop());

// Sends the beginning of a chunk of unknown length piece by piece, waits, and hangs up.
async function sendAndHangUp(location, bytes, waited) {
  const request = http.request(new URL(location, registry.url), { method: "PATCH" });
  request.on("error", () => {});
  for (let at = 0; at < bytes.length; at += 512 * 1024) {
    await new Promise((resolve) => request.write(bytes.subarray(at, at + 512 * 1024), () => setTimeout(resolve, 3)));
  }
  await waited();
  request.destroy();
}

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

// --- uploads ---

const first = (name) => registry.startUpload(name);
const begun = async (name, bytes) => {
  const answer = await registry.expect(`PATCH ${await first(name)}`, 202, { body: bytes });
  return answer.headers.get("location");
};

// The chunk of a new upload is interrupted. `least` is what must have been kept, in bytes.
const chunk = (size, least = 0) => ({
  isOwn: true,
  begin: async (name, kills) => ({ name, bytes: randomBytes(size(kills)), location: await first(name) }),
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
const ofParts = chunk((kills) => 2 * PART + kills.pick(1, PART - 1));
const small = chunk((kills) => kills.pick(1, 100_000));

// The end of an upload is interrupted.
const commit = (size) => ({
  isOwn: true,
  async begin(name, kills) {
    const bytes = randomBytes(size(kills));
    return { name, bytes, line: `PUT ${await begun(name, bytes)}&digest=${digestOf(bytes)}` };
  },
  send: ({ line }, send) => send(line),
  async check({ name, bytes, line }, status) {
    if (status === 201) await served(name, bytes);
    await again(line, [201]);
    await served(name, bytes);
  },
});
const commitOfParts = commit((kills) => PART + kills.pick(1, 1000));
const commitOfFirst = commit((kills) => kills.pick(1, 100_000));

const whole = (size) => ({
  isOwn: true,
  begin: async (name, kills) => ({ name, bytes: randomBytes(size(kills)) }),
  send: ({ name, bytes }, send) => send(`POST /v2/${name}/blobs/uploads/?digest=${digestOf(bytes)}`, { body: bytes }),
  async check({ name, bytes }) {
    await again(`POST /v2/${name}/blobs/uploads/?digest=${digestOf(bytes)}`, [201], { body: bytes });
    await served(name, bytes);
  },
});
const wholeSmall = whole((kills) => kills.pick(1, 100_000));
const wholeLarge = whole((kills) => PART + kills.pick(1, 1000));

const mount = {
  isOwn: true,
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
  begin: async (name) => ({ location: await begun(name, randomBytes(PART + 1000)) }),
  send: ({ location }, send) => send(`DELETE ${location}`),
  async check({ location }) {
    await again(`DELETE ${location}`, [204, 404]);
    await registry.expect(`GET ${location}`, 404);
  },
};

const object = (at, when) => ({ call: "object.fetch", at, when });
const r2 = (kind, key, when, at = 0) => ({ call: `r2.${kind}`, key: key && (() => key), when, at });
const kept = (least) => ({ ...ofParts, ...chunk((kills) => 2 * PART + kills.pick(1, PART - 1), least) });

// Those of the first list hold the buffers of parts, of which a few fit into memory.
const LARGE = [
  { name: "chunk: session begun", call: object(0, "after"), ...ofParts },
  { name: "chunk: multipart upload created", call: r2("createMultipartUpload", "", "after"), ...ofParts },
  { name: "chunk: first part on its way", call: r2("uploadPart", "", "before"), ...ofParts },
  { name: "chunk: first part stored", call: r2("uploadPart", "", "after"), ...ofParts },
  { name: "chunk: second part stored", call: r2("uploadPart", "", "after", 1), ...ofParts },
  { name: "chunk: checkpoint recorded", call: object(1, "after"), ...kept(SMALLEST_PART) },
  { name: "chunk: tail on its way", call: r2("put", "/staged/", "before"), ...ofParts },
  { name: "chunk: tail staged", call: r2("put", "/staged/", "after"), ...ofParts },
];

const WHENS = ["before", "after"];
const both = (name, call, operation) =>
  WHENS.map((when) => ({ name: `${name}, ${when}`, call: call(when), ...operation }));
const DATA = "^docker/registry/v2/blobs/.*/data$";
const LAYER = "/_layers/.*/link$";

const UPLOADS = [
  ...both("first chunk: written", (when) => r2("put", DATA, when), small),
  ...both("first chunk: recorded", (when) => object(0, when), small),
  ...both("commit: session commits", (when) => object(0, when), commitOfParts),
  ...both("commit: parts joined", (when) => r2("complete", "", when), commitOfParts),
  ...both("commit: note written", (when) => r2("put", "^pierhead/uploads/blobs/", when), commitOfParts),
  ...both("commit: descriptor written", (when) => r2("put", "^pierhead/descriptors/", when), commitOfParts),
  ...both("commit: link written", (when) => r2("put", LAYER, when), commitOfParts),
  ...both("commit: reverse link written", (when) => r2("put", "^pierhead/links/", when), commitOfParts),
  { name: "commit: answered, session open", call: object(1, "before"), isAnswered: true, ...commitOfParts },
  ...both("commit of a first chunk: link written", (when) => r2("put", LAYER, when), commitOfFirst),
  ...both("commit of a first chunk: session closed", (when) => object(0, when), commitOfFirst),
  ...both("whole blob: bytes written", (when) => r2("put", DATA, when), wholeSmall),
  ...both("whole blob: link written", (when) => r2("put", LAYER, when), wholeSmall),
  { name: "whole large blob: bytes written", call: r2("put", "^pierhead/blobs/", "after"), ...wholeLarge },
  ...both("whole large blob: descriptor written", (when) => r2("put", "^pierhead/descriptors/", when), wholeLarge),
  ...both("whole large blob: link written", (when) => r2("put", LAYER, when), wholeLarge),
  ...both("mount: link written", (when) => r2("put", LAYER, when), mount),
  ...both("mount: reverse link written", (when) => r2("put", "^pierhead/links/", when), mount),
  ...both("cancel: session closed", (when) => object(0, when), cancel),
  ...both("cancel: parts dropped", (when) => r2("abort", "", when), cancel),
];

function assertAll(t, kills) {
  t.diagnostic(kills.report);
  assert.deepEqual(kills.missed, [], "moments that were never hit");
  assert.deepEqual(kills.wrong, [], kills.report);
}

test("uploads survive kills at every moment", async (t) => {
  const kills = new Kills(registry, "uploads");
  const large = kills.shuffled(LARGE);
  const others = kills.shuffled(UPLOADS);
  const rounds = Math.ceil(large.length / 2);
  const size = Math.ceil(others.length / rounds);
  for (let round = 0; round < rounds; round++) {
    await kills.at([...large.splice(0, 2), ...others.splice(0, size)]);
  }
  assertAll(t, kills);
});

// --- manifests ---

const digestAt = async (name, reference) => {
  const answer = await registry.fetch(`/v2/${name}/manifests/${reference}`);
  const bytes = Buffer.from(await answer.arrayBuffer());
  return answer.status === 200 ? digestOf(bytes) : answer.status;
};
const tagsOf = async (name) => (await (await registry.expect(`GET /v2/${name}/tags/list`, 200)).json()).tags;
const referrersOf = async (name, subject) => {
  const list = await (await registry.expect(`GET /v2/${name}/referrers/${subject}`, 200)).json();
  return list.manifests.map(({ digest }) => digest);
};

// Everything that is listed can be pulled.
async function assertListed(name, subject) {
  const listed = new Set(await referrersOf(name, subject));
  for (const tag of await tagsOf(name)) {
    const digest = await digestAt(name, tag);
    assert.match(String(digest), /^sha256:/, `the tag ${tag} is listed: ${digest}`);
    listed.add(digest);
  }
  for (const digest of listed) assert.equal(await digestAt(name, digest), digest, `${digest} is listed`);
}

// It can be removed, and is gone then.
async function assertRemoved(name, subject) {
  for (const tag of await tagsOf(name)) await registry.expect(`DELETE /v2/${name}/manifests/${tag}`, 202);
  for (const digest of await referrersOf(name, subject)) {
    await registry.expect(`DELETE /v2/${name}/manifests/${digest}`, 202);
  }
  assert.deepEqual([await tagsOf(name), await referrersOf(name, subject)], [[], []]);
}

// The repository has an image as `v1` and `old`, with a referrer; all of it was acknowledged. `use` says which request
// is interrupted, what may be there before it is repeated, and what must be there after it.
const manifest = (use) => ({
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
  async check({ name, base, line, body, statuses, kept = {}, before = {}, after }, status) {
    const assertState = async (expected, when) => {
      for (const [reference, wanted] of Object.entries(expected)) {
        const found = await digestAt(name, reference);
        assert.ok([wanted].flat().includes(found), `${when}: ${reference} is ${found}, not ${wanted}`);
      }
    };
    await assertListed(name, base.digest);
    await assertState({ ...kept, ...before }, "after the kill");
    if (status !== undefined) await assertState(after, "acknowledged");
    await again(line, statuses, options(body));
    await assertState({ ...kept, ...after }, "after the repeated request");
    await assertListed(name, base.digest);
    await assertRemoved(name, base.digest);
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

// Keys of the repository. The content's has its digest.
const content = ({ another, attached, body }) => {
  const { digest } = body === attached.bytes ? attached : another;
  return `/${digest.slice("sha256:".length)}/data$`;
};
const put = (key) => (when) => ({ call: "r2.put", key: typeof key === "string" ? () => key : key, at: 0, when });
const link = "/NAME/_manifests/revisions/.*/link$";
const index = (tag) => `/NAME/_manifests/tags/${tag}/index/.*/link$`;
const current = (tag) => `/NAME/_manifests/tags/${tag}/current/link$`;
const entry = "^pierhead/referrers/NAME/_/";

const MANIFESTS = [
  ...both("push: content", put(content), push),
  ...both("push: manifest link", put(link), push),
  ...both("push: reverse link", put("^pierhead/links/.*/NAME-$"), push),
  ...both("push: tag index", put(index("v2")), push),
  ...both("push: tag", put(current("v2")), push),
  ...both("move of a tag: content", put(content), move),
  ...both("move of a tag: manifest link", put(link), move),
  ...both("move of a tag: tag index", put(index("v1")), move),
  ...both("move of a tag: tag", put(current("v1")), move),
  ...both("another tag: tag index", put(index("v2")), retag),
  ...both("another tag: tag", put(current("v2")), retag),
  ...both("two tags: first tag", put(current("a")), tagged),
  ...both("two tags: second tag", put(current("b")), tagged),
  ...both("referrer: its entry", put(entry), attach),
  ...both("referrer: manifest link", put(link), attach),
  ...both("referrer: tag", put(current("sbom")), attach),
];

async function inRounds(t, name, moments) {
  const kills = new Kills(registry, name);
  for (let round = 0; round < ROUNDS; round++) await kills.at(kills.shuffled(moments));
  assertAll(t, kills);
}

test("pushes of manifests survive kills at every moment", (t) => inRounds(t, "pushes", MANIFESTS));

// --- deletions ---

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

const gone = (key) => (when) => ({ call: "r2.delete", key: () => key, at: 0, when });

const DELETIONS = [
  ...both("deletion of a tag: tag", gone(current("v1")), untag),
  ...both("deletion of a tag: tag index", gone(index("v1")), untag),
  ...both("deletion of a manifest: a tag", gone(current("v1")), remove),
  ...both("deletion of a manifest: another tag", gone(current("old")), remove),
  ...both("deletion of a manifest: manifest link", gone(link), remove),
  ...both("deletion of a referrer: its tag", gone(current("referrer")), detach),
  ...both("deletion of a referrer: its entry", gone(entry), detach),
  ...both("deletion of a referrer: manifest link", gone(link), detach),
  ...both("deletion of a blob: link", gone("/NAME" + LAYER), unlink),
];

test("deletions survive kills at every moment", (t) => inRounds(t, "deletions", DELETIONS));

// Waits until a part is stored.
async function partStored() {
  for (const deadline = Date.now() + 30_000; Date.now() < deadline;) {
    const { log } = await registry.edgeLog();
    const calls = log.flatMap((request) => request.calls);
    if (calls.some(({ class: of, kind, ended }) => of === "r2" && kind === "uploadPart" && ended)) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error("no part was stored");
}

test(`an upload survives a connection cut at a random byte, ${CUTS} times`, async (t) => {
  let [withParts, parts] = [0, 0];
  for (let round = 0; round < CUTS; round++) {
    const bytes = randomBytes(randomInt(2 * PART, 3 * PART));
    // Every other time after a part has arrived.
    const hasPart = round % 2 === 0;
    const cut = hasPart ? randomInt(PART + 1, bytes.length) : randomInt(1, PART);
    await registry.edge();
    const first = await registry.startUpload("cut");
    await sendAndHangUp(first, bytes.subarray(0, cut), hasPart ? partStored : async () => {});
    let { offset, location } = await offsetOf(first);
    // The old request may still be running: continue at the offset in each refusal.
    for (;;) {
      const options = { method: "PATCH", body: bytes.subarray(offset) };
      if (offset < bytes.length) options.headers = { "content-range": `${offset}-${bytes.length - 1}` };
      const answer = await registry.fetch(location, options);
      location = answer.headers.get("location");
      if (answer.status === 202) break;
      assert.equal(answer.status, 416, await answer.text());
      ({ offset, location } = await offsetOf(location));
    }
    if (offset > 0) withParts++;
    parts += Math.round(offset / PART);
    await finishAndCheck("cut", location, bytes);
  }
  t.diagnostic(`${CUTS} cuts; ${parts} parts were kept, in ${withParts} of them`);
  assert.ok(withParts > 0, "no cut kept a part");
});
