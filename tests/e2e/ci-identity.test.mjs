// A job of a made-up CI system logs in with its identity, by the action and by one request, and pushes where a rule of
// the policy says and nowhere else.
import assert from "node:assert/strict";
import { readFile, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { after, before, test } from "node:test";
import { needs, run } from "../support/clients.mjs";
import { writeLayout } from "../support/images.mjs";
import { Issuer } from "../support/issuer.mjs";
import { Registry, root, temporaryFolder, withoutLoginLimit } from "../support/registry.mjs";

let issuer, registry, folder;
before(async () => {
  issuer = await Issuer.start();
  issuer.claims = { aud: "registry.example", repository: "org/app", ref: "refs/heads/main" };
  const policy = `
    [[issuer]]
    name = "made-up"
    url = "${issuer.url}"
    audience = "registry.example"
    algorithms = ["RS256", "ES256", "EdDSA"]

    [[rule]]
    issuer = "made-up"
    claims = { repository = "org/app", ref = "refs/heads/main" }
    repositories = ["org/app", "org/app/**"]
    actions = ["pull", "push"]
  `;
  const vars = { ANONYMOUS: "none", POLICY: policy, EXTERNAL_PRIVATE_ISSUERS: "on" };
  // The clock of the issuer does not leap.
  registry = await Registry.start({ vars, edge: { leaps: false }, toml: withoutLoginLimit });
  folder = await temporaryFolder();
  await writeLayout(path.join(folder, "image"), [1000, 100_000]);
});
after(async () => {
  await registry?.stop();
  issuer?.stop();
  await rm(folder, { recursive: true, force: true });
});

async function exchange(token, scope = "repository:org/app/web:pull,push") {
  const body = new URLSearchParams({
    grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
    subject_token: token,
    scope,
  });
  const answer = await registry.fetch("/token", { method: "POST", body });
  return { status: answer.status, ...(await answer.json()) };
}

async function mayPush(token, name) {
  const headers = { authorization: `Bearer ${token}` };
  const answer = await registry.fetch(`/v2/${name}/blobs/uploads/`, { method: "POST", headers });
  await answer.arrayBuffer();
  return answer.status === 202;
}

test("tokens of every algorithm are exchanged", async () => {
  for (const alg of ["RS256", "ES256", "EdDSA"]) {
    const { status, access_token: token } = await exchange(issuer.token({}, alg));
    assert.equal(status, 200, alg);
    assert.ok(await mayPush(token, "org/app/web"), alg);
  }
});

test("a job pushes where the rule says, and nowhere else", async () => {
  const scope = "repository:org/app/web:push repository:org/other:push";
  const { access_token: token } = await exchange(issuer.token(), scope);
  assert.ok(await mayPush(token, "org/app/web"));
  assert.ok(!(await mayPush(token, "org/other")));
  for (const changes of [{ repository: "org/fork" }, { ref: "refs/heads/feature" }, { ref: undefined }]) {
    const other = await exchange(issuer.token(changes));
    assert.equal(other.status, 401, JSON.stringify(changes));
    assert.match(other.errors[0].message, /no rule of the policy/);
  }
});

test("forged tokens are refused", async () => {
  const good = issuer.token();
  const [header, claims, signature] = good.split(".");
  const flipped = `${signature.slice(0, 20)}${signature[20] === "A" ? "B" : "A"}${signature.slice(21)}`;
  for (const [token, message] of [
    [`${header}.${claims}.${flipped}`, /signature/],
    [`${header}.${claims}.`, /./],
    [issuer.token({}, "RS256", { alg: "none" }), /algorithm/],
    [issuer.token({}, "ES256", { kid: "key-RS256" }), /key|signature/],
    [issuer.token({ aud: "another" }), /audience/],
    [issuer.token({ iss: "https://evil.example.com" }), /issuer/],
    [issuer.token({ exp: 1 }), /expired/],
    [issuer.token({}, "RS256", { kid: "unknown" }), /key/],
  ]) {
    const { status, errors } = await exchange(token);
    assert.equal(status, 401, String(message));
    assert.match(errors[0].message, message);
  }
});

test("the action logs docker in", needs("docker", "skopeo", "curl", "jq"), async () => {
  const action = await readFile(path.join(root, "action.yml"), "utf8");
  const [, indented] = action.match(/^ {6}run: \|\n((?: {8}.*\n|\n)+)/m);
  // The registry here has no TLS.
  const script = indented.replace(/^ {8}/gm, "").replaceAll("https://$REGISTRY", "http://$REGISTRY");
  const file = path.join(folder, "action.sh");
  await writeFile(file, script);
  const config = path.join(folder, "docker");
  const env = {
    ...process.env,
    DOCKER_CONFIG: config,
    DOCKER_HOST: `unix://${folder}/none.sock`,
    REGISTRY: registry.host,
    AUDIENCE: "registry.example",
    ACTIONS_ID_TOKEN_REQUEST_URL: `${issuer.url}/id-token?api-version=2.0`,
    ACTIONS_ID_TOKEN_REQUEST_TOKEN: "of-the-job",
  };
  const output = await run("bash", [file], { env });
  assert.match(output, /Login Succeeded/);
  const authfile = path.join(config, "config.json");
  const copy = (name) =>
    run("skopeo", [
      "--insecure-policy",
      "copy",
      "--dest-tls-verify=false",
      "--authfile",
      authfile,
      `oci:${folder}/image:latest`,
      `docker://${registry.host}/${name}:v1`,
    ]);
  await copy("org/app/web");
  await assert.rejects(copy("org/other"), /403|denied/);
  // Without its permission, the job hears what is missing.
  const { ACTIONS_ID_TOKEN_REQUEST_URL: _, ...without } = env;
  await assert.rejects(run("bash", [file], { env: without }), /id-token: write/);
});
