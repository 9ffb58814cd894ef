// Metrics and health in the runtime: what was done is what is counted, a restart keeps the sums, and no request waits.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import http from "node:http";
import { after, before, describe, test } from "node:test";
import { parse } from "../support/prometheus.mjs";
import { Receiver } from "../support/receiver.mjs";
import { INDEX, PART, Registry, digestOf, errorOf } from "../support/registry.mjs";

// The password is `secret`, with the lowest bcrypt cost.
const HTPASSWD = "ann:$2y$04$krc/coZFT8V..VYSgprXVOagiVmD0By5HbPgUiWcp5ZVuxVwYPpB.";
const LOGIN = { authorization: `Basic ${Buffer.from("ann:secret").toString("base64")}` };
const VARS = { ANONYMOUS: "push", HTPASSWD };
const DAY = 24 * 60 * 60;

const bytes = async (answer) => Buffer.from(await answer.arrayBuffer());

async function scrape(registry) {
  const answer = await registry.expect("GET /metrics", 200, { headers: LOGIN });
  assert.equal(answer.headers.get("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  return parse(await answer.text());
}

// Waits until what is counted is sent: `isThere` says so of the samples.
async function scraped(registry, isThere) {
  let samples;
  for (let tries = 0; tries < 60; tries++) {
    samples = await scrape(registry);
    if (isThere(samples)) return samples;
    await new Promise((resolve) => setTimeout(resolve, 250));
  }
  throw new Error(`not counted:\n${samples.map((sample) => JSON.stringify(sample)).join("\n")}`);
}

test("the parser refuses what the format does not allow", () => {
  const head = "# HELP a b\n# TYPE a counter\n";
  assert.equal(parse(`${head}a{x="\\"\\\\\\n"} 1\n`)[0].labels.x, '"\\\n');
  for (const bad of ["a 1", "b 1\n", 'a{x="1"\n', "a x\n", "a 1\na 1\n", "a -1\n", 'a{x="1",x="2"} 1\n', ""]) {
    assert.throws(() => parse(head + bad), Error, bad);
  }
  const histogram = "# HELP h b\n# TYPE h histogram\n";
  assert.equal(parse(`${histogram}h_bucket{le="1"} 1\nh_bucket{le="+Inf"} 2\nh_sum 3\nh_count 2\n`).length, 4);
  for (const bad of ['h_bucket{le="1"} 1\nh_sum 3\nh_count 1\n', 'h_bucket{le="+Inf"} 1\nh_count 1\n', "h 1\n"]) {
    assert.throws(() => parse(histogram + bad), Error, bad);
  }
});

describe("metrics", () => {
  let registry;
  before(async () => (registry = await Registry.start({ vars: VARS })));
  after(() => registry?.stop());

  const sent = { requests: {}, received: 0, answered: 0 };
  const route = (name, method, status) => {
    const key = JSON.stringify({ route: name, method, status });
    sent.requests[key] = (sent.requests[key] ?? 0) + 1;
  };
  const agrees = (samples) =>
    Object.entries(sent.requests).every(
      ([labels, n]) => samples.get("pierhead_requests_total", JSON.parse(labels)) === n,
    );

  test("nobody reads them without a login", async () => {
    const refused = await registry.expect("GET /metrics", 401);
    assert.match(refused.headers.get("www-authenticate"), /^Basic realm=/);
    assert.equal((await errorOf(refused)).code, "UNAUTHORIZED");
    const wrong = { authorization: `Basic ${Buffer.from("ann:guess").toString("base64")}` };
    await registry.expect("GET /metrics", 401, { headers: wrong });
    await registry.expect("POST /metrics", 405, { headers: LOGIN });
    route("metrics", "GET", 401);
    route("metrics", "GET", 401);
  });

  test("pushes and pulls are counted as they were made", async (t) => {
    for (let n = 0; n < 3; n++) {
      const { digest, manifest, layer } = await registry.pushImage(`app${n}`, "v1");
      for (const _ of ["config", "layer"]) {
        route("start_upload", "POST", 202);
        route("finish_upload", "PUT", 201);
      }
      route("put_manifest", "PUT", 201);
      sent.received += manifest.length;
      assert.deepEqual(await bytes(await registry.expect(`GET /v2/app${n}/manifests/${digest}`, 200)), manifest);
      route("get_manifest", "GET", 200);
      sent.answered += (await bytes(await registry.expect(`GET /v2/app${n}/blobs/${layer}`, 200))).length;
      route("get_blob", "GET", 200);
      await registry.expect(`HEAD /v2/app${n}/blobs/${layer}`, 200);
      route("get_blob", "HEAD", 200);
      const missing = await registry.expect(`GET /v2/app${n}/blobs/${digestOf("none")}`, 404);
      sent.answered += (await bytes(missing)).length;
      route("get_blob", "GET", 404);
    }
    const samples = await scraped(registry, agrees);
    assert.equal(samples.get("pierhead_received_bytes_total", { route: "put_manifest" }), sent.received);
    assert.equal(samples.get("pierhead_sent_bytes_total", { route: "get_blob" }), sent.answered);
    const durations = samples.get("pierhead_request_duration_seconds_count", { route: "get_blob", method: "GET" });
    assert.equal(durations, 6);
    assert.equal(samples.get("pierhead_metrics_dropped_total"), 0);
    const names = new Set(samples.flatMap(({ labels }) => Object.values(labels)));
    for (const name of ["app0", "app1", "ann"]) assert.ok(!names.has(name), `${name} is no label`);
    t.diagnostic(`${samples.length} samples`);
  });

  test("calls to R2 and KV are those that the bindings saw", async () => {
    const before = await scraped(registry, agrees);
    await registry.edge({ rule: "A" });
    const { digest } = await registry.pushImage("counted", "v1");
    await registry.expect(`GET /v2/counted/manifests/${digest}`, 200);
    await registry.expect("DELETE /v2/counted/manifests/v1", 202);
    for (const [name, method, status, n] of [
      ["start_upload", "POST", 202, 2],
      ["finish_upload", "PUT", 201, 2],
      ["put_manifest", "PUT", 201, 1],
      ["get_manifest", "GET", 200, 1],
      ["delete_manifest", "DELETE", 202, 1],
    ]) {
      for (let i = 0; i < n; i++) route(name, method, status);
    }
    const count = (samples, driver, operation) =>
      samples.get("pierhead_storage_calls_total", { driver, operation }) -
      before.get("pierhead_storage_calls_total", { driver, operation });
    const operations = { put: "put", head: "head", get: "get", list: "list", delete: "delete" };
    let seen;
    await scraped(registry, (samples) => {
      if (!agrees(samples)) return false;
      seen = Object.fromEntries(Object.keys(operations).map((name) => [name, count(samples, "r2", name)]));
      return true;
    });
    // Those of the objects arrive with a batch of their own.
    const { counters } = await registry.edgeLog();
    const made = (kind) => (counters.calls[`r2.${kind}`] ?? 0) + (counters.calls[`object:r2.${kind}`] ?? 0);
    await scraped(registry, (samples) =>
      Object.keys(operations).every((name) => count(samples, "r2", name) === made(name)),
    );
    assert.ok(seen.put > 0 && made("put") > 0);
  });

  test("uploads are opened, resumed, finished, cancelled and expired", async () => {
    const content = randomBytes(2 * PART + 1000);
    const location = await registry.startUpload("uploads");
    // A chunk whose client hangs up after its first part.
    const request = http.request(new URL(location, registry.url), { method: "PATCH" });
    request.on("error", () => {});
    for (let at = 0; at < PART + 500_000; at += 500_000) {
      await new Promise((resolve) => request.write(content.subarray(at, at + 500_000), resolve));
    }
    const offsetOf = async () => {
      const answer = await registry.expect(`GET ${location}`, 204);
      return Number(answer.headers.get("range").split("-")[1]) + 1;
    };
    for (let tries = 0; tries < 100 && (await offsetOf()) < PART; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    request.destroy();
    const status = await registry.expect(`GET ${location}`, 204);
    const offset = Number(status.headers.get("range").split("-")[1]) + 1;
    assert.ok(offset >= PART, `${offset}`);
    const body = content.subarray(offset);
    const headers = { "content-range": `${offset}-${content.length - 1}` };
    const answer = await registry.expect(`PATCH ${status.headers.get("location")}`, 202, { body, headers });
    await registry.expect(`PUT ${answer.headers.get("location")}&digest=${digestOf(content)}`, 201);

    const cancelled = await registry.startUpload("uploads");
    const { headers: at } = await registry.expect(`PATCH ${cancelled}`, 202, { body: randomBytes(100) });
    await registry.expect(`DELETE ${at.get("location")}`, 204);

    const expired = await registry.startUpload("uploads");
    await registry.expect(`PATCH ${expired}`, 202, { body: randomBytes(100) });
    const uploads = (samples) =>
      ["opened", "resumed", "finished", "cancelled", "expired"].map((event) =>
        samples.get("pierhead_uploads_total", { event }),
      );
    const open = await scraped(registry, (samples) => uploads(samples).join() === "3,1,1,1,0");
    assert.equal(open.get("pierhead_uploads_open"), 1);
    await registry.advance(8 * DAY);
    const ended = await scraped(registry, (samples) => uploads(samples).join() === "3,1,1,1,1");
    assert.equal(ended.get("pierhead_uploads_open"), 0);
    // The bytes of a chunk without a length.
    const received = ended.get("pierhead_received_bytes_total", { route: "patch_upload" });
    assert.ok(received >= content.length + 200 - PART && received <= content.length + 200 + PART, `${received}`);
  });

  test("a restart keeps what was read", async () => {
    const before = await scrape(registry);
    await registry.restart();
    const after = await scrape(registry);
    for (const { name, labels, value } of before) {
      if (labels.le !== undefined || name === "pierhead_uploads_open") continue;
      assert.ok(after.get(name, labels) >= value, `${name} ${JSON.stringify(labels)} fell`);
    }
    await registry.expect("GET /v2/app0/manifests/v1", 200);
    const labels = { route: "get_manifest", method: "GET", status: 200 };
    const count = before.get("pierhead_requests_total", labels);
    await scraped(registry, (samples) => samples.get("pierhead_requests_total", labels) === count + 1);
  });

  test("what was sent and never read outlives a restart once the alarm has run", async () => {
    const labels = { route: "catalog", method: "GET", status: 200 };
    const before = (await scrape(registry)).get("pierhead_requests_total", labels);
    for (let n = 0; n < 3; n++) await registry.expect("GET /v2/_catalog", 200);
    const sends = async () => (await registry.edgeLog()).counters.calls["metrics.fetch"] ?? 0;
    await registry.edge({});
    await registry.expect("GET /v2/", 401);
    for (let tries = 0; tries < 100 && (await sends()) === 0; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    await registry.advance(10);
    await registry.restart();
    assert.equal((await scrape(registry)).get("pierhead_requests_total", labels), before + 3);
  });

  test("no request waits for the metrics, and each causes at most one call", async () => {
    await registry.edge({ profile: "far", rule: "A", leaps: false });
    await registry.pushImage("waits", "v1");
    for (let n = 0; n < 20; n++) await registry.expect("GET /v2/waits/manifests/v1", 200);
    await new Promise((resolve) => setTimeout(resolve, 6000));
    const { log } = await registry.edgeLog();
    const requests = log.filter(({ kind }) => kind === "request");
    const sends = requests.map(({ calls }) => calls.filter((call) => call.class === "metrics"));
    assert.ok(sends.flat().length > 0 && sends.flat().length <= 3, `${sends.flat().length} batches`);
    for (const [n, { answered, calls }] of requests.entries()) {
      assert.ok(sends[n].length <= 1);
      for (const call of calls.filter(({ class: name }) => name === "metrics")) assert.ok(call.began > answered);
    }
  });

  test("an object that cannot be reached delays nothing and loses nothing", async () => {
    await registry.edge({});
    const labels = { route: "list_tags", method: "GET", status: 200 };
    const before = (await scrape(registry)).get("pierhead_requests_total", labels);
    for (const kind of ["error", "lost", "restart", "overloaded"]) {
      await registry.edge({ faults: [{ call: "metrics", kind }] });
      await registry.expect("GET /v2/app0/tags/list", 200);
      for (let tries = 0; tries < 100; tries++) {
        const { counters } = await registry.edgeLog();
        if (counters.faults > 0) break;
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      assert.equal((await registry.fetch("/metrics", { headers: LOGIN })).status, 503);
    }
    await registry.edge({});
    await scraped(registry, (samples) => samples.get("pierhead_requests_total", labels) === before + 4);
  });

  test("the answer names the request, and so does its line", async () => {
    const headers = { "x-request-id": "made-by-a-client" };
    const answer = await registry.expect("GET /v2/app0/manifests/v1?key=hidden", 200, { headers });
    assert.equal(answer.headers.get("x-request-id"), "made-by-a-client");
    let line;
    for (let tries = 0; tries < 50 && !line; tries++) {
      line = registry.log.match(/\{.*"made-by-a-client".*\}/)?.[0];
      if (!line) await new Promise((resolve) => setTimeout(resolve, 100));
    }
    const { id, method, path, route: name, repository, principal, status, rounds, bytes: sizes } = JSON.parse(line);
    assert.deepEqual(
      { id, method, path, name, repository, principal, status },
      {
        id: "made-by-a-client",
        method: "GET",
        path: "/v2/app0/manifests/v1",
        name: "get_manifest",
        repository: "app0",
        principal: "anonymous",
        status: 200,
      },
    );
    assert.ok(rounds > 0 && sizes.out === Number(answer.headers.get("content-length")));
    assert.ok(!registry.log.includes("hidden"));
  });
});

describe("metrics of events and jobs", () => {
  let registry, receiver;
  before(async () => {
    receiver = await Receiver.start();
    const endpoint = { name: "ci", url: receiver.url, ignore: { actions: ["pull"] } };
    const vars = { ...VARS, EVENT_PRIVATE_ENDPOINTS: "on", EVENT_ENDPOINTS: JSON.stringify([endpoint]) };
    registry = await Registry.start({ vars });
  });
  after(async () => {
    await registry?.stop();
    await receiver?.stop();
  });

  const push = (name) => {
    const content = { schemaVersion: 2, mediaType: INDEX, manifests: [], annotations: { name } };
    return registry.pushManifest(name, "v1", Buffer.from(JSON.stringify(content)), INDEX);
  };

  test("what becomes of events is counted for their endpoint", async () => {
    for (const name of ["a", "b", "c"]) await push(name);
    const of = (samples, outcome) => samples.get("pierhead_events_total", { endpoint: "ci", outcome }) ?? 0;
    await scraped(registry, (samples) => of(samples, "delivered") === 3);
    // A question about an endpoint that there is not makes no series.
    await registry.expect("GET /v2/_pierhead/events/nobody/dead", 404, { headers: LOGIN });
    receiver.mode = () => 422;
    await push("refused");
    // The fifth refusal is the last. An attempt that the clock leaps over is none.
    const refused = () => receiver.requests.filter(({ isTaken }) => !isTaken).length;
    const isDead = async () => {
      const answer = await registry.expect("GET /v2/_pierhead/events", 200, { headers: LOGIN });
      return (await answer.json()).endpoints[0].dead === 1;
    };
    for (let tries = 0; tries < 60 && !(await isDead()); tries++) {
      await registry.advance(10);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    const dead = await scraped(registry, (samples) => of(samples, "dead") === 1);
    const counts = Object.fromEntries(
      ["accepted", "delivered", "failed", "dead", "dropped"].map((outcome) => [outcome, of(dead, outcome)]),
    );
    assert.ok(refused() >= 5, `${refused()} attempts`);
    assert.deepEqual(counts, { accepted: 4, delivered: 3, failed: refused(), dead: 1, dropped: 0 });
    assert.equal(dead.get("pierhead_events_pending", { endpoint: "ci" }), 0);
    assert.ok(!dead.some(({ labels }) => labels.endpoint === "nobody"));
  });

  test("jobs are counted by their outcome", async () => {
    await registry.expect("GET /cdn-cgi/local/scheduled", 200);
    const isDone = (samples, job) => samples.get("pierhead_jobs_total", { job, outcome: "done" }) >= 1;
    await scraped(registry, (samples) => isDone(samples, "resend") && isDone(samples, "purge"));
  });
});

test("with a dataset bound, requests are answered as without", async () => {
  const binding =
    '[[analytics_engine_datasets]]\nbinding = "ANALYTICS"\ndataset = "pierhead"\n\n[[migrations]]\ntag = "v1"';
  const toml = (text) => text.replace('[[migrations]]\ntag = "v1"', binding);
  const registry = await Registry.start({ vars: VARS, toml, edge: false });
  try {
    const { digest } = await registry.pushImage("a", "v1");
    await registry.expect(`GET /v2/a/manifests/${digest}`, 200);
    const { checks } = await (await registry.expect("GET /readyz", 200)).json();
    assert.equal(checks.find(({ name }) => name === "analytics").state, "bound");
    assert.doesNotMatch(registry.log, /"level":"error"|Uncaught/);
  } finally {
    await registry.stop();
  }
});

describe("health", () => {
  let registry;
  before(async () => (registry = await Registry.start({ vars: { HEALTH_THRESHOLD: "2" } })));
  after(() => registry?.stop());

  const state = ({ checks }, name) => checks.find((check) => check.name === name);
  async function ready(rules) {
    await registry.edge(rules);
    await registry.advance(61);
    const answer = await registry.fetch("/readyz");
    return { status: answer.status, body: await answer.json() };
  }

  test("the worker is alive without storage and without a login", async () => {
    await registry.edge({ faults: [{ kind: "error" }] });
    const answer = await registry.expect("GET /healthz", 200);
    assert.deepEqual(await answer.json(), { status: "ok" });
    const { log } = await registry.edgeLog();
    const { calls, answered } = log.find(({ line }) => line === "GET /healthz");
    assert.deepEqual(
      calls.filter(({ began }) => began < answered),
      [],
    );
  });

  test("each binding is exercised, all at once", async () => {
    await registry.edge({ profile: "far", rule: "A" });
    await registry.advance(61);
    const { body, rounds, calls } = await registry.rounds("GET /readyz", { status: 200 });
    const states = JSON.parse(body).checks.map(({ name, state }) => `${name} ${state}`);
    const used = ["bucket", "kv", "uploads", "writers", "endpoints", "metrics"].map((name) => `${name} ok`);
    assert.deepEqual(states.toSorted(), [...used, "events bound", "analytics unbound"].toSorted());
    const made = calls.map((call) => `${call.class}.${call.kind}`);
    const objects = ["object.fetch", "object.fetch", "object.fetch"];
    assert.deepEqual(made.sort(), ["kv.getWithMetadata", "metrics.fetch", ...objects, "r2.head", "r2.put"]);
    assert.equal(rounds, 1);
  });

  for (const [name, fault] of [
    ["bucket", { call: "r2.head", kind: "error" }],
    ["bucket", { call: "r2.put", kind: "internal" }],
    ["kv", { call: "kv", kind: "error" }],
    ["writers", { call: "object.fetch", at: 1, kind: "overloaded" }],
    ["metrics", { call: "metrics", kind: "error" }],
  ]) {
    test(`${name} is reported when ${fault.call} fails twice, and is well again afterwards`, async () => {
      const faults = [fault];
      const first = await ready({ faults });
      assert.deepEqual([first.status, state(first.body, name).state], [200, "doubtful"], JSON.stringify(first));
      const second = await ready({ faults });
      assert.deepEqual([second.status, state(second.body, name).state], [503, "failing"], JSON.stringify(second));
      assert.equal(second.body.status, "failing");
      assert.doesNotMatch(JSON.stringify(second.body), /out of disks|pierhead\/|internal error/);
      const last = await ready({});
      assert.deepEqual([last.status, state(last.body, name).state], [200, "ok"]);
    });
  }

  test("a binding without an answer is given up after two seconds", async () => {
    await ready({ faults: [{ call: "r2.head", kind: "hold", name: "head" }] });
    const started = performance.now();
    const { status, body } = await ready({ faults: [{ call: "r2.head", kind: "hold", name: "head" }] });
    assert.equal(status, 503);
    assert.equal(state(body, "bucket").reason, "no answer in time");
    assert.ok(performance.now() - started < 4000);
    assert.equal((await ready({})).status, 200);
  });

  test("a report serves for five seconds, whoever asks", async () => {
    await ready({});
    await registry.edge({ leaps: false });
    await Promise.all(Array.from({ length: 20 }, () => registry.expect("GET /readyz", 200)));
    const { log } = await registry.edgeLog();
    const calls = log.filter(({ line }) => line === "GET /readyz").flatMap(({ calls }) => calls);
    assert.deepEqual(
      calls.filter((call) => call.class === "r2"),
      [],
    );
  });
});
