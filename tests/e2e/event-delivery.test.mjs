// The delivery of events to receivers that fail in every way a receiver can.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { Receiver } from "../support/receiver.mjs";
import { INDEX, Registry, root } from "../support/registry.mjs";

const SECRET = "a secret that only both sides know";
const HOUR = 3600;

// An index without manifests: a push of it is one request, and one event.
function manifest() {
  const annotations = { made: randomBytes(8).toString("hex") };
  return Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: INDEX, manifests: [], annotations }));
}

async function push(registry, name, tag) {
  await (await registry.pushManifest(name, tag, manifest(), INDEX)).arrayBuffer();
}

// Waits until a condition holds, in real time.
async function until(holds, message, seconds = 20) {
  const deadline = Date.now() + seconds * 1000;
  while (!(await holds())) {
    if (Date.now() > deadline) assert.fail(typeof message === "function" ? await message() : message);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const tags = (receiver, name) =>
  receiver
    .taken()
    .filter(({ target }) => target.repository === name)
    .map(({ target }) => target.tag);

async function statusOf(registry, name = "ci") {
  const { endpoints } = await (await registry.expect("GET /v2/_pierhead/events", 200)).json();
  return endpoints.find((endpoint) => endpoint.name === name);
}

describe("a receiver that fails", () => {
  let registry, receiver, other, elsewhere;

  before(async () => {
    receiver = await Receiver.start();
    other = await Receiver.start();
    elsewhere = await Receiver.start();
    const endpoints = [
      {
        name: "ci",
        url: `${receiver.url}/hook?from=registry`,
        timeout: "1s",
        headers: { authorization: "Bearer ${TOKEN}" },
        signing_secret: "${SIGNING}",
        ignore: { actions: ["pull"] },
        repositories: ["**", "!ignored/**"],
      },
      { name: "other", url: other.url, form: "cloudevents", repositories: ["both/**"] },
    ];
    registry = await Registry.start({
      vars: {
        ANONYMOUS: "push",
        EVENT_ENDPOINTS: JSON.stringify(endpoints),
        EVENT_PRIVATE_ENDPOINTS: "on",
        TOKEN: "the token",
        SIGNING: SECRET,
      },
    });
  });
  after(async () => {
    await registry?.stop();
    await Promise.all([receiver, other, elsewhere].map((each) => each?.stop()));
  });
  // Nothing waits for the next test.
  afterEach(async () => {
    for (const each of [receiver, other]) each.mode = () => "ok";
    await registry.advance(2 * HOUR);
    await until(async () => (await statusOf(registry)).pending === 0, "events still wait");
  });

  test("gets the envelope, the headers, and a signature that the documented code accepts", async () => {
    await push(registry, "ignored/a", "v1");
    await push(registry, "signed", "v1");
    await until(() => tags(receiver, "signed").length > 0, "no event");
    const request = receiver.requests.find(({ events }) => events[0].target.repository === "signed");
    assert.equal(request.url, "/hook?from=registry");
    assert.equal(request.headers["content-type"], "application/vnd.docker.distribution.events.v2+json");
    assert.equal(request.headers.authorization, "Bearer the token");
    assert.match(request.headers["user-agent"], /^pierhead\/\d/);
    assert.equal(request.headers["pierhead-event-id"], request.events[0].id);
    assert.equal(request.headers["pierhead-attempt"], "1");
    assert.deepEqual(tags(receiver, "ignored/a"), []);

    const text = await readFile(path.join(root, "docs/events.md"), "utf8");
    const [, code] = text.match(/```js\n([^]*?)```/);
    const file = path.join(registry.folder, "documented.mjs");
    await writeFile(file, code);
    const { isFromRegistry } = await import(pathToFileURL(file).href);
    const signature = request.headers["pierhead-signature"];
    const now = (await registry.now()) / 1000;
    assert.equal(isFromRegistry(signature, request.body, SECRET, now), true);
    const changed = Buffer.from(request.body);
    changed[10] ^= 1;
    assert.equal(isFromRegistry(signature, changed, SECRET, now), false);
    assert.equal(isFromRegistry(signature, request.body, `${SECRET}.`, now), false);
    assert.equal(isFromRegistry(signature, request.body, SECRET, now + 301), false);
    assert.equal(isFromRegistry(undefined, request.body, SECRET, now), false);
  });

  test("gets CloudEvents, one by one", async () => {
    await push(registry, "both/cloud", "v1");
    await push(registry, "both/cloud", "v2");
    await until(() => other.requests.length >= 2, "no events");
    for (const { headers, events } of other.requests) {
      assert.equal(headers["content-type"], "application/cloudevents+json");
      const [event] = events;
      assert.deepEqual(
        [event.specversion, event.type, event.subject, event.id],
        ["1.0", "pierhead.push", "both/cloud", event.data.id],
      );
      assert.equal(Number(event.sequence), event.data.sequence);
    }
    assert.deepEqual(
      other.requests.map(({ events }) => events[0].data.target.tag),
      ["v1", "v2"],
    );
  });

  test("hangs: no other waits, nor does a push", async () => {
    receiver.mode = () => "hang";
    const before = other.requests.length;
    await push(registry, "both/hang", "v0");
    await until(() => receiver.requests.at(-1).mode === "hang", "no request");
    const began = Date.now();
    for (let n = 1; n <= 5; n++) await push(registry, "both/hang", `v${n}`);
    await until(() => other.requests.length >= before + 6, "the other endpoint waits");
    assert.ok(Date.now() - began < 10_000, `${Date.now() - began} ms`);
    await until(
      async () => (await statusOf(registry)).last_error === "no answer in time",
      async () => JSON.stringify(await statusOf(registry)),
    );
    receiver.mode = () => "ok";
    await registry.advance(HOUR);
    await until(() => tags(receiver, "both/hang").length >= 6, "events are missing");
    assert.deepEqual(tags(receiver, "both/hang"), ["v0", "v1", "v2", "v3", "v4", "v5"]);
  });

  test("answers 500 for an hour: everything arrives in order", async (t) => {
    receiver.mode = () => 500;
    const from = receiver.requests.length;
    for (let n = 0; n < 20; n++) {
      await push(registry, `hour/${n % 3}`, `v${n}`);
      await registry.advance(180);
    }
    const failed = receiver.requests.length - from;
    receiver.mode = () => "ok";
    await registry.advance(700);
    const all = () => [0, 1, 2].map((n) => tags(receiver, `hour/${n}`));
    await until(
      () => all().flat().length >= 20,
      () => JSON.stringify(all()),
    );
    const expected = [0, 1, 2].map((n) => Array.from({ length: 20 }, (_, i) => `v${i}`).filter((_, i) => i % 3 === n));
    assert.deepEqual(all(), expected);
    assert.ok(failed < 60, `${failed} requests in an hour`);
    t.diagnostic(`${failed} failed requests in an hour, ${receiver.requests.length - from - failed} afterwards`);
  });

  test("is stopped and started again", async () => {
    await receiver.stop();
    await push(registry, "stopped", "v1");
    await until(async () => (await statusOf(registry)).pending > 0, "the event does not wait");
    await receiver.resume();
    await registry.advance(60);
    await until(() => tags(receiver, "stopped").length > 0, "no event");
    assert.deepEqual(tags(receiver, "stopped"), ["v1"]);
  });

  test("closes the connection, or answers slowly", async () => {
    for (const mode of ["close", { slow: 3000 }]) {
      let isFirst = true;
      receiver.mode = () => (isFirst ? ((isFirst = false), mode) : "ok");
      const name = `closes${typeof mode}`;
      await push(registry, name, "v1");
      await until(() => !isFirst, "no request");
      await until(async () => {
        await registry.advance(10);
        return tags(receiver, name).length > 0 && (await statusOf(registry)).pending === 0;
      }, "no event");
    }
  });

  test("redirects: on its own origin it is followed, to another it is not", async () => {
    receiver.mode = ({ url }) => (url === "/moved" ? "ok" : { redirect: "/moved", status: 308 });
    await push(registry, "moved", "v1");
    await until(() => tags(receiver, "moved").length > 0, "no event");
    const { url, headers } = receiver.requests.at(-1);
    assert.equal(url, "/moved");
    assert.ok(headers["pierhead-signature"] && headers.authorization);

    receiver.mode = () => ({ redirect: `${elsewhere.url}/inside`, status: 307 });
    await push(registry, "inwards", "v1");
    await until(
      async () => (await statusOf(registry)).last_error === "status 307 to another origin",
      async () => JSON.stringify(await statusOf(registry)),
    );
    assert.equal(elsewhere.requests.length, 0);
    assert.deepEqual(tags(receiver, "inwards"), []);
  });

  test("answers megabytes: they are not read", async () => {
    receiver.mode = () => ({ megabytes: 200 });
    await push(registry, "megabytes", "v1");
    await until(
      async () => (await statusOf(registry)).pending === 0 && tags(receiver, "megabytes").length > 0,
      "no event",
    );
    await new Promise((resolve) => setTimeout(resolve, 500));
    const { sent } = receiver.requests.at(-1);
    assert.ok(sent < 100, `${sent} MiB were read`);
    assert.deepEqual(tags(receiver, "megabytes"), ["v1"]);
  });

  test("refuses one event: its repository waits, the event dies, and is replayed", async () => {
    const isPoison = ({ target }) => target.repository === "poison" && target.tag === "v1";
    receiver.mode = ({ events }) => (events.some(isPoison) ? 422 : "ok");
    for (const tag of ["v1", "v2"]) await push(registry, "poison", tag);
    await push(registry, "healthy", "v1");
    await until(() => tags(receiver, "healthy").length > 0, "another repository waits");
    assert.deepEqual(tags(receiver, "poison"), []);
    await registry.advance(120);
    await until(() => tags(receiver, "poison").length > 0, "the repository waits for ever");
    assert.deepEqual(tags(receiver, "poison"), ["v2"]);

    const list = "/v2/_pierhead/events/ci/dead";
    const { dead } = await (await registry.expect(`GET ${list}`, 200)).json();
    assert.equal(dead.length, 1);
    assert.deepEqual([dead[0].reason, dead[0].event.target.tag], ["status 422", "v1"]);
    const letter = await (await registry.expect(`GET ${list}/${dead[0].id}`, 200)).json();
    assert.deepEqual(letter, dead[0]);
    receiver.mode = () => "ok";
    await registry.expect(`POST ${list}/${dead[0].id}`, 204);
    await until(() => tags(receiver, "poison").length > 1, "the event was not replayed");
    assert.deepEqual(tags(receiver, "poison"), ["v2", "v1"]);
    assert.deepEqual((await (await registry.expect(`GET ${list}`, 200)).json()).dead, []);
    await registry.expect(`DELETE ${list}/${dead[0].id}`, 404);
  });

  test("the runtime is killed while a request is under way", async () => {
    receiver.mode = () => "hang";
    const from = receiver.requests.length;
    await push(registry, "killed", "v1");
    await until(() => receiver.requests.length > from, "no request");
    await push(registry, "killed", "v2");
    // The lane has both, so that nothing depends on the queue.
    await until(async () => (await statusOf(registry)).pending === 2, "the lane has not both");
    await registry.restart();
    receiver.mode = () => "ok";
    await registry.advance(HOUR);
    await until(() => new Set(tags(receiver, "killed")).size === 2, "events are lost");
    assert.deepEqual([...new Set(tags(receiver, "killed"))], ["v1", "v2"]);
    const ids = new Set(receiver.requests.slice(from).flatMap(({ events }) => events.map(({ id }) => id)));
    assert.equal(ids.size, 2);
  });

  test("too old events die, all are replayed, and the rest is dropped", async () => {
    receiver.mode = () => 500;
    for (const tag of ["v1", "v2", "v3"]) await push(registry, "old", tag);
    await until(async () => (await statusOf(registry)).pending === 3, "the lane has not all");
    await registry.advance(25 * HOUR);
    const { pending, dead, down_since } = await statusOf(registry);
    assert.deepEqual([pending, dead], [0, 3]);
    assert.ok(Date.parse(down_since) > 0);
    const list = "/v2/_pierhead/events/ci/dead";
    const page = await registry.expect(`GET ${list}?n=2`, 200);
    const first = (await page.json()).dead;
    const [, next] = page.headers.get("link").match(/<(.*)>; rel="next"/);
    const second = (await (await registry.expect(`GET ${next}`, 200)).json()).dead;
    // Those that die in the same millisecond are in any order.
    const died = [...first, ...second].map(({ event }) => event.target.tag);
    assert.deepEqual(died.toSorted(), ["v1", "v2", "v3"]);
    const rest = died.slice(1).toSorted();
    await registry.expect(`DELETE ${list}/${first[0].id}`, 204);
    receiver.mode = () => "ok";
    assert.deepEqual(await (await registry.expect(`POST ${list}`, 200)).json(), { replayed: 2, left: 0 });
    await registry.advance(HOUR);
    await until(() => tags(receiver, "old").length >= 2, "they were not replayed");
    assert.deepEqual(tags(receiver, "old"), rest);
    assert.deepEqual(await (await registry.expect(`DELETE ${list}`, 200)).json(), { dropped: 0, left: 0 });
  });
});

describe("settings", () => {
  test("an endpoint with a private address is refused unless a setting allows it", async () => {
    const endpoints = JSON.stringify([{ name: "ci", url: "http://127.0.0.1:1/" }]);
    const registry = await Registry.start({ vars: { ANONYMOUS: "push", EVENT_ENDPOINTS: endpoints } });
    try {
      const answer = await registry.fetch("/v2/");
      assert.equal(answer.status, 503);
      const [{ message }] = (await answer.json()).errors;
      assert.match(
        message,
        /EVENT_ENDPOINTS: endpoint ci: url must be an https URL, unless EVENT_PRIVATE_ENDPOINTS is on/,
      );
    } finally {
      await registry.stop();
    }
  });

  test("endpoints can be a table of wrangler.toml", async () => {
    const receiver = await Receiver.start();
    const vars = { ANONYMOUS: "push", EVENT_PRIVATE_ENDPOINTS: "on" };
    const toml = (text) =>
      text.replace(
        /\[vars\]/,
        `[[vars.EVENT_ENDPOINTS]]\nname = "ci"\nurl = "${receiver.url}"\ntimeout = "2s"\n\n[vars]`,
      );
    // The strict edge knows no variables that are not texts.
    const registry = await Registry.start({ vars, toml, edge: false });
    try {
      await push(registry, "table", "v1");
      await until(() => tags(receiver, "table").length > 0, "no event");
    } finally {
      await registry.stop();
      await receiver.stop();
    }
  });
});
