// Real clients log in, push, log out and pull, with each setting of ANONYMOUS, a right and a wrong password.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile, rm } from "node:fs/promises";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { containersTool, find, needs, run, startContainerd, startDocker } from "../support/clients.mjs";
import { writeLayout } from "../support/images.mjs";
import { INDEX, Registry, digestOf, temporaryFolder, withoutLoginLimit } from "../support/registry.mjs";

const ADMIN = "correct horse battery";
const ANN = "p:w ü";

// Docker's client of Debian, and a newer one if it is installed beside it.
const DOCKERS = ["/usr/bin/docker", "/usr/local/bin/docker"].filter((file) => existsSync(file));

let folder, layout, docker;
before(async () => {
  folder = await temporaryFolder();
  layout = path.join(folder, "image");
  await writeLayout(layout, [1000, 100_000]);
});
after(async () => {
  await docker?.stop();
  await rm(folder, { recursive: true, force: true });
});

for (const anonymous of ["none", "pull", "push"]) {
  describe(`ANONYMOUS = ${anonymous}`, () => {
    let registry;
    const mayPull = anonymous !== "none";

    before(async () => {
      const ann = (await run(find("htpasswd"), ["-nbB", "ann", ANN])).trim();
      const vars = { ANONYMOUS: anonymous, ADMIN_PASSWORD: ADMIN, HTPASSWD: ann };
      registry = await Registry.start({ vars, toml: withoutLoginLimit });
    });
    after(() => registry?.stop());

    test("docker", needs("dockerd", "docker", "skopeo", "htpasswd"), async (t) => {
      docker ??= await startDocker(folder, layout);
      for (const client of DOCKERS) {
        const version = (await run(client, ["--version"])).match(/version ([\d.]+)/)[1];
        await t.test(version, async () => {
          const config = path.join(folder, `docker-${anonymous}-${version}`);
          const call = (...args) => run(client, ["--config", config, "-H", docker.socket, ...args]);
          const login = (user, password) => call("login", "-u", user, "-p", password, registry.host);
          const image = `${registry.host}/docker/${version}:v1`;
          await call("tag", "base:v1", image);
          await assert.rejects(login("ann", "wrong"), /the user name or the password is wrong/);
          await assert.rejects(login("nobody", ANN), /the user name or the password is wrong/);
          if (anonymous !== "push") await assert.rejects(call("push", image), /denied|unauthorized|authentication/);
          assert.match(await login("ann", ANN), /Login Succeeded/);
          // It keeps a refresh token instead of the password.
          const { auths } = JSON.parse(await readFile(path.join(config, "config.json"), "utf8"));
          const { auth, identitytoken } = auths[registry.host];
          assert.match(identitytoken, /^eyJ/);
          assert.equal(Buffer.from(auth, "base64").toString(), "ann:");
          await call("push", image);
          await call("rmi", image);
          await call("pull", image);
          assert.match(await login("admin", ADMIN), /Login Succeeded/);
          await call("push", image);
          await call("logout", registry.host);
          await call("rmi", image);
          if (mayPull) await call("pull", image);
          else await assert.rejects(call("pull", image), /denied|unauthorized|authentication/);
        });
      }
    });

    test("podman", needs("podman", "htpasswd"), async (t) => {
      const auth = ["--authfile", path.join(folder, `podman-${anonymous}.json`)];
      const podman = await containersTool(t, "podman", path.join(folder, `podman-${anonymous}`));
      const login = (user, password) =>
        podman("login", ...auth, "--tls-verify=false", "-u", user, "-p", password, registry.host);
      const id = (await podman("pull", "--quiet", "oci:image:latest")).trim();
      const image = `${registry.host}/podman:v1`;
      const push = () => podman("push", ...auth, "--tls-verify=false", id, image);
      const pull = () => podman("pull", ...auth, "--quiet", "--tls-verify=false", image);
      await assert.rejects(login("ann", "wrong"));
      if (anonymous !== "push") await assert.rejects(push());
      await login("ann", ANN);
      await push();
      await pull();
      await podman("logout", ...auth, registry.host);
      if (mayPull) await pull();
      else await assert.rejects(pull());
    });

    test("skopeo", needs("skopeo", "htpasswd"), async () => {
      const auth = ["--authfile", path.join(folder, `skopeo-${anonymous}.json`)];
      const skopeo = (...args) => run("skopeo", ["--insecure-policy", ...args]);
      const login = (user, password) =>
        skopeo("login", ...auth, "--tls-verify=false", "-u", user, "-p", password, registry.host);
      const image = `docker://${registry.host}/skopeo:v1`;
      const push = (...more) =>
        skopeo("copy", ...auth, "--dest-tls-verify=false", ...more, `oci:${layout}:latest`, image);
      const inspect = (...more) => skopeo("inspect", "--tls-verify=false", ...more, image);
      await assert.rejects(login("ann", "wrong"));
      if (anonymous !== "push") await assert.rejects(push("--dest-creds=ann:wrong"));
      await login("ann", ANN);
      await push();
      await inspect(...auth);
      await skopeo("delete", ...auth, "--tls-verify=false", image);
      await push();
      await skopeo("logout", ...auth, registry.host);
      if (mayPull) await inspect(...auth);
      else await assert.rejects(inspect(...auth));
      // A mirror's client sends the password of another registry.
      if (mayPull) await inspect("--creds=of:another");
      else await assert.rejects(inspect("--creds=of:another"));
    });

    test("containerd", needs("containerd", "ctr", "htpasswd"), async () => {
      const { ctr, load, stop } = await startContainerd(path.join(folder, `containerd-${anonymous}`));
      try {
        const image = `${registry.host}/containerd:v1`;
        await load(layout, image);
        const push = (user) => ctr("images", "push", "--plain-http", "--user", user, image);
        if (anonymous !== "push") await assert.rejects(push("ann:wrong"));
        await push(`ann:${ANN}`);
        await ctr("images", "rm", "--sync", image);
        const fetched = (...user) => ctr("content", "fetch", "--plain-http", ...user, image);
        if (mayPull) await fetched();
        else await assert.rejects(fetched());
        await fetched("--user", `admin:${ADMIN}`);
      } finally {
        await stop();
      }
    });

    // What crane, oras and helm send, as their sources have it.
    describe("flows of other clients", () => {
      const basic = (user, password) => `Basic ${Buffer.from(`${user}:${password}`).toString("base64")}`;

      async function challenge() {
        const answer = await registry.fetch("/v2/");
        assert.equal(answer.status, 401);
        await answer.arrayBuffer();
        const header = answer.headers.get("www-authenticate");
        const [, scheme, rest] = header.match(/^(\w+) (.*)$/);
        assert.equal(scheme, "Bearer");
        return Object.fromEntries([...rest.matchAll(/(\w+)="([^"]*)"/g)].map(([, name, value]) => [name, value]));
      }

      async function push(token, name) {
        const body = Buffer.from(
          JSON.stringify({
            schemaVersion: 2,
            mediaType: INDEX,
            manifests: [],
            annotations: { n: randomBytes(8).toString("hex") },
          }),
        );
        const headers = { authorization: `Bearer ${token}`, "content-type": INDEX };
        const answer = await registry.fetch(`/v2/${name}/manifests/v1`, { method: "PUT", headers, body });
        await answer.arrayBuffer();
        if (answer.status === 201) assert.equal(answer.headers.get("docker-content-digest"), digestOf(body));
        return answer.status;
      }

      test("crane: GET with both scopes", needs("htpasswd"), async () => {
        const { realm, service } = await challenge();
        const ask = async (authorization, scopes) => {
          const url = new URL(realm);
          url.searchParams.set("service", service);
          for (const scope of scopes) url.searchParams.append("scope", scope);
          const answer = await fetch(url, { headers: authorization ? { authorization } : {} });
          return { status: answer.status, ...(await answer.json()) };
        };
        const scopes = ["repository:crane/app:push,pull", "repository:crane/base:pull"];
        assert.equal((await ask(basic("ann", "wrong"), scopes)).status, anonymous === "push" ? 200 : 401);
        const { token } = await ask(basic("ann", ANN), scopes);
        assert.equal(await push(token, "crane/app"), 201);
        assert.equal(await push(token, "crane/base"), 401);
        const stranger = await ask(undefined, ["repository:crane/app:push,pull"]);
        assert.equal(await push(stranger.token, "crane/app"), anonymous === "push" ? 201 : 401);
      });

      test("oras and helm: POST with a form, and refresh tokens", needs("htpasswd"), async () => {
        const { realm, service } = await challenge();
        const post = async (fields) => {
          const body = new URLSearchParams({ service, client_id: "oras-go", ...fields });
          const answer = await fetch(realm, { method: "POST", body });
          return { status: answer.status, ...(await answer.json()) };
        };
        const scope = "repository:oras/app:pull,push";
        const password = { grant_type: "password", username: "ann", scope, access_type: "offline" };
        assert.equal((await post({ ...password, password: "wrong" })).status, anonymous === "push" ? 200 : 401);
        assert.equal((await post({ ...password, password: "wrong", scope: "" })).status, 401);
        const first = await post({ ...password, password: ANN });
        assert.equal(await push(first.access_token, "oras/app"), 201);
        const again = await post({ grant_type: "refresh_token", refresh_token: first.refresh_token, scope });
        assert.equal(await push(again.access_token, "oras/app"), 201);
        assert.equal(await push(again.access_token, "oras/other"), 401);
      });
    });
  });
}

test("docker says what is not allowed, and does not try again", needs("dockerd", "docker", "skopeo"), async () => {
  docker ??= await startDocker(folder, layout);
  const policy = `
    [[rule]]
    user = "ann"
    repositories = ["team/**"]
    actions = ["pull", "push"]
  `;
  const ann = (await run(find("htpasswd"), ["-nbB", "ann", ANN])).trim();
  const registry = await Registry.start({ vars: { ANONYMOUS: "none", HTPASSWD: ann, POLICY: policy } });
  try {
    for (const client of DOCKERS) {
      const call = (...args) => run(client, ["--config", path.join(folder, "refused"), "-H", docker.socket, ...args]);
      await call("login", "-u", "ann", "-p", ANN, registry.host);
      const image = `${registry.host}/other/app:v1`;
      await call("tag", "base:v1", image);
      await assert.rejects(call("push", image), /ann may not push to this repository/);
    }
    // One for each of two layers; after a refusal that it does not understand, docker starts each push five times.
    const refused = registry.log.match(/"method":"POST".*"path":"\/v2\/other\/app\/blobs\/uploads\/".*"status":403/g);
    assert.ok(refused.length / 2 <= 2 * DOCKERS.length, `${refused.length} lines`);
  } finally {
    await registry.stop();
  }
});

test("failed logins are slowed", async () => {
  const registry = await Registry.start({ vars: { ANONYMOUS: "none", ADMIN_PASSWORD: ADMIN } });
  try {
    const login = async (address, password) => {
      const authorization = `Basic ${Buffer.from(`admin:${password}`).toString("base64")}`;
      const answer = await registry.fetch("/token", { headers: { authorization, "cf-connecting-ip": address } });
      await answer.arrayBuffer();
      return answer;
    };
    const statuses = [];
    for (let n = 0; n < 12; n++) statuses.push((await login("198.51.100.1", "wrong")).status);
    assert.deepEqual(statuses, [...Array.from({ length: 10 }, () => 401), 429, 429]);
    const refused = await login("198.51.100.1", ADMIN);
    assert.equal(refused.status, 429);
    assert.equal(refused.headers.get("retry-after"), "60");
    assert.equal((await login("198.51.100.2", ADMIN)).status, 200);
  } finally {
    await registry.stop();
  }
});
