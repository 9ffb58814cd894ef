// The command for administrators, against a registry.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { execFile } from "node:child_process";
import { mkdir, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { Registry, root, temporaryFolder } from "../support/registry.mjs";

const PASSWORD = "correct horse battery";
const login = { PIERHEAD_USER: "admin", PIERHEAD_PASSWORD: PASSWORD };

let registry, folder;
before(async () => {
  registry = await Registry.start({ proof: "basic", vars: { ADMIN_PASSWORD: PASSWORD } });
  folder = await temporaryFolder();
});
after(async () => {
  await registry?.stop();
  await rm(folder, { recursive: true, force: true });
});

// Runs the command; returns its exit code and what it prints.
async function admin(args, env = login) {
  const settings = { PATH: process.env.PATH, HOME: folder, PIERHEAD_URL: registry.url, ...env };
  const command = promisify(execFile)(process.execPath, [path.join(root, "scripts/admin.mjs"), ...args], {
    env: settings,
  });
  const { code = 0, stdout, stderr } = await command.catch((error) => error);
  return { code, stdout, stderr };
}

async function succeeds(args, env) {
  const { code, stdout, stderr } = await admin(args, env);
  assert.equal(code, 0, stderr);
  return stdout;
}

test("jobs are run, watched, paused, resumed and cancelled", async () => {
  assert.match(
    await succeeds(["jobs"]),
    /^JOB +SCHEDULE +STATUS +LAST RUN +RESULT\n(.+\n)*purge +every day +idle +never run\n/,
  );
  const watched = await succeeds(["run", "purge", "--dry-run", "--watch"]);
  assert.match(watched, /^{"dry_run":true,"finished":true,"purged":\[\],"seen":0}\npurge: idle, runs every day\n/);
  assert.match(watched, /\d\d:\d\d:\d\dZ +done +admin +yes +1 +0 +purged 0, seen 0\n$/);
  assert.match(await succeeds(["pause", "purge"]), /^purge: paused, .*\npaused by admin at 20/);
  const { code, stderr } = await admin(["run", "purge"]);
  assert.deepEqual(
    [code, stderr],
    [1, "the job purge is paused: POST to /v2/_pierhead/jobs/purge/resume resumes it (409)\n"],
  );
  assert.match(await succeeds(["status", "purge"]), /^purge: paused/);
  assert.match(await succeeds(["resume", "purge"]), /^purge: idle/);
  assert.match(await succeeds(["cancel", "purge"]), /^purge: idle/);
  const { jobs } = JSON.parse(await succeeds(["jobs", "--json"]));
  assert.equal(jobs.find(({ name }) => name === "purge").ended[0].outcome, "done");
});

test("a run of several steps goes on to its end", async () => {
  // The strict edge lists a few keys at a time. The second chunk of an upload is staged.
  const stage = async (_, n) => {
    const started = await registry.startUpload(`many/${n}`);
    const patched = await registry.expect(`PATCH ${started}`, 202, { body: randomBytes(10) });
    await registry.expect(`PATCH ${patched.headers.get("location")}`, 202, { body: randomBytes(10) });
  };
  await Promise.all(Array.from({ length: 25 }, stage));
  const { code, stdout, stderr } = await admin(["run", "purge", "--dry-run"]);
  assert.equal(code, 0, stderr);
  assert.match(stderr, /^(purge: step \d+: purged 0, seen \d+\n){2,}$/);
  assert.match(stdout, / done +admin +yes +\d+ +0 +purged 0, seen 25\n/);
});

test("the usage of repositories is listed, and a quota of one is kept by its object", async () => {
  const POLICY = '[[quota]]\nrepositories = ["limited"]\nbytes = "12 kB"\n';
  const own = await Registry.start({ proof: "basic", vars: { ADMIN_PASSWORD: PASSWORD, POLICY } });
  const env = { ...login, PIERHEAD_URL: own.url };
  const type = "application/vnd.oci.image.manifest.v1+json";
  const push = async (name, tag, length, status) => {
    const descriptors = [];
    for (const content of [Buffer.from("{}"), Buffer.alloc(length, tag)]) {
      const digest = await own.pushBlob(name, content);
      descriptors.push({ mediaType: "application/x", digest, size: content.length });
    }
    const [config, ...layers] = descriptors;
    const body = JSON.stringify({ schemaVersion: 2, mediaType: type, config, layers });
    const headers = { "content-type": type };
    const answer = await own.expect(`PUT /v2/${name}/manifests/${tag}`, status, { headers, body });
    return { length: body.length, digest: answer.headers.get("docker-content-digest"), text: await answer.text() };
  };
  try {
    const one = await push("limited", "one", 6000, 201);
    await push("other", "one", 20_000, 201);
    const { text } = await push("limited", "two", 6000, 403);
    assert.match(text, /the repository limited would refer to 12\.\d kB, and its quota is 12 kB/);
    // What is there can be pushed again; the object keeps its count over a restart.
    await push("limited", "one", 6000, 201);
    await own.restart();
    await push("limited", "two", 6000, 403);
    assert.match(await succeeds(["usage"], env), /^REPOSITORY +MANIFESTS +LAYERS +SIZE +QUOTA +COUNTED\n$/);
    await succeeds(["run", "collect"], env);
    const { repositories } = JSON.parse(await succeeds(["usage", "--json"], env));
    const used = repositories.map(({ name, manifests, layers, bytes, quota }) => [
      name,
      manifests,
      layers,
      bytes,
      quota,
    ]);
    assert.deepEqual(used[0], ["limited", 1, 2, 6000 + 2 + one.length, 12_000]);
    assert.match(
      await succeeds(["usage"], env),
      /\nlimited +1 +2 +6\.\d kB +12 kB +20\S+ \S+Z\nother +1 +2 +20\.\d kB +20/,
    );
    // The count of the collection is that of the object.
    await push("limited", "two", 6000, 403);
    await push("limited", "two", 5000, 201);
    // A deletion frees with the next collection. What was pushed within minutes before it stays counted.
    await own.expect(`DELETE /v2/limited/manifests/${one.digest}`, 202);
    await push("limited", "three", 6000, 403);
    await own.advance(3600);
    await succeeds(["run", "collect"], env);
    await push("limited", "three", 6000, 201);
  } finally {
    await own.stop();
  }
});

test("a check tells what is wrong", async () => {
  const type = "application/vnd.oci.image.index.v1+json";
  const subject = { mediaType: type, digest: `sha256:${"0".repeat(64)}`, size: 1 };
  await registry.pushManifest(
    "checked",
    "v1",
    JSON.stringify({ schemaVersion: 2, mediaType: type, manifests: [], subject }),
    type,
  );
  assert.match(
    await succeeds(["run", "fsck"]),
    / done +admin +no +\d+ +0 +empty_repositories 0, keys \d+, unused_reverse_links 0\n$/,
  );
  assert.match(await succeeds(["run", "scrub"]), / done +admin +no +\d+ +0 +blobs \d+, bytes \d+\n$/);
});

test("errors say what is wrong", async () => {
  for (const [args, env, expected] of [
    [["status", "none"], login, /^there is no such job: check its name against the list \(404\)\n$/],
    [
      ["run", "resend", "--dry-run"],
      login,
      /^query parameter dry-run: leave it out, this job has no dry run \(400\)\n$/,
    ],
    [["jobs"], {}, /^authentication required: log in \(401\)\n$/],
    [
      ["jobs"],
      { ...login, PIERHEAD_PASSWORD: randomBytes(8).toString("hex") },
      /^the user name or the password is wrong \(401\)\n$/,
    ],
    [["jobs"], { PIERHEAD_USER: "admin" }, /^set PIERHEAD_PASSWORD/],
    [["jobs", "--url", "http://127.0.0.1:1"], login, /^http:\/\/127\.0\.0\.1:1 cannot be reached: /],
    [["jobs", "--url", "registry.example.com"], login, /^registry\.example\.com is not a URL/],
    [["stop", "purge"], login, /^Usage: /],
    [["status"], login, /^Usage: /],
    [["jobs", "--dry"], login, /^Unknown option '--dry'[^]*\nUsage: /],
  ]) {
    const { code, stdout, stderr } = await admin(args, env);
    assert.deepEqual([code, stdout], [1, ""], args.join(" "));
    assert.match(stderr, expected, args.join(" "));
  }
});

test("docker's login is used", async () => {
  await mkdir(path.join(folder, ".docker"), { recursive: true });
  const auth = Buffer.from(`admin:${PASSWORD}`).toString("base64");
  const { host } = new URL(registry.url);
  await writeFile(path.join(folder, ".docker/config.json"), JSON.stringify({ auths: { [host]: { auth } } }));
  assert.match(await succeeds(["jobs"], {}), /^JOB /);
});
