// A run that uses every kind of secret, rightly and wrongly, while the storage fails now and then. Afterwards nothing that
// was logged, no answer to a refused request and no event has any of them. Every other end-to-end test checks its own log,
// too: see tests/support/credentials.mjs.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, test } from "node:test";
import { find, needs, run } from "../support/clients.mjs";
import { findCredentials, worker } from "../support/credentials.mjs";
import { Issuer } from "../support/issuer.mjs";
import { Receiver } from "../support/receiver.mjs";
import { Registry, digestOf } from "../support/registry.mjs";

const random = () => randomBytes(24).toString("hex");
const SIGNING = `${random()} ${random()}`;
const ADMIN = random();
const ANN = random();
const REDIRECTS = random();
const OF_ENDPOINT = random();
const OF_EVENTS = random();

// Whatever must not be found: name and text.
const secrets = new Map();
// The bodies of answers that refuse something.
const refusals = [];
let registry, issuer, receiver;

before(async () => {
  issuer = await Issuer.start();
  issuer.claims = { aud: "registry.example", repository: "org/app" };
  receiver = await Receiver.start(({ body }) =>
    receiver.requests.length % 3 === 0 ? 500 : body.length > 0 ? "ok" : 400,
  );
  const hash = (await run(find("htpasswd"), ["-nbBC", "4", "ann", ANN])).trim();
  const endpoint = {
    name: "local",
    url: `${receiver.url}/?key=${OF_ENDPOINT}`,
    headers: { Authorization: `Bearer ${OF_ENDPOINT}` },
    signing_secret: OF_EVENTS,
  };
  const vars = {
    ANONYMOUS: "none",
    LOG_LEVEL: "debug",
    SIGNING_SECRET: SIGNING,
    ADMIN_PASSWORD: ADMIN,
    HTPASSWD: hash,
    BLOB_REDIRECT: "signed",
    BLOB_REDIRECT_KEYS: REDIRECTS,
    EVENT_ENDPOINTS: JSON.stringify([endpoint]),
    EVENT_PRIVATE_ENDPOINTS: "on",
    EXTERNAL_PRIVATE_ISSUERS: "on",
    POLICY: `
      [[issuer]]
      name = "made-up"
      url = "${issuer.url}"
      audience = "registry.example"
      [[rule]]
      issuer = "made-up"
      claims = { repository = "org/app" }
      repositories = ["org/app"]
      actions = ["pull", "push"]
      [[rule]]
      users = true
      repositories = ["**"]
      actions = ["pull", "push", "delete"]
    `,
  };
  registry = await Registry.start({ vars, edge: { leaps: false } });
  for (const [name, value] of Object.entries({ ADMIN, ANN, REDIRECTS, OF_ENDPOINT, OF_EVENTS }))
    secrets.set(name, value);
  SIGNING.split(" ").forEach((value, at) => secrets.set(`SIGNING_SECRET ${at}`, value));
  secrets.set("hash", hash.split(":")[1]);
});
after(async () => {
  await registry?.stop();
  issuer?.stop();
  await receiver?.stop();
});

async function send(line, { authorization, body, headers } = {}) {
  const [method, target] = line.split(" ");
  const answer = await registry.fetch(target, {
    method,
    ...(body !== undefined && { body }),
    headers: { ...headers, ...(authorization && { authorization }) },
  });
  const text = await answer.text();
  if (answer.status >= 400) refusals.push(`${[...answer.headers]} ${text}`);
  return { status: answer.status, text, headers: answer.headers };
}

function keep(name, value) {
  assert.ok(value?.length >= 16, `${name}: ${value}`);
  secrets.set(name, value);
  return value;
}

function basic(name, user, password) {
  const encoded = Buffer.from(`${user}:${password}`).toString("base64");
  return `Basic ${keep(`Basic ${name}`, encoded)}`;
}

const post = (form) => send("POST /token", { body: new URLSearchParams(form) });

async function push(name, authorization) {
  const bytes = randomBytes(500);
  const started = await send(`POST /v2/${name}/blobs/uploads/`, { authorization });
  const location = started.headers.get("location");
  keep("state of an upload", new URL(location, registry.url).searchParams.get("_state"));
  const digest = digestOf(bytes);
  const pushed = await send(`PUT ${location}&digest=${digest}`, { authorization, body: bytes });
  assert.equal(pushed.status, 201, pushed.text);
  return digest;
}

test("no secret leaves the registry", needs("htpasswd"), async () => {
  const admin = basic("admin", "admin", ADMIN);
  const ann = basic("ann", "ann", ANN);
  const scope = "repository:org/app:pull,push";

  // Users, with tokens and with each request.
  const login = JSON.parse((await send(`GET /token?scope=${scope}&offline_token=true`, { authorization: ann })).text);
  const token = keep("access token", login.token);
  const refresh = keep("refresh token", login.refresh_token);
  const digest = await push("org/app", `Bearer ${token}`);
  await push("org/app", ann);
  assert.equal((await post({ grant_type: "refresh_token", refresh_token: refresh, scope })).status, 200);
  const form = { grant_type: "password", username: "ann", password: ANN, scope };
  assert.equal((await post(form)).status, 200);

  // A key, shown once.
  const asked = { name: "robot", scopes: [{ repositories: "org/**", actions: ["pull", "push"] }] };
  const made = await send("POST /v2/_pierhead/keys", { authorization: admin, body: JSON.stringify(asked) });
  assert.equal(made.status, 201, made.text);
  const key = keep("API key", JSON.parse(made.text).key);
  secrets.set("secret of the API key", key.split("_").at(-1));
  const robot = basic("robot", "robot", key);
  await push("org/app", robot);
  assert.ok(!(await send("GET /v2/_pierhead/keys", { authorization: admin })).text.includes(key.split("_").at(-1)));

  // A CI job.
  const identity = keep("identity of a job", issuer.token());
  const exchanged = await post({
    grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
    subject_token: identity,
    scope,
  });
  assert.equal(exchanged.status, 200, exchanged.text);
  await push("org/app", `Bearer ${keep("token of a job", JSON.parse(exchanged.text).access_token)}`);

  // A signed URL.
  const redirect = await send(`GET /v2/org/app/blobs/${digest}`, { authorization: ann });
  assert.equal(redirect.status, 307);
  const url = redirect.headers.get("location");
  keep("signature of a URL", new URL(url, registry.url).searchParams.get("verify").split("-").slice(1).join("-"));
  assert.equal((await fetch(new URL(url, registry.url))).status, 200);
  assert.equal((await send(`GET ${new URL(url, registry.url).pathname}?verify=1-wrong`)).status, 403);

  // Wrong ones: what somebody has mistyped is nearly a secret.
  const wrong = keep("mistyped password", `${ANN}x`);
  const mistyped = basic("mistyped", "ann", wrong);
  const forged = keep("forged token", `${token.slice(0, -4)}AAAA`);
  const stolen = keep("identity for another audience", issuer.token({ aud: "another" }));
  for (const [line, options] of [
    ["GET /v2/", { authorization: mistyped }],
    ["GET /token", { authorization: mistyped }],
    ["GET /v2/", { authorization: `Bearer ${forged}` }],
    ["GET /v2/", { authorization: `Bearer ${refresh}` }],
    ["GET /v2/", { authorization: keep("scheme", `Token ${random()}`) }],
    ["GET /v2/", { authorization: basic("key with a wrong secret", "robot", `${key.slice(0, -4)}AAAA`) }],
    ["GET /v2/", { authorization: basic("stolen", "x", stolen) }],
    ["POST /token", { body: new URLSearchParams({ ...form, password: wrong }) }],
    ["POST /token", { body: new URLSearchParams({ ...form, grant_type: keep("grant", random()) }) }],
    ["POST /token", { body: new URLSearchParams({ grant_type: "refresh_token", refresh_token: forged }) }],
    [
      "POST /token",
      {
        body: new URLSearchParams({
          grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
          subject_token: stolen,
        }),
      },
    ],
    [
      "POST /v2/_pierhead/keys",
      { authorization: admin, body: JSON.stringify({ ...asked, key: keep("field", random()) }) },
    ],
    ["PUT /v2/org/app/blobs/uploads/none?_state=" + keep("forged state", random()), { authorization: ann }],
  ]) {
    const answer = await send(line, options);
    assert.ok(answer.status >= 400 && answer.status < 500, `${line}: ${answer.status}`);
  }

  // The storage fails: what it says is logged.
  for (const call of ["r2", "object"]) {
    const rules = { faults: [{ call, probability: 1, kind: "error" }] };
    const fault = { headers: { "x-edge": JSON.stringify(rules) } };
    for (const authorization of [ann, robot, `Bearer ${token}`]) {
      await send("GET /v2/org/app/tags/list", { authorization, ...fault });
      await send(`PUT /v2/org/app/manifests/${digest}`, { authorization, body: "{}", ...fault });
    }
  }

  // Lines and events come a moment after their answers.
  for (let tries = 0; tries < 100 && receiver.taken().length < 3; tries++) {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.ok(receiver.taken().length >= 3, "no events");
  const lines = worker(registry.log);
  for (const expected of [
    '"audit":"login"',
    '"outcome":"refused"',
    '"driver":',
    '"level":"error"',
    "/token",
    "org/app",
  ]) {
    assert.ok(lines.includes(expected), `${expected} was not logged`);
  }
  const events = receiver.requests.map(({ body }) => body.toString()).join("\n");
  assert.ok(refusals.length > 12);
  for (const [place, text] of Object.entries({ log: lines, refusals: refusals.join("\n"), events })) {
    for (const [name, secret] of secrets) {
      // The client's own location is an answer to it; that of another upload is not.
      assert.ok(!text.includes(secret), `${name} in ${place}`);
      assert.ok(!text.includes(encodeURIComponent(secret)), `${name} in ${place}`);
    }
    assert.equal(findCredentials(text, registry.vars), undefined, place);
  }
});

test("the search finds what it looks for", () => {
  const vars = { ADMIN_PASSWORD: "correct horse battery", ANONYMOUS: "none" };
  for (const text of [
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
    `phk_${"a".repeat(16)}_${"b".repeat(32)}`,
    "authorization: Basic YWRtaW46c2VjcmV0",
    `$2y$05$${"a".repeat(53)}`,
    "/v2/_pierhead/blobs/sha256/ab?verify=1700000000-abcdefgh",
    "/v2/a/blobs/uploads/1?_state=1.sha256.1.abcdefgh",
    "https://bucket.example/x?X-Amz-Signature=0123456789",
    "correct horse battery",
  ]) {
    assert.ok(findCredentials(`{"message":"${text}"}`, vars), text);
  }
  assert.equal(findCredentials('{"message":"GET /v2/a/manifests/none"}', vars), undefined);
});
