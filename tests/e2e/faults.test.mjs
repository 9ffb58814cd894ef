// Kills the runtime at chosen moments of every operation, and cuts connections at random points of chunked uploads.
// Afterwards what was acknowledged holds, an upload resumes at its offset, the same request repeated succeeds, and what
// is listed can be pulled and removed.
import assert from "node:assert/strict";
import { randomBytes, randomInt } from "node:crypto";
import http from "node:http";
import { after, before, test } from "node:test";
import { changesOf } from "../support/changes.mjs";
import { Kills, ROUNDS } from "../support/kills.mjs";
import { PART, Registry } from "../support/registry.mjs";

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

// --- uploads ---

const object = (at, when) => ({ call: "object.fetch", at, when });
const r2 = (kind, key, when, at = 0) => ({ call: `r2.${kind}`, key: key && (() => key), when, at });

// Those of the first list hold the buffers of parts, of which a few fit into memory.
const large = ({ ofParts, chunk }) => [
  { name: "chunk: session begun", call: object(0, "after"), ...ofParts },
  { name: "chunk: multipart upload created", call: r2("createMultipartUpload", "", "after"), ...ofParts },
  { name: "chunk: first part on its way", call: r2("uploadPart", "", "before"), ...ofParts },
  { name: "chunk: first part stored", call: r2("uploadPart", "", "after"), ...ofParts },
  { name: "chunk: second part stored", call: r2("uploadPart", "", "after", 1), ...ofParts },
  {
    name: "chunk: checkpoint recorded",
    call: object(1, "after"),
    ...chunk((pick) => 2 * PART + pick(1, PART - 1), SMALLEST_PART),
  },
  { name: "chunk: tail on its way", call: r2("put", "/staged/", "before"), ...ofParts },
  { name: "chunk: tail staged", call: r2("put", "/staged/", "after"), ...ofParts },
];

const WHENS = ["before", "after"];
const both = (name, call, operation) =>
  WHENS.map((when) => ({ name: `${name}, ${when}`, call: call(when), ...operation }));
const DATA = "^docker/registry/v2/blobs/.*/data$";
const LAYER = "/_layers/.*/link$";

const uploads = ({ small, commitOfParts, commitOfFirst, wholeSmall, wholeLarge, mount, cancel }) => [
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
  const few = kills.shuffled(large(changesOf(registry)));
  const others = kills.shuffled(uploads(changesOf(registry)));
  const rounds = Math.ceil(few.length / 2);
  const size = Math.ceil(others.length / rounds);
  for (let round = 0; round < rounds; round++) {
    await kills.at([...few.splice(0, 2), ...others.splice(0, size)]);
  }
  assertAll(t, kills);
});

// --- manifests ---

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

// The writer indexes the tags of a push after its answer.
const later = (operation) => ({ ...operation, isLater: true });

const manifests = ({ push, move, retag, tagged, attach }) => [
  ...both("push: content", put(content), push),
  ...both("push: manifest link", put(link), push),
  ...both("push: reverse link", put("^pierhead/links/.*/NAME-$"), push),
  ...both("push: tag index", put(index("v2")), later(push)),
  ...both("push: tag", put(current("v2")), push),
  ...both("move of a tag: content", put(content), move),
  ...both("move of a tag: manifest link", put(link), move),
  ...both("move of a tag: tag index", put(index("v1")), later(move)),
  ...both("move of a tag: tag", put(current("v1")), move),
  ...both("another tag: tag index", put(index("v2")), later(retag)),
  ...both("another tag: tag", put(current("v2")), retag),
  ...both("two tags: first tag", put(current("a")), tagged),
  ...both("two tags: second tag", put(current("b")), tagged),
  ...both("referrer: its entry", put(entry), attach),
  ...both("referrer: manifest link", put(link), attach),
  ...both("referrer: tag", put(current("sbom")), attach),
];

async function inRounds(t, name, moments) {
  const kills = new Kills(registry, name);
  for (let round = 0; round < ROUNDS; round++) await kills.at(kills.shuffled(moments(changesOf(registry))));
  assertAll(t, kills);
}

test("pushes of manifests survive kills at every moment", (t) => inRounds(t, "pushes", manifests));

// --- deletions ---

const gone = (key) => (when) => ({ call: "r2.delete", key: () => key, at: 0, when });

const deletions = ({ untag, remove, detach, unlink }) => [
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

test("deletions survive kills at every moment", (t) => inRounds(t, "deletions", deletions));

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
  const { offsetOf, finishAndCheck } = changesOf(registry);
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
