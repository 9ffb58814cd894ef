// Records the events that `docker-registry` sends to an endpoint, one file for each request:
//
//   node tests/support/record-events.mjs [name...]
//
// writes tests/registry/golden/events/<name>.json, for all cases or for those named. A case is complete: against an
// empty registry with its `settings`, the requests of `setup` and then `request` cause its `events`. In a target,
// `<location>` stands for the last `Location` that was answered; what follows it is added to its query. Fields of
// an event keep their order; a value that differs in every run is a placeholder.
import { createHash, randomUUID } from "node:crypto";
import { mkdir, readdir, rm, writeFile } from "node:fs/promises";
import { createServer, request as httpRequest } from "node:http";
import path from "node:path";
import { daemon, run } from "./clients.mjs";
import { INDEX, MANIFEST, digestOf, freePort, root, temporaryFolder } from "./registry.mjs";

const DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json";
const ACCEPT = [MANIFEST, INDEX, DOCKER_MANIFEST, DOCKER_LIST].join(", ");
const SILENCE = 700; // milliseconds without a delivery, after which no more is expected
const USER = "ada";
const PASSWORD = "lovelace";

// Contents. All are text, so that a recorded body is the bytes that were sent.
const LAYER = "the bytes of a layer\n";
const CONFIG = JSON.stringify({ architecture: "amd64", os: "linux", rootfs: { type: "layers", diff_ids: [] } });
const UNKNOWN = digestOf(Buffer.from("bytes that nobody pushed"));

const size = (text) => Buffer.byteLength(text);
const descriptor = (mediaType, text, more = {}) => ({
  mediaType,
  digest: digestOf(Buffer.from(text)),
  size: size(text),
  ...more,
});
const dockerImage = JSON.stringify({
  schemaVersion: 2,
  mediaType: DOCKER_MANIFEST,
  config: descriptor("application/vnd.docker.container.image.v1+json", CONFIG),
  layers: [descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", LAYER)],
});
const ociImage = JSON.stringify({
  schemaVersion: 2,
  mediaType: MANIFEST,
  config: descriptor("application/vnd.oci.image.config.v1+json", CONFIG),
  layers: [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", LAYER)],
});
// With every field that a descriptor can have, and a subject.
const richImage = JSON.stringify({
  schemaVersion: 2,
  mediaType: MANIFEST,
  artifactType: "application/vnd.example.artifact",
  config: descriptor("application/vnd.oci.image.config.v1+json", CONFIG, { annotations: { part: "config" } }),
  layers: [
    descriptor("application/vnd.oci.image.layer.v1.tar+gzip", LAYER, {
      annotations: { "org.example.b": "2", "org.example.a": "1" },
      data: Buffer.from(LAYER).toString("base64"),
      artifactType: "application/vnd.example.layer",
    }),
    {
      mediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
      digest: UNKNOWN,
      size: 24,
      urls: ["https://layers.example/base.tar.gz"],
    },
    descriptor("application/vnd.oci.image.layer.v1.tar+gzip", LAYER),
  ],
  subject: descriptor(MANIFEST, ociImage),
  annotations: { "org.opencontainers.image.title": "an example" },
});
const index = (mediaType, childType, child, more = {}) =>
  JSON.stringify({
    schemaVersion: 2,
    mediaType,
    manifests: [
      descriptor(childType, child, {
        platform: { architecture: "amd64", os: "linux" },
        ...more,
      }),
    ],
  });
const ociIndex = index(INDEX, MANIFEST, ociImage, {
  annotations: { "org.example.child": "first" },
  urls: ["https://layers.example/child.json"],
  platform: {
    architecture: "arm64",
    os: "linux",
    variant: "v8",
    "os.version": "6.1",
    "os.features": ["sve"],
    features: ["sse4"],
  },
});
const dockerList = index(DOCKER_LIST, DOCKER_MANIFEST, dockerImage);
const missingBlob = JSON.stringify({
  schemaVersion: 2,
  mediaType: MANIFEST,
  config: descriptor("application/vnd.oci.image.config.v1+json", CONFIG),
  layers: [{ mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", digest: UNKNOWN, size: 24 }],
});

const get = (target, headers = {}) => ({ method: "GET", target, headers });
const head = (target, headers = {}) => ({ method: "HEAD", target, headers });
const remove = (target) => ({ method: "DELETE", target, headers: {} });
const start = (name, query = "") => ({ method: "POST", target: `/v2/${name}/blobs/uploads/${query}`, headers: {} });
const binary = { "content-type": "application/octet-stream" };
const patch = (body) => ({ method: "PATCH", target: "<location>", headers: binary, body });
const finish = (digest, body = "") => ({ method: "PUT", target: `<location>?digest=${digest}`, headers: binary, body });
const put = (name, reference, type, body) => ({
  method: "PUT",
  target: `/v2/${name}/manifests/${reference}`,
  headers: { "content-type": type },
  body,
});
const of = (text) => digestOf(Buffer.from(text));
const blob = (name, text) => [start(name), finish(of(text), text)];
const image = (name, text, type, ...references) => [
  ...blob(name, CONFIG),
  ...blob(name, LAYER),
  ...references.map((reference) => put(name, reference, type, text)),
];
const blobPath = (name, text) => `/v2/${name}/blobs/${of(text)}`;

// The requests of each case: the last one is recorded, those before it are its setup. `name` is the repository.
const PLAIN = {
  "blob-push-start": (name) => [start(name)],
  "blob-push-monolithic": (name) => blob(name, LAYER),
  "blob-push-patch": (name) => [start(name), patch(LAYER)],
  "blob-push-patched": (name) => [start(name), patch(LAYER), finish(of(LAYER))],
  "blob-push-chunks": (name) => [start(name), patch(LAYER.slice(0, 5)), patch(LAYER.slice(5)), finish(of(LAYER))],
  "blob-push-one-request": (name) => [{ ...start(name, `?digest=${of(LAYER)}`), headers: { ...binary }, body: LAYER }],
  "blob-push-again": (name) => [...blob(name, LAYER), ...blob(name, LAYER)],
  "blob-push-empty": (name) => blob(name, ""),
  "blob-push-sha512": (name) => [
    start(name),
    finish(`sha512:${createHash("sha512").update(LAYER).digest("hex")}`, LAYER),
  ],
  "blob-push-wrong-digest": (name) => [start(name), finish(UNKNOWN, LAYER)],
  "blob-push-invalid-digest": (name) => [start(name), finish("sha256:abc", LAYER)],
  "blob-push-cancel": (name) => [start(name), remove("<location>")],
  "blob-push-status": (name) => [start(name), get("<location>")],
  "blob-push-proxied": (name) => {
    const [first, last] = blob(name, LAYER);
    const headers = {
      "x-forwarded-for": "203.0.113.7, 198.51.100.2",
      "x-forwarded-proto": "https",
      "x-forwarded-host": "registry.example",
    };
    return [first, { ...last, headers: { ...last.headers, ...headers } }];
  },

  "blob-mount": (name) => [...blob(`${name}-source`, LAYER), start(name, `?mount=${of(LAYER)}&from=${name}-source`)],
  "blob-mount-again": (name) => [
    ...blob(`${name}-source`, LAYER),
    ...Array.from({ length: 2 }, () => start(name, `?mount=${of(LAYER)}&from=${name}-source`)),
  ],
  "blob-mount-unknown": (name) => [start(name, `?mount=${UNKNOWN}&from=${name}-source`)],
  "blob-mount-no-source": (name) => [...blob(`${name}-source`, LAYER), start(name, `?mount=${of(LAYER)}`)],

  "blob-get": (name) => [...blob(name, LAYER), get(blobPath(name, LAYER))],
  "blob-head": (name) => [...blob(name, LAYER), head(blobPath(name, LAYER))],
  "blob-get-empty": (name) => [...blob(name, ""), get(blobPath(name, ""))],
  "blob-get-mounted": (name) => [
    ...blob(`${name}-source`, LAYER),
    start(name, `?mount=${of(LAYER)}&from=${name}-source`),
    get(blobPath(name, LAYER)),
  ],
  "blob-get-range": (name) => [...blob(name, LAYER), get(blobPath(name, LAYER), { range: "bytes=4-8" })],
  "blob-get-ranges": (name) => [...blob(name, LAYER), get(blobPath(name, LAYER), { range: "bytes=0-1,4-8" })],
  "blob-get-range-beyond": (name) => [...blob(name, LAYER), get(blobPath(name, LAYER), { range: "bytes=1000-" })],
  "blob-head-range": (name) => [...blob(name, LAYER), head(blobPath(name, LAYER), { range: "bytes=4-8" })],
  "blob-get-not-modified": (name) => [
    ...blob(name, LAYER),
    get(blobPath(name, LAYER), { "if-none-match": `"${of(LAYER)}"` }),
  ],
  "blob-head-not-modified": (name) => [
    ...blob(name, LAYER),
    head(blobPath(name, LAYER), { "if-none-match": `"${of(LAYER)}"` }),
  ],
  "blob-get-unknown": (name) => [...blob(name, LAYER), get(`/v2/${name}/blobs/${UNKNOWN}`)],
  "blob-head-unknown": (name) => [...blob(name, LAYER), head(`/v2/${name}/blobs/${UNKNOWN}`)],
  "blob-delete": (name) => [...blob(name, LAYER), remove(blobPath(name, LAYER))],
  "blob-delete-again": (name) => [...blob(name, LAYER), remove(blobPath(name, LAYER)), remove(blobPath(name, LAYER))],
  "blob-delete-unknown": (name) => [...blob(name, LAYER), remove(`/v2/${name}/blobs/${UNKNOWN}`)],

  "manifest-push-docker-tag": (name) => image(name, dockerImage, DOCKER_MANIFEST, "v1"),
  "manifest-push-docker-digest": (name) => image(name, dockerImage, DOCKER_MANIFEST, of(dockerImage)),
  "manifest-push-docker-list": (name) => [
    ...image(name, dockerImage, DOCKER_MANIFEST, of(dockerImage)),
    put(name, "v1", DOCKER_LIST, dockerList),
  ],
  "manifest-push-oci-tag": (name) => image(name, ociImage, MANIFEST, "v1"),
  "manifest-push-oci-digest": (name) => image(name, ociImage, MANIFEST, of(ociImage)),
  "manifest-push-oci-rich": (name) => image(name, richImage, MANIFEST, "v1"),
  "manifest-push-index-tag": (name) => [
    ...image(name, ociImage, MANIFEST, of(ociImage)),
    put(name, "v1", INDEX, ociIndex),
  ],
  "manifest-push-index-digest": (name) => [
    ...image(name, ociImage, MANIFEST, of(ociImage)),
    put(name, of(ociIndex), INDEX, ociIndex),
  ],
  "manifest-push-again": (name) => image(name, ociImage, MANIFEST, "v1", "v1"),
  "manifest-push-second-tag": (name) => image(name, ociImage, MANIFEST, "v1", "v2"),
  "manifest-push-moves-tag": (name) => [...image(name, ociImage, MANIFEST, "v1"), put(name, "v1", MANIFEST, richImage)],
  "manifest-push-missing-blob": (name) => image(name, missingBlob, MANIFEST, "v1"),
  "manifest-push-wrong-digest": (name) => image(name, ociImage, MANIFEST, UNKNOWN),
  "manifest-push-invalid": (name) => image(name, "{", MANIFEST, "v1"),

  "manifest-get-docker-tag": (name) => [
    ...image(name, dockerImage, DOCKER_MANIFEST, "v1"),
    get(`/v2/${name}/manifests/v1`, { accept: ACCEPT }),
  ],
  "manifest-get-tag": (name) => [
    ...image(name, ociImage, MANIFEST, "v1"),
    get(`/v2/${name}/manifests/v1`, { accept: ACCEPT }),
  ],
  "manifest-get-digest": (name) => [
    ...image(name, ociImage, MANIFEST, "v1"),
    get(`/v2/${name}/manifests/${of(ociImage)}`, { accept: ACCEPT }),
  ],
  "manifest-head-tag": (name) => [
    ...image(name, ociImage, MANIFEST, "v1"),
    head(`/v2/${name}/manifests/v1`, { accept: ACCEPT }),
  ],
  "manifest-head-digest": (name) => [
    ...image(name, ociImage, MANIFEST, "v1"),
    head(`/v2/${name}/manifests/${of(ociImage)}`, { accept: ACCEPT }),
  ],
  "manifest-get-index": (name) => [
    ...image(name, ociImage, MANIFEST, of(ociImage)),
    put(name, "v1", INDEX, ociIndex),
    get(`/v2/${name}/manifests/v1`, { accept: ACCEPT }),
  ],
  "manifest-get-not-modified": (name) => [
    ...image(name, ociImage, MANIFEST, "v1"),
    get(`/v2/${name}/manifests/v1`, { accept: ACCEPT, "if-none-match": `"${of(ociImage)}"` }),
  ],
  "manifest-get-not-accepted": (name) => [
    ...image(name, ociImage, MANIFEST, "v1"),
    get(`/v2/${name}/manifests/v1`, { accept: DOCKER_MANIFEST }),
  ],
  "manifest-get-list-as-image": (name) => [
    ...image(name, dockerImage, DOCKER_MANIFEST, of(dockerImage)),
    put(name, "v1", DOCKER_LIST, dockerList),
    get(`/v2/${name}/manifests/v1`, { accept: DOCKER_MANIFEST }),
  ],
  "manifest-get-unknown": (name) => [
    ...image(name, ociImage, MANIFEST, "v1"),
    get(`/v2/${name}/manifests/v2`, { accept: ACCEPT }),
  ],
  "manifest-head-unknown": (name) => [
    ...image(name, ociImage, MANIFEST, "v1"),
    head(`/v2/${name}/manifests/${UNKNOWN}`, { accept: ACCEPT }),
  ],
  "manifest-delete-untagged": (name) => [
    ...image(name, ociImage, MANIFEST, of(ociImage)),
    remove(`/v2/${name}/manifests/${of(ociImage)}`),
  ],
  // Two tags of the manifest, and one of another.
  "manifest-delete-two-tags": (name) => [
    ...image(name, ociImage, MANIFEST, "v1", "v2"),
    put(name, "other", MANIFEST, richImage),
    remove(`/v2/${name}/manifests/${of(ociImage)}`),
  ],
  "manifest-delete-again": (name) => [
    ...image(name, ociImage, MANIFEST, "v1"),
    remove(`/v2/${name}/manifests/${of(ociImage)}`),
    remove(`/v2/${name}/manifests/${of(ociImage)}`),
  ],
  "manifest-delete-unknown": (name) => [
    ...image(name, ociImage, MANIFEST, "v1"),
    remove(`/v2/${name}/manifests/${UNKNOWN}`),
  ],
  "tag-delete": (name) => [...image(name, ociImage, MANIFEST, "v1", "v2"), remove(`/v2/${name}/manifests/v1`)],
  "tag-delete-unknown": (name) => [...image(name, ociImage, MANIFEST, "v1"), remove(`/v2/${name}/manifests/v9`)],

  "tags-list": (name) => [...image(name, ociImage, MANIFEST, "v1"), get(`/v2/${name}/tags/list`)],
};

const again = (suffix, ...names) => Object.fromEntries(names.map((name) => [`${name}-${suffix}`, PLAIN[name]]));
const authorization = `Basic ${Buffer.from(`${USER}:${PASSWORD}`).toString("base64")}`;
const authorized = (requests) =>
  requests.map((request) => ({ ...request, headers: { ...request.headers, authorization } }));

const runs = [
  { settings: { includereferences: false, htpasswd: false }, cases: PLAIN },
  {
    settings: { includereferences: true, htpasswd: false },
    cases: again(
      "references",
      "blob-push-monolithic",
      "blob-mount",
      "manifest-push-docker-tag",
      "manifest-push-docker-list",
      "manifest-push-oci-tag",
      "manifest-push-oci-digest",
      "manifest-push-oci-rich",
      "manifest-push-index-tag",
      "manifest-get-tag",
      "manifest-head-tag",
      "manifest-get-index",
      "manifest-delete-two-tags",
    ),
  },
  {
    settings: { includereferences: false, htpasswd: true },
    cases: {
      "blob-push-user": (name) => authorized(PLAIN["blob-push-monolithic"](name)),
      "manifest-push-user": (name) => authorized(PLAIN["manifest-push-oci-tag"](name)),
      "manifest-get-user": (name) => authorized(PLAIN["manifest-get-tag"](name)),
      "manifest-delete-user": (name) => authorized(PLAIN["manifest-delete-two-tags"](name)),
      "manifest-get-unauthorized": (name) => {
        const requests = PLAIN["manifest-get-tag"](name);
        return [...authorized(requests.slice(0, -1)), ...requests.slice(-1)];
      },
    },
  },
];

// The endpoint that the registry sends to. `deliveries` are those that have not been taken.
async function receiver() {
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    deliveries.push({ raw: request.rawHeaders, type: request.headers["content-type"], method: request.method, body });
    last = Date.now();
    response.writeHead(200).end();
  });
  let deliveries = [];
  let last = 0;
  const port = await freePort();
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  return {
    port,
    async take() {
      const asked = Date.now();
      while (Date.now() - Math.max(asked, last) < SILENCE) await new Promise((resolve) => setTimeout(resolve, 20));
      const taken = deliveries;
      deliveries = [];
      return taken;
    },
    close: () => new Promise((resolve) => server.close(resolve)),
  };
}

async function registry(folder, settings, endpoint) {
  const port = await freePort();
  const users = path.join(folder, "htpasswd");
  if (settings.htpasswd) await run("htpasswd", ["-Bbc", users, USER, PASSWORD]);
  const config = {
    version: 0.1,
    log: { level: "warn", accesslog: { disabled: true } },
    storage: { filesystem: { rootdirectory: path.join(folder, "registry") }, delete: { enabled: true } },
    http: { addr: `127.0.0.1:${port}` },
    validation: { manifests: { urls: { allow: ["^https://layers\\.example/"] } } },
    notifications: {
      events: { includereferences: settings.includereferences },
      endpoints: [
        {
          name: "receiver",
          url: `http://127.0.0.1:${endpoint}/events`,
          headers: { "X-Receiver": ["first", "second"] },
          timeout: "5s",
          threshold: 5,
          backoff: "100ms",
        },
      ],
    },
    ...(settings.htpasswd && { auth: { htpasswd: { realm: "Registry", path: users } } }),
  };
  const file = path.join(folder, "registry.yml");
  await writeFile(file, JSON.stringify(config)); // JSON is YAML
  const stop = await daemon("docker-registry", ["serve", file], async () =>
    [200, 401].includes((await fetch(`http://127.0.0.1:${port}/v2/`)).status),
  );
  return { host: `127.0.0.1:${port}`, stop };
}

// Sends a request with these headers only.
function send(host, request, location, userAgent) {
  const [target, query] = request.target.split(/(?<=^<location>)\?/);
  const url = new URL(target === "<location>" ? location : target, `http://${host}`);
  if (query) url.search += `${url.search ? "&" : "?"}${query}`;
  const body = Buffer.from(request.body ?? "");
  const headers = { ...request.headers, "user-agent": userAgent };
  if (request.body !== undefined || request.method === "POST") headers["content-length"] = body.length;
  return new Promise((resolve, reject) => {
    const sent = httpRequest(url, { method: request.method, headers, agent: false }, (response) => {
      let text = "";
      response.on("data", (data) => (text += data));
      response.on("error", () => {}); // an answer that is shorter than its Content-Length
      response.on("close", () => resolve({ status: response.statusCode, location: response.headers.location, text }));
    });
    sent.on("error", reject);
    sent.end(body);
  });
}

// Replaces what differs in every run, and fails if a value does not have the form that the placeholder stands for.
function normalise(host, userAgent, event) {
  const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
  const [, port] = host.split(":");
  const forms = {
    id: [/^(?<id>.+)$/, uuid],
    "request.id": [/^(?<id>.+)$/, uuid],
    timestamp: [/^(?<timestamp>.+)$/, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)$/],
    "target.url": [new RegExp(`^https?://(?<host>${host})/v2/`), null],
    "request.addr": [/^(?<addr>127\.0\.0\.1:\d+)$/, null],
    "request.host": [new RegExp(`^(?<host>${host})$`), null],
    "source.addr": [new RegExp(`^(?<addr>[^:]+:${port})$`), null],
    "source.instanceID": [/^(?<instance>.+)$/, uuid],
  };
  const walk = (value, at) => {
    if (Array.isArray(value)) return value.map((item) => walk(item, at));
    if (value !== null && typeof value === "object") {
      const entries = Object.entries(value);
      return Object.fromEntries(entries.map(([key, item]) => [key, walk(item, at ? `${at}.${key}` : key)]));
    }
    if (typeof value !== "string" || !forms[at]) return value;
    const [part, form] = forms[at];
    const groups = part.exec(value)?.groups;
    if (!groups) return value;
    const [[name, text]] = Object.entries(groups);
    if (form && !form.test(text)) throw new Error(`${at} has another form: ${text}`);
    return value.replace(text, `<${name}>`);
  };
  if (event.request.useragent !== userAgent) throw new Error(`an event of another request: ${JSON.stringify(event)}`);
  return walk(event, "");
}

// The headers of a delivery, with the names as sent and in that order.
function deliveryHeaders(raw) {
  const headers = {};
  for (let at = 0; at < raw.length; at += 2) {
    const [name, value] = [raw[at], raw[at + 1]];
    const varies = { Host: "<host>", "Content-Length": "<length>" };
    const kept = varies[name] ?? value;
    headers[name] = name in headers ? [headers[name], kept].flat() : kept;
  }
  return headers;
}

// The tags of a deleted manifest are removed in the order in which storage lists them, which is not defined.
function inOrder(events) {
  const tags = events.filter((event) => event.action === "delete" && event.target.tag);
  tags.sort((one, other) => (one.target.tag < other.target.tag ? -1 : 1));
  return events.map((event) => (tags.includes(event) ? tags.shift() : event));
}

async function record(host, endpoint, settings, name, requests) {
  let location;
  const recorded = [];
  for (const [n, request] of requests.entries()) {
    const isLast = n === requests.length - 1;
    const userAgent = isLast ? `record-events/1.0 (${name})` : `setup/${randomUUID()}`;
    if (isLast) await endpoint.take(); // what the setup caused
    const answer = await send(host, request, location, userAgent);
    location = answer.location ?? location;
    if (!isLast && answer.status >= 400) {
      throw new Error(`${name}: ${request.method} ${request.target}: ${answer.status} ${answer.text}`);
    }
    const headers = isLast ? { "user-agent": userAgent, ...request.headers } : request.headers;
    recorded.push({ request: { ...request, headers }, status: answer.status });
    if (!isLast) continue;

    const deliveries = await endpoint.take();
    const envelopes = deliveries.map(({ body }) => JSON.parse(body));
    const events = inOrder(envelopes.flatMap((envelope) => envelope.events));
    const requestIds = new Set(events.map((event) => event.request.id));
    if (requestIds.size > 1) throw new Error(`${name}: events of one request have several request ids`);
    for (const [n, envelope] of envelopes.entries()) {
      if (Object.keys(envelope).join() !== "events") throw new Error(`${name}: ${deliveries[n].body}`);
      if (deliveries[n].method !== "POST") throw new Error(`${name}: ${deliveries[n].method}`);
      const same =
        JSON.stringify(deliveryHeaders(deliveries[n].raw)) === JSON.stringify(deliveryHeaders(deliveries[0].raw));
      if (!same) throw new Error(`${name}: deliveries with different headers`);
    }
    return {
      settings,
      setup: recorded.slice(0, -1).map(({ request, status }) => ({ ...request, status })),
      request: recorded.at(-1).request,
      status: answer.status,
      contentType: deliveries[0]?.type ?? null,
      headers: deliveries[0] ? deliveryHeaders(deliveries[0].raw) : null,
      eventsInEnvelope: envelopes.map((envelope) => envelope.events.length),
      events: events.map((event) => normalise(host, userAgent, event)),
    };
  }
}

const output = path.join(root, "tests/registry/golden/events");
await mkdir(output, { recursive: true });
const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !runs.some(({ cases }) => name in cases));
if (unknown.length > 0) throw new Error(`no such case: ${unknown.join(", ")}`);
if (wanted.length === 0) {
  for (const file of await readdir(output)) await rm(path.join(output, file));
}
for (const { settings, cases } of runs) {
  const chosen = Object.entries(cases).filter(([name]) => wanted.length === 0 || wanted.includes(name));
  if (chosen.length === 0) continue;
  const folder = await temporaryFolder();
  const endpoint = await receiver();
  let server;
  try {
    server = await registry(folder, settings, endpoint.port);
    for (const [name, requests] of chosen) {
      const result = await record(server.host, endpoint, settings, name, requests(`recorded/${name}`));
      await writeFile(path.join(output, `${name}.json`), `${JSON.stringify(result, null, 2)}\n`);
      console.log(name, result.status, result.events.map((event) => event.action).join(" ") || "-");
    }
  } finally {
    await server?.stop();
    await endpoint.close();
    await rm(folder, { recursive: true, force: true });
  }
}
