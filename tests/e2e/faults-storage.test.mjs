// Fails each call to R2 and to an object of every operation in turn, in workerd: busy, an error, or a lost answer.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, test } from "node:test";
import { changesOf, forEach } from "../support/changes.mjs";
import { PART, Registry, digestOf } from "../support/registry.mjs";

let registry;
before(async () => {
  registry = await Registry.start();
  await registry.startUpload("prime"); // Creates the secret in advance.
});
after(() => registry.stop());

// Fails the n-th call to R2 from now on.
const arm = (at, kind) => registry.edge({ faults: [{ call: "r2", at, kind }] });
const calls = async () => (await registry.edgeLog()).faults[0].seen;

// Uploads like a patient client: retries each step until it succeeds, at the offset that the registry
// reports. Returns the number of failures.
async function upload(name, bytes) {
  const digest = digestOf(bytes);
  const half = Math.floor(bytes.length / 2);
  let failures = 0;
  let location;
  for (let tries = 0; tries < 12; tries++) {
    let answer;
    if (!location) {
      answer = await registry.fetch(`/v2/${name}/blobs/uploads/`, { method: "POST" });
    } else {
      const status = await registry.fetch(location);
      if ([500, 503].includes(status.status)) {
        failures++; // It looks for a first chunk.
        continue;
      }
      assert.ok([204, 404].includes(status.status), `status: ${status.status}`);
      if (status.status === 404) {
        // Either the blob exists, or the upload must start again.
        if ((await registry.fetch(`/v2/${name}/blobs/${digest}`, { method: "HEAD" })).status === 200) return failures;
        location = null;
        continue;
      }
      location = status.headers.get("location");
      const last = Number(status.headers.get("range").slice(2));
      const offset = last === 0 ? 0 : last + 1;
      const end = offset < half ? half : bytes.length;
      const done = offset === bytes.length;
      const body = bytes.subarray(offset, end);
      answer = done
        ? await registry.fetch(`${location}&digest=${digest}`, { method: "PUT" })
        : await registry.fetch(location, { method: "PATCH", body });
    }
    if (answer.status === 201) return failures;
    if (answer.status === 202) {
      location = answer.headers.get("location");
      continue;
    }
    assert.ok([429, 500, 503].includes(answer.status), `${answer.status}: ${await answer.clone().text()}`);
    assert.ok((await answer.json()).errors[0].code);
    failures++;
  }
  throw new Error("the upload never completed");
}

async function served(name, bytes) {
  const got = await registry.expect(`GET /v2/${name}/blobs/${digestOf(bytes)}`, 200);
  assert.equal(digestOf(Buffer.from(await got.arrayBuffer())), digestOf(bytes));
}

for (const kind of ["busy", "error", "lost"]) {
  test(`an upload survives a failure of any call: ${kind}`, async (t) => {
    let cases = 0;
    let seen = 0;
    for (const size of [1000, PART + 1000, 2 * PART + 1000]) {
      for (let at = 0; ; at++) {
        const bytes = randomBytes(size);
        await arm(at, kind);
        seen += await upload("faults", bytes).catch((error) => {
          throw new Error(`call ${at} of ${size} bytes`, { cause: error });
        });
        const made = await calls();
        await registry.edge();
        await served("faults", bytes);
        if (at >= made) break;
        cases++;
      }
    }
    t.diagnostic(`${cases} faults, ${seen} of them seen by the client`);
    assert.ok(cases >= 25, `only ${cases} faults were reached`);
    // The driver retries a busy call unless it carries a stream, so most failures never reach the client.
    if (kind === "busy") assert.ok(seen <= 2, `${seen} busy answers reached the client`);
    if (kind === "error") assert.ok(seen > 10, `only ${seen} errors reached the client`);
  });
}

const KINDS = {
  r2: ["busy", "error", "lost"],
  object: ["overloaded", "error", "lost"],
};

// Cases that are begun together.
const BATCH = 12;

// Those of which a part is too large to send many at once come first.
const OPERATIONS = [
  "wholeLarge",
  "ofOnePart",
  "commitOfParts",
  "cancel",
  "put",
  "wholeSmall",
  "small",
  "commitOfFirst",
  "mount",
  "push",
  "move",
  "retag",
  "tagged",
  "attach",
  "untag",
  "remove",
  "detach",
  "unlink",
];

// The calls of a request, with those that its objects made for it.
const callsOf = (request) => request.calls.flatMap((call) => [call, ...callsOf({ calls: call.inner ?? [] })]);

for (const operation of OPERATIONS) {
  test(`${operation} survives a failure of any call, to R2 and to an object`, async (t) => {
    const all = changesOf(registry);
    const change = { ...all, ofOnePart: all.chunk(() => PART + 1000) }[operation];
    const middle = (from, to) => Math.floor((from + to) / 2);
    const folder = operation.toLowerCase();
    let last = 0;

    // Some requests, each in a repository of its own. The keys rest before: the clock is not moved while a request runs.
    const begin = async (faults) => {
      const begun = [];
      await forEach(faults, async (fault) => {
        const name = `${folder}/${String(++last).padStart(4, "0")}`;
        begun.push({ fault, about: await change.begin(name, middle) });
      });
      await registry.advance(2);
      return begun;
    };
    const send = async ({ fault, about }) => {
      const tag = randomBytes(8).toString("hex");
      const mark = { "x-edge": JSON.stringify({ faults: fault.kind ? [fault] : [], tag }) };
      const answer = await change.send(about, (line, { headers, ...options } = {}) => {
        const [method, target] = line.split(" ");
        return registry.fetch(target, { method, ...options, headers: { ...headers, ...mark } });
      });
      return { tag, status: answer.status, text: await answer.text() };
    };
    const callsBy = async () => {
      const { log } = await registry.edgeLog();
      return new Map(log.filter(({ tag }) => tag).map((request) => [request.tag, callsOf(request)]));
    };

    const { tag } = await send((await begin([{}]))[0]);
    const calls = (await callsBy()).get(tag);
    const cases = Object.entries(KINDS).flatMap(([of, kinds]) => {
      const own = calls.filter((call) => call.class === of);
      return kinds.flatMap((kind) => own.map((_, at) => ({ call: of, at, kind })));
    });
    const wrong = [];
    const survive = async ({ fault, about }) => {
      try {
        const { tag, status, text } = await send({ fault, about });
        fault.tag = tag;
        assert.ok([...change.statuses, 500, 503].includes(status), `${status}: ${text}`);
        await change.check(about, status, { isRecovered: false });
      } catch (error) {
        wrong.push(`${fault.kind} at call ${fault.at} to ${fault.call}: ${error.message}`);
      }
    };
    for (let from = 0; from < cases.length; from += BATCH) {
      await forEach(await begin(cases.slice(from, from + BATCH)), survive);
    }

    // How many calls failed, of each kind.
    const made = await callsBy();
    const hits = {};
    for (const { call, kind, tag } of cases) {
      const hasFailed = made.get(tag)?.some((made) => made.class === call && made.outcome !== "ok");
      hits[`${call}: ${kind}`] = (hits[`${call}: ${kind}`] ?? 0) + Number(hasFailed ?? false);
    }
    t.diagnostic(JSON.stringify(hits));
    assert.ok(Object.keys(hits).length >= KINDS.r2.length && Object.values(hits).every((count) => count > 0));
    assert.deepEqual(wrong, []);
  });
}
