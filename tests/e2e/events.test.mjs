// Events from a push to a receiver: none is lost when the endpoint fails, the queue refuses or the runtime is killed, and
// what they cost a push.
import assert from "node:assert/strict";
import { randomBytes, randomInt } from "node:crypto";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { Document } from "../../scripts/tables.mjs";
import { forEach } from "../support/changes.mjs";
import { random } from "../support/edge/random.mjs";
import { SEED } from "../support/kills.mjs";
import { settled } from "../support/operations.mjs";
import { Receiver } from "../support/receiver.mjs";
import { INDEX, Registry, digestOf, root } from "../support/registry.mjs";

const PUSHES = Number(process.env.EVENT_PUSHES ?? 1000);
const KILLS = 6;
const CRON = `GET /cdn-cgi/local/scheduled?cron=${encodeURIComponent("*/5 * * * *")}`;

const endpoint = (receiver, more = {}) => ({ name: "ci", url: `${receiver.url}/hook`, timeout: "2s", ...more });
const vars = (...endpoints) => ({
  ANONYMOUS: "push",
  EVENT_ENDPOINTS: JSON.stringify(endpoints),
  EVENT_PRIVATE_ENDPOINTS: "on",
});

// An index without manifests: a push of it is one request.
function manifest() {
  const annotations = { made: randomBytes(8).toString("hex") };
  return Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests: [], annotations }));
}

const put = (registry, name, tag, body) =>
  registry.fetch(`/v2/${name}/manifests/${tag}`, { method: "PUT", body, headers: { "content-type": INDEX } });

// The status of a request; `undefined` if it was cut.
async function statusOf(sent) {
  try {
    const answer = await sent;
    await answer.arrayBuffer();
    return answer.status;
  } catch {
    return undefined;
  }
}

// Lets time pass until a condition holds. Alarms that are due have run.
// Waits in real time, as a new isolate does before it sends the outbox again, and moves the clock past the pauses of lanes.
async function until(registry, holds, message) {
  for (const deadline = Date.now() + 120_000; Date.now() < deadline;) {
    if (await holds()) return;
    await registry.advance(30);
    await new Promise((resolve) => setTimeout(resolve, 400));
  }
  assert.fail(typeof message === "function" ? message() : message);
}

const aboutTag = ({ target: { repository, tag } }) => `${repository}:${tag}`;

describe("pushes while the endpoint fails half of the time and the runtime is killed", () => {
  let registry, receiver;
  const acknowledged = new Set();
  const refused = [];

  before(async () => {
    const chance = random(SEED);
    receiver = await Receiver.start(() => (chance() < 0.5 ? "ok" : 500));
    registry = await Registry.start({ vars: vars(endpoint(receiver)) });
  });
  after(async () => {
    await registry?.stop();
    await receiver?.stop();
  });

  // Resolves while the registry runs.
  let up = Promise.resolve();

  // A push, and sometimes a request that is refused. A kill cuts those that are under way.
  async function push(number) {
    const [name, tag, body] = [`r${number % 20}`, `t${number}`, manifest()];
    await up;
    if ((await statusOf(put(registry, name, tag, body))) === 201) acknowledged.add(`${name}:${tag}`);
    if (number % 5 > 0) return;
    await up;
    const missing = body.toString().replace('"manifests":[]', '"manifests":[{}]');
    const status = await statusOf(put(registry, name, `refused${number}`, missing));
    if (status !== undefined) refused.push(status);
    await up;
    await statusOf(registry.fetch(`/v2/${name}/manifests/refused${number}`, { method: "DELETE" }));
  }

  async function killAndRun() {
    let isUp;
    up = new Promise((resolve) => (isUp = resolve));
    await registry.kill();
    await registry.run();
    isUp();
  }

  test(`${PUSHES} pushes, ${KILLS} kills`, async (t) => {
    const chance = random(SEED + 1);
    const moments = Array.from({ length: KILLS }, () => Math.floor(chance() * PUSHES)).sort((a, b) => a - b);
    let done = 0;
    let killing = Promise.resolve();
    const numbers = Array.from({ length: PUSHES }, (_, number) => number);
    await forEach(numbers, async (number) => {
      await push(number);
      if (++done > moments[0]) {
        moments.shift();
        killing = killing.then(killAndRun);
      }
    });
    await killing;
    const ids = () => Map.groupBy(receiver.taken(), aboutTag);
    let ran = 0;
    await until(
      registry,
      async () => {
        // As Cloudflare does every five minutes.
        const now = await registry.now();
        if (now >= ran + 300_000) {
          await registry.expect(CRON, 200);
          ran = now;
        }
        const arrived = ids();
        return [...acknowledged].every((about) => arrived.has(about));
      },
      () => {
        const arrived = ids();
        const missing = [...acknowledged].filter((about) => !arrived.has(about));
        return `${missing.length} of ${acknowledged.size} never arrived: ${missing.slice(0, 5)}`;
      },
    );
    const arrived = ids();
    for (const [about, events] of arrived) {
      assert.equal(new Set(events.map(({ id }) => id)).size, 1, `${about} has one id`);
      assert.ok(!about.includes("refused"), about);
    }
    const all = receiver.taken().length;
    const unheard = [...arrived.keys()].filter((about) => !acknowledged.has(about)).length;
    t.diagnostic(
      `KILLS_SEED=${SEED}: ${acknowledged.size} acknowledged, ${unheard} made without an answer, ${refused.length} refused, ` +
        `${all - arrived.size} repeats, ${receiver.requests.length} requests to the receiver`,
    );
    assert.ok(acknowledged.size > PUSHES * 0.9 && refused.length > PUSHES / 10, "the test has pushed");
    assert.ok(refused.every((status) => status === 400));
  });

  test("changes of a repository come in their order", async () => {
    // The order of first arrivals that no kill and no failure has disturbed cannot be told apart here: a receiver
    // has the sequence.
    for (const events of Map.groupBy(receiver.taken(), ({ target }) => target.repository).values()) {
      const sequences = new Map(events.map((event) => [event.id, event.sequence]));
      assert.equal(new Set(sequences.values()).size, sequences.size, "each change has a place of its own");
    }
  });
});

describe("a kill between a push and its delivery", () => {
  let registry, receiver;
  before(async () => {
    receiver = await Receiver.start(() => "ok");
    registry = await Registry.start({ vars: vars(endpoint(receiver)) });
  });
  after(async () => {
    await registry?.stop();
    await receiver?.stop();
  });

  const OUTBOX = "^pierhead/outbox/";
  const MOMENTS = [
    ["the tag is written", { call: "r2.put", key: "/tags/.*/current/link$" }],
    ["the outbox has the event", { call: "r2.put", key: OUTBOX }],
    ["the queue has the event", { call: "queue.send" }],
    ["the tag's index is written", { call: "r2.put", key: "/tags/.*/index/" }],
    ["the endpoint's object has the event", { call: "object.fetch", at: 1 }],
    ["the event leaves the outbox", { call: "r2.delete", key: OUTBOX }],
    ["the event is delivered", { call: "s3.post" }],
  ];
  for (const [name, call] of MOMENTS) {
    for (const when of ["before", "after"]) {
      test(`${when} ${name}`, async () => {
        const [repository, tag, body] = [`killed${randomInt(2 ** 31)}`, "v1", manifest()];
        await registry.edge({ faults: [{ ...call, when, kind: "hold", name: "here" }] });
        const pushing = statusOf(put(registry, repository, tag, body));
        const deadline = Date.now() + 30_000;
        while (!(await registry.held()).here) {
          assert.ok(Date.now() < deadline, "the moment never came");
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
        await registry.kill();
        const status = await pushing;
        registry.rules = {};
        await registry.run();
        const mine = () => receiver.taken().filter(({ target }) => target.repository === repository);
        const head = async () =>
          (await statusOf(registry.fetch(`/v2/${repository}/manifests/v1`, { method: "HEAD" }))) === 200;
        await registry.advance(60);
        const isThere = await head();
        assert.ok(isThere || status !== 201, "an acknowledged push is there");
        if (isThere)
          await until(registry, () => mine().length > 0, `the event never arrived, and the push got ${status}`);
        assert.ok(new Set(mine().map(({ id }) => id)).size <= 1, "one change has one id");
        assert.ok(mine().every(({ target }) => target.digest === digestOf(body)));
      });
    }
  }
});

describe("a queue or a bucket that refuses", () => {
  let registry, receiver;
  before(async () => {
    receiver = await Receiver.start(() => "ok");
    registry = await Registry.start({ vars: vars(endpoint(receiver)) });
  });
  after(async () => {
    await registry?.stop();
    await receiver?.stop();
  });
  const REFUSALS = {
    queue: { call: "queue", kind: "busy" },
    outbox: { call: "r2.put", key: "^pierhead/outbox/", kind: "error" },
  };
  const arrived = (name) => receiver.taken().filter(({ target }) => target.repository === name).length;

  for (const [part, fault] of Object.entries(REFUSALS)) {
    test(`the ${part} alone: the event arrives all the same`, async () => {
      const name = `without-${part}`;
      await registry.edge({ faults: [fault] });
      assert.equal(await statusOf(put(registry, name, "v1", manifest())), 201);
      await registry.pushBlob(name, randomBytes(10));
      await registry.edge();
      await registry.advance(20);
      await registry.expect(CRON, 200);
      await until(registry, () => arrived(name) >= 2, `${arrived(name)} of 2 events`);
    });
  }

  test("both: the client gets 503, and the change has its event when they work again", async () => {
    await registry.edge({ faults: Object.values(REFUSALS) });
    assert.equal(await statusOf(put(registry, "without-both", "v1", manifest())), 503);
    const body = randomBytes(10);
    const location = await registry.startUpload("without-both");
    const finish = `${location}&digest=${digestOf(body)}`;
    assert.equal(await statusOf(registry.fetch(finish, { method: "PUT", body })), 503);
    assert.equal(arrived("without-both"), 0);
    await registry.edge();
    await until(registry, () => arrived("without-both") === 1, "the writer has not sent the event of the manifest");
    // The client repeats its request.
    assert.equal(await statusOf(registry.fetch(finish, { method: "PUT", body })), 201);
    await until(registry, () => arrived("without-both") === 2, "the event of the blob");
  });
});

describe("what events cost", () => {
  const { header, rows } = new Document(path.join(root, "docs/events.md")).table("rounds");
  let without, withEvents, receiver;
  before(async () => {
    receiver = await Receiver.start(() => "ok");
    without = await Registry.start();
    withEvents = await Registry.start({ vars: vars(endpoint(receiver)) });
  });
  after(async () => {
    await without?.stop();
    await withEvents?.stop();
    await receiver?.stop();
  });

  const OPERATIONS = {
    "manifest, `PUT`": async (registry, name) => {
      const body = manifest();
      return [`PUT /v2/${name}/manifests/v1`, 201, { body, headers: { "content-type": INDEX } }];
    },
    "tag, `DELETE`": async (registry, name) => {
      await (await put(registry, name, "v1", manifest())).arrayBuffer();
      return [`DELETE /v2/${name}/manifests/v1`, 202];
    },
    "blob, `POST ?digest=`": async (registry, name) => {
      const body = randomBytes(1000);
      return [`POST /v2/${name}/blobs/uploads/?digest=${digestOf(body)}`, 201, { body }];
    },
    mount: async (registry, name) => {
      const digest = await registry.pushBlob(`${name}/other`, randomBytes(1000));
      return [`POST /v2/${name}/blobs/uploads/?mount=${digest}&from=${name}/other`, 201];
    },
    "manifest, `GET`": async (registry, name) => {
      await (await put(registry, name, "v1", manifest())).arrayBuffer();
      return [`GET /v2/${name}/manifests/v1`, 200];
    },
  };

  test("each operation has a line, and each line an operation", () => {
    assert.deepEqual(
      rows.map(([name]) => name),
      Object.keys(OPERATIONS),
    );
  });

  for (const [name, prepare] of Object.entries(OPERATIONS)) {
    test(name, async () => {
      const cells = [];
      for (const profile of [null, "near", "far"]) {
        for (const registry of [without, withEvents]) {
          const repository = `cost${randomInt(2 ** 31)}`;
          // The isolate and the repository's object have been used before.
          await (await put(registry, repository, "warm", manifest())).arrayBuffer();
          const [line, status, options] = await prepare(registry, repository);
          await settled(registry);
          await registry.advance(40);
          const rules = { rule: "A", profile: profile ?? "near", listing: "full", kv: "exact" };
          const { rounds, waiting } = await registry.rounds(line, { rules, status, ...options });
          cells.push(profile ? Math.round(waiting) : rounds);
        }
      }
      const row = rows.find(([row]) => row === name);
      console.log(`| ${[name, ...cells].join(" | ")} |`);
      assert.ok(cells[1] <= cells[0] + 1, "at most one round more");
      const documented = row.slice(1).map(Number);
      assert.deepEqual(documented.slice(0, 2), cells.slice(0, 2), "rounds in docs/events.md");
      for (const [at, cell] of cells.entries()) {
        const isNear = Math.abs(cell - documented[at]) <= Math.max(3, 0.1 * documented[at]);
        assert.ok(isNear, `${header[at + 1]}: ${cell}, and ${documented[at]} in docs/events.md`);
      }
    });
  }
});

describe("without a queue", () => {
  test("the registry works, and says at its start that events are off", async () => {
    const toml = (text) => text.replaceAll(/\[\[queues\.[^[]*/g, "");
    const registry = await Registry.start({ vars: vars({ name: "ci", url: "https://ci.example.com" }), toml });
    try {
      await registry.pushImage("a", "v1");
      assert.match(registry.log, /events are off/);
    } finally {
      await registry.stop();
    }
  });
});
