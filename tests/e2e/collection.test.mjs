// Collections against pushes, deletions and pulls, by clients that share layers: nothing that was acknowledged breaks, and
// the bucket shrinks to what is referenced. With a grace time of a minute, no push fails; with none, while the runtime is
// killed again and again, a client may have to push again.
import assert from "node:assert/strict";
import { randomBytes, randomInt } from "node:crypto";
import { readFile, rm } from "node:fs/promises";
import path from "node:path";
import { describe, test } from "node:test";
import { containersTool, needs, run, startContainerd, startDocker } from "../support/clients.mjs";
import { random } from "../support/edge/random.mjs";
import { writeLayout } from "../support/images.mjs";
import { Client, image } from "../support/pushes.mjs";
import { Registry, temporaryFolder } from "../support/registry.mjs";

// COLLECTION_SEED repeats a run, as far as the runtime's timing allows. COLLECTION_SECONDS lasts longer.
const SEED = Number(process.env.COLLECTION_SEED ?? randomInt(2 ** 31));
const SECONDS = Number(process.env.COLLECTION_SECONDS ?? 30);
const CLIENTS = 3;
const DAY = 24 * 60 * 60;
const UPLOAD_TTL = 60 * 60;
// How long a reverse link keeps its content without a link, and a little more.
const HOLD = 16 * 60;

const BASE = randomBytes(400_000);
const LAYERS = Array.from({ length: 4 }, (_, n) => randomBytes(1000 + 3000 * n));
const LARGE = randomBytes(9_000_000);

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

class Place {
  constructor(registry, seed) {
    this.registry = registry;
    this.chance = random(seed);
    // What was acknowledged, by repository and tag.
    this.images = new Map();
    // What was pushed and not deleted, by repository and digest: a manifest stays when its tag moves on.
    this.stored = new Map();
    this.counts = { pushes: 0, pushedAgain: 0, deletions: 0, pulls: 0, runs: 0, kills: 0 };
    this.isOver = false;
    // What is under way, and whether the clock is about to leap: no request lasts for minutes.
    this.busy = 0;
    this.isLeaping = false;
    // When what somebody repeats now was begun.
    this.begun = new Set();
  }

  // Does something of a client, not while the clock leaps.
  async alone(work) {
    while (this.isLeaping) await pause(5);
    this.busy++;
    try {
      return await work();
    } finally {
      this.busy--;
    }
  }

  async leap(seconds) {
    this.isLeaping = true;
    while (this.busy > 0) await pause(5);
    await this.patiently(() => this.registry.advance(seconds));
    this.isLeaping = false;
  }

  pick = (list) => list[Math.floor(this.chance() * list.length)];

  // Repeats until the runtime is there, and what `isPassing` says is over. A restart takes seconds, and others follow.
  async patiently(attempt, isPassing = () => false) {
    const call = { time: Date.now() };
    this.begun.add(call);
    try {
      for (let refused = 0; ;) {
        try {
          return await attempt();
        } catch (error) {
          const isGone = error.cause?.code !== undefined || error instanceof TypeError;
          if (isGone ? Date.now() > call.time + 90_000 : !isPassing(error) || ++refused === 60) throw error;
          if (!isGone) this.counts.pushedAgain++;
          await pause(250);
        }
      }
    } finally {
      this.begun.delete(call);
    }
  }

  async collect() {
    await this.runJob("collect");
    this.counts.runs++;
  }

  // Runs a job to its end.
  async runJob(name) {
    const step = async () => {
      const answer = await this.registry.expect(`POST /v2/_pierhead/jobs/${name}/run`, 200);
      return await answer.json();
    };
    // Another runner, or a call that the storage refused.
    const isPassing = (error) => / (409|503|500) instead/.test(error.message);
    for (let state = { running: true }; state.running;) {
      state = await this.patiently(step, isPassing);
      const failed = state.run?.failures ?? state.ended[0].failures;
      if (failed.length > 0) this.failures = failed;
    }
  }

  // One client in its own repositories, with layers that all have.
  async client(number, mayPushAgain) {
    const client = new Client(this.registry);
    const isPassing = (error) => mayPushAgain && / (400|404|503) instead/.test(error.message);
    while (!this.isOver) {
      const name = `team/c${number}-${Math.floor(this.chance() * 2)}`;
      const tag = `v${Math.floor(this.chance() * 3)}`;
      const at = `${name}:${tag}`;
      const known = this.images.get(at);
      const dice = this.chance();
      if (!known || dice < 0.4) {
        const layers = [BASE, this.pick(LAYERS), this.pick(LAYERS)];
        if (dice < 0.1) layers.push(LARGE);
        const made = image([...new Set(layers)], Buffer.from(JSON.stringify({ config: Math.floor(dice * 100) % 7 })));
        // The tag may be on its way.
        this.images.delete(at);
        this.stored.set(`${name}@${made.digest}`, made);
        const way = this.pick(["docker", "put"]);
        await this.alone(() => this.patiently(() => client.push(name, tag, made, way), isPassing));
        this.images.set(at, made);
        this.counts.pushes++;
      } else if (dice < 0.7) {
        await this.alone(() => this.patiently(() => client.pull(name, tag, known)));
        this.counts.pulls++;
      } else {
        this.stored.delete(`${name}@${known.digest}`);
        for (const [other, { digest }] of this.images) {
          if (other.startsWith(`${name}:`) && digest === known.digest) this.images.delete(other);
        }
        const remove = async () => {
          const answer = await this.registry.fetch(`/v2/${name}/manifests/${known.digest}`, { method: "DELETE" });
          const text = await answer.text();
          // The first attempt may have done it.
          if (![202, 404].includes(answer.status)) throw new Error(`DELETE: ${answer.status} instead of 202: ${text}`);
        };
        await this.alone(() => this.patiently(remove, (error) => /503 instead/.test(error.message)));
        this.counts.deletions++;
      }
    }
  }

  // A real client pushes an image, pulls it again, and somebody deletes it.
  async realClient(name, { pushAndPull, repository }) {
    for (this.counts[name] = 0; !this.isOver; this.counts[name]++) {
      const digest = await this.alone(pushAndPull);
      await this.alone(async () => {
        // containerd makes an index of the image.
        const { headers } = await this.registry.expect(`HEAD /v2/${repository}/manifests/v1`, 200);
        for (const each of new Set([headers.get("docker-content-digest"), digest])) {
          const answer = await this.registry.expect(`DELETE /v2/${repository}/manifests/${each}`, 202);
          await answer.arrayBuffer();
          this.counts.deletions++;
        }
      });
    }
  }

  async collector() {
    while (!this.isOver) {
      await this.collect();
      // What was condemned is of age then, and sometimes what was just pushed.
      await this.leap(this.chance() < 0.5 ? HOLD : 130);
    }
  }

  // Kills at any moment, but not what was killed for so long that a slow machine would never finish it.
  async killer() {
    const isStarved = ({ time }) => Date.now() > time + 15_000;
    while (!this.isOver) {
      await pause(2000 + this.chance() * 4000);
      while ([...this.begun].some(isStarved)) await pause(100);
      await this.registry.restart();
      this.counts.kills++;
    }
  }

  // Lets all work for some time, and on a slow machine until they have done as much as this; then lets them finish what
  // they have begun.
  async work(workers, least) {
    const ended = Promise.all(workers);
    const isEnough = () => Object.entries(least).every(([what, count]) => this.counts[what] >= count);
    for (let seconds = 0; seconds < SECONDS || (seconds < 6 * SECONDS && !isEnough()); seconds++) {
      await Promise.race([pause(1000), ended]);
    }
    this.isOver = true;
    await ended;
    assert.ok(isEnough(), `too little has met: ${JSON.stringify(this.counts)}`);
  }

  async checkImages() {
    const client = new Client(this.registry);
    for (const [at, made] of this.images) {
      const [name, tag] = at.split(":");
      await client.pull(name, tag, made);
    }
  }

  // What has to be in the bucket: the bytes of the images, and nothing else.
  async checkBucket(grace) {
    // What uploads left behind when they were killed goes a day after they have expired.
    await this.registry.advance(UPLOAD_TTL + DAY + 60);
    await this.runJob("purge");
    for (let round = 0; round < 5; round++) {
      await this.registry.advance(Math.max(grace, HOLD) + 60);
      await this.collect();
    }
    await this.registry.advance(DAY);
    await this.collect();
    await this.checkImages();
    await this.registry.kill();
    const keys = await this.registry.withBucket(async (bucket) => {
      const keys = [];
      for (let cursor; ;) {
        const listed = await bucket.list({ cursor });
        keys.push(...listed.objects.map(({ key }) => key));
        if (!listed.truncated) return keys;
        cursor = listed.cursor;
      }
    });
    const wanted = new Set([...this.stored.values()].flatMap(digestsOf));
    const hex = (key) => key.match(/[0-9a-f]{64}/)?.[0];
    const trees = ["docker/registry/v2/blobs/", "pierhead/descriptors/", "pierhead/links/", "pierhead/gc/"];
    const prefixes = [...trees, "pierhead/uploads/"];
    const stored = keys.filter((key) => prefixes.some((prefix) => key.startsWith(prefix)) || key.includes("/_layers/"));
    assert.deepEqual(
      stored.filter((key) => !wanted.has(hex(key))),
      [],
      "garbage",
    );
    const bytes = keys.filter((key) => key.startsWith("docker/registry/v2/blobs/")).map(hex);
    const described = keys.filter((key) => key.startsWith("pierhead/descriptors/")).map(hex);
    assert.deepEqual(
      [...wanted].filter((digest) => !bytes.includes(digest) && !described.includes(digest)),
      [],
    );
    assert.equal(keys.filter((key) => key.startsWith("pierhead/blobs/")).length, described.length);
  }
}

const digestsOf = ({ manifest, digest }) => {
  const { config, layers } = JSON.parse(manifest);
  return [digest, config.digest, ...layers.map((layer) => layer.digest)].map((text) => text.split(":")[1]);
};

// Real clients, each with an image of its own: it pushes the image, removes what it has of it, pulls it, and returns its
// digest.
async function realClients(t, folder, host) {
  const layoutOf = async (name) => {
    const layout = path.join(folder, name, "image");
    return { layout, digest: await writeLayout(layout, [1000, 100_000]) };
  };
  const [clients, stops] = [{}, []];
  const add = (name, pushAndPull) => {
    const repository = `real/${name}`;
    clients[name] = { repository, pushAndPull: () => pushAndPull(`${host}/${repository}:v1`) };
  };

  const skopeo = await layoutOf("skopeo");
  const copy = (...args) => run("skopeo", ["--insecure-policy", "copy", ...args]);
  add("skopeo", async (image) => {
    await copy("--dest-tls-verify=false", `oci:${skopeo.layout}:latest`, `docker://${image}`);
    const back = path.join(folder, "skopeo/back");
    await copy("--src-tls-verify=false", `docker://${image}`, `oci:${back}:latest`);
    await rm(back, { recursive: true });
    return skopeo.digest;
  });

  await layoutOf("podman");
  const podman = await containersTool(t, "podman", path.join(folder, "podman/storage"));
  const id = (await podman("pull", "--quiet", "oci:image:latest")).trim();
  add("podman", async (image) => {
    const digestFile = path.join(folder, "podman/digest");
    await podman("push", "--tls-verify=false", "--digestfile", digestFile, id, image);
    await podman("rmi", "--force", id);
    assert.equal((await podman("pull", "--quiet", "--tls-verify=false", image)).trim(), id);
    return (await readFile(digestFile, "utf8")).trim();
  });

  const { docker, stop: stopDocker } = await startDocker(
    path.join(folder, "docker"),
    (await layoutOf("docker")).layout,
  );
  stops.push(stopDocker);
  await docker("tag", "base:v1", `${host}/real/docker:v1`);
  await docker("rmi", "base:v1");
  add("docker", async (image) => {
    const pushed = await docker("push", image);
    await docker("rmi", image);
    await docker("pull", image);
    return pushed.match(/digest: (sha256:[0-9a-f]{64})/)[1];
  });

  const containerd = await layoutOf("containerd");
  const { ctr, load, stop: stopContainerd } = await startContainerd(path.join(folder, "containerd/state"));
  stops.push(stopContainerd);
  add("containerd", async (image) => {
    await load(containerd.layout, image);
    await ctr("images", "push", "--plain-http", image);
    await ctr("images", "rm", "--sync", image);
    await ctr("content", "fetch", "--plain-http", image);
    await ctr("images", "rm", "--sync", image);
    return containerd.digest;
  });
  return { clients, stop: () => Promise.all(stops.map((stop) => stop())) };
}

describe("collections beside clients", () => {
  const tools = ["skopeo", "podman", "dockerd", "docker", "containerd", "ctr"];
  test("with a grace time of a minute no push fails, also of real clients", needs(...tools), async (t) => {
    t.diagnostic(`COLLECTION_SEED=${SEED}`);
    const registry = await Registry.start({
      vars: { ANONYMOUS: "push", COLLECT_GRACE: "1m", UPLOAD_TTL: `${UPLOAD_TTL}s` },
    });
    const folder = await temporaryFolder();
    let real;
    try {
      const place = new Place(registry, SEED);
      real = await realClients(t, folder, registry.host);
      const users = Object.entries(real.clients).map(([name, use]) => place.realClient(name, use));
      const clients = Array.from({ length: CLIENTS }, (_, number) => place.client(number, false));
      const least = Object.fromEntries(Object.keys(real.clients).map((name) => [name, 1]));
      await place.work([...clients, ...users, place.collector()], { ...least, deletions: 8, runs: 3 });
      t.diagnostic(JSON.stringify(place.counts));
      await place.checkImages();
      await place.checkBucket(60).catch((error) => {
        t.diagnostic(`failures: ${JSON.stringify(place.failures)}`);
        throw error;
      });
    } finally {
      await real?.stop();
      await registry.stop();
      await rm(folder, { recursive: true, force: true });
    }
  });

  test("without a grace time, and with kills, nothing that was acknowledged breaks", async (t) => {
    t.diagnostic(`COLLECTION_SEED=${SEED}`);
    const registry = await Registry.start({
      vars: { ANONYMOUS: "push", COLLECT_GRACE: "0s", UPLOAD_TTL: `${UPLOAD_TTL}s` },
    });
    try {
      const place = new Place(registry, SEED);
      const clients = Array.from({ length: CLIENTS }, (_, number) => place.client(number, true));
      await place.work([...clients, place.collector(), place.killer()], { kills: 3, deletions: 1, runs: 2 });
      t.diagnostic(JSON.stringify(place.counts));
      await place.checkImages();
      await place.checkBucket(0);
    } finally {
      await registry.stop();
    }
  });
});
