// Removal of repositories and takedowns with the worker: by the command, against real clients, kills and caches.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { rm } from "node:fs/promises";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { promisify } from "node:util";
import { needs, run } from "../support/clients.mjs";
import { writeLayout } from "../support/images.mjs";
import { Registry, errorOf, root, temporaryFolder } from "../support/registry.mjs";

const HOLD = 15 * 60;
// For so long after its last deletion, a takedown cannot be lifted.
const REST = 90;

let registry, folder, layout;
before(async () => {
  registry = await Registry.start();
  folder = await temporaryFolder();
  layout = path.join(folder, "image");
  await writeLayout(layout, [1000, 100_000]);
});
after(async () => {
  await registry?.stop();
  await rm(folder, { recursive: true, force: true });
});

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const image = (name) => `docker://${registry.host}/${name}`;
const push = (name) =>
  run("skopeo", ["--insecure-policy", "copy", "--dest-tls-verify=false", `oci:${layout}:latest`, image(name)]);
const pull = (name) => {
  const to = `dir:${path.join(folder, randomBytes(6).toString("hex"))}`;
  return run("skopeo", ["--insecure-policy", "copy", "--src-tls-verify=false", image(name), to]);
};

async function admin(...args) {
  const env = { PATH: process.env.PATH, HOME: folder, PIERHEAD_URL: registry.url };
  const command = promisify(execFile)(process.execPath, [path.join(root, "scripts/admin.mjs"), ...args], { env });
  const { code = 0, stdout, stderr } = await command.catch((error) => error);
  assert.equal(code, 0, stderr);
  return stdout;
}

async function goOn() {
  for (let state = { running: true }; state.running;) {
    state = await (await registry.expect("POST /v2/_pierhead/jobs/remove/run", 200)).json();
  }
}

const statusOf = async (target, options) => {
  const answer = await registry.fetch(target, options);
  await answer.arrayBuffer();
  return answer.status;
};

test("a repository is removed by the command, and its name is free", needs("skopeo"), async () => {
  for (const name of ["gone/app:v1", "gone/app:v2", "gone/app/below:v1", "kept:v1"]) await push(name);
  const printed = await admin("remove", "gone/app");
  assert.match(
    printed,
    /^gone\/app is removed: layers 3, manifests 1, tags 2\n$|^gone\/app is removed: tags 2, manifests 1, layers 3\n$/,
  );
  await assert.rejects(pull("gone/app:v1"), /manifest unknown|name unknown/i);
  const { repositories } = await (await registry.expect("GET /v2/_catalog", 200)).json();
  assert.ok(!repositories.includes("gone/app") && repositories.includes("gone/app/below"), repositories.join());
  await pull("gone/app/below:v1");
  await pull("kept:v1");
  await push("gone/app:v3");
  await pull("gone/app:v3");
});

test("a removal goes on after kills, and lets nobody in before its end", async (t) => {
  const tags = Array.from({ length: 260 }, (_, n) => `t${n}`);
  const { digest, manifest } = await registry.pushImage("many", "first");
  for (let n = 0; n < tags.length; n += 20) {
    const named = tags.slice(n, n + 20).join("&tag=");
    await registry.pushManifest("many", `${digest}?tag=${named}`, manifest);
  }
  const ask = () => registry.fetch("/v2/_pierhead/repositories/many", { method: "DELETE" });
  let kills = 0;
  let refused = 0;
  for (let state = {}; !state.done;) {
    const asked = ask().then(
      async (answer) => (answer.ok ? await answer.json() : {}),
      () => ({}),
    );
    if (kills < 3) {
      await pause(150 + 250 * kills);
      await registry.restart();
      kills++;
    }
    state = await asked;
    if (!state.done && state.removing) {
      const headers = { "content-type": "application/vnd.oci.image.manifest.v1+json" };
      const answer = await registry.fetch("/v2/many/manifests/new", { method: "PUT", body: manifest, headers });
      // Or its layers are gone.
      const expected = state.removing === "layers" ? /is being removed|does not have/ : /is being removed/;
      const { message } = await errorOf(answer);
      assert.ok([400, 403].includes(answer.status) && expected.test(message), `${state.removing}: ${message}`);
      refused++;
    }
    // Calls whose answers were lost have landed.
    if (!state.done) await registry.advance(40);
    if (kills === 3 && (await statusOf("/v2/many/tags/list")) === 404) break;
  }
  t.diagnostic(JSON.stringify({ kills, refused }));
  await goOn();
  assert.equal(await statusOf("/v2/many/tags/list"), 404);
  await registry.pushImage("many", "again");
  await registry.advance(400);
  await goOn();
  assert.equal(await statusOf("/v2/many/manifests/again"), 200);
});

describe("takedowns", () => {
  test("content goes, a real client cannot push it again, until that is lifted", needs("skopeo"), async () => {
    for (const name of ["bad:v1", "other/bad:v1"]) await push(name);
    const { layers } = await (await registry.expect("GET /v2/bad/manifests/v1", 200)).json();
    const { digest } = layers[1];
    const printed = await admin("takedown", digest, "--reason", "a leaked key");
    assert.match(
      printed,
      / is taken down: links removed: \d+\nby anonymous at .*: a leaked key\npushes that had begun/,
    );
    assert.match(printed, /\nMAY STILL BE SERVED BY +UNTIL\na push that had begun before +20/);
    for (const name of ["bad", "other/bad"]) {
      assert.equal(await statusOf(`/v2/${name}/blobs/${digest}`), 404);
      await assert.rejects(pull(`${name}:v1`), /blob unknown|404/i);
    }
    await assert.rejects(push("new:v1"), /taken this content down|denied/i);
    const mount = `POST /v2/mounted/blobs/uploads/?mount=${digest}&from=bad`;
    assert.ok([202, 403].includes((await registry.rounds(mount)).answer.status));
    await registry.advance(HOLD + 5);
    await goOn();
    assert.match(await admin("takedown", digest), / is taken down: /);
    assert.doesNotMatch(await admin("takedown", digest), /pushes that had begun/);
    await registry.advance(REST);
    await registry.advance(300);
    await goOn();
    assert.match(await admin("lift", digest), /can be pushed again/);
    await push("new:v1");
    await pull("new:v1");
  });

  test("it goes from a cache in another place", async (t) => {
    const main = "tests/support/edge/near-entry.mjs";
    const vars = { ANONYMOUS: "push", DIGEST_CACHE_SECONDS: "60", TAG_CACHE_SECONDS: "60" };
    const near = await Registry.start({ main, vars });
    t.after(() => near.stop());
    const { layer, digest } = await near.pushImage("a", "v1", { layer: randomBytes(5000) });
    const from = (center) => ({ headers: { "x-data-center": center } });
    const pulls = (center) =>
      Promise.all(
        [`manifests/v1`, `manifests/${digest}`, `blobs/${layer}`].map(async (what) => {
          const answer = await near.fetch(`/v2/a/${what}`, from(center));
          await answer.arrayBuffer();
          return answer.status;
        }),
      );
    for (const center of ["a", "b", "a", "b"]) assert.deepEqual(await pulls(center), [200, 200, 200]);
    for (const taken of [layer, digest]) {
      const body = JSON.stringify({ reason: "a leaked key" });
      const answer = await near.expect(`POST /v2/_pierhead/takedown?digest=${taken}`, 202, { body, ...from("a") });
      const { still_served: places } = await answer.json();
      assert.ok(
        places.some(({ place }) => place.startsWith("answers that isolates")),
        JSON.stringify(places),
      );
    }
    // The isolate that has removed the links knows at once; a new one, from the other place, after the bound.
    assert.deepEqual(await pulls("a"), [404, 404, 404]);
    await near.fetch("/v2/_test/panic").then((answer) => answer.arrayBuffer());
    await near.expect("PUT /v2/_near?center=b", 200, { body: JSON.stringify({ ahead: 61 }) });
    assert.deepEqual(await pulls("b"), [404, 404, 404]);
  });
});
