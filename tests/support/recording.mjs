// A proxy in front of a registry that records what a client sends, and what makes recordings of two runs equal.
import { createServer, request as httpRequest } from "node:http";
import { createHash } from "node:crypto";
import { constants, gunzipSync } from "node:zlib";
import { freePort } from "./registry.mjs";

// Clients do not read every answer to its end.
const PARTIAL = { finishFlush: constants.Z_SYNC_FLUSH };

// The host in recordings, and the user that their clients log in as.
export const HOST = "registry.example:5000";

const DIGEST = /sha256(:|%3A)([0-9a-f]{64})/g;
const HEX = /(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])/g;
const hexOf = (bytes) => createHash("sha256").update(bytes).digest("hex");

// Headers that belong to a connection, that the replay sets by itself, or that tell of tracing.
const DROPPED = new Set(["host", "connection", "content-length", "transfer-encoding", "traceparent", "tracestate"]);

// Starts a proxy in front of a registry. `take` returns the exchanges since the last call, in the order in which the
// requests arrived.
export async function recorder(registry) {
  const port = await freePort();
  let exchanges = [];
  const server = createServer((incoming, outgoing) => {
    const exchange = { method: incoming.method, target: incoming.url, headers: {}, sent: [], received: [] };
    for (let at = 0; at < incoming.rawHeaders.length; at += 2) {
      const [name, value] = [incoming.rawHeaders[at].toLowerCase(), incoming.rawHeaders[at + 1]];
      exchange.headers[name] = name in exchange.headers ? [exchange.headers[name], value].flat() : value;
    }
    exchanges.push(exchange);
    exchange.ended = new Promise((resolve) => outgoing.once("close", resolve));
    const headers = { ...exchange.headers, connection: "close" };
    const options = { host: "127.0.0.1", port: registry, method: incoming.method, path: incoming.url, headers };
    const forwarded = httpRequest({ ...options, agent: false }, (answer) => {
      exchange.status = answer.statusCode;
      exchange.answered = answer.headers;
      const kept = Object.entries(answer.headers).filter(([name]) => name !== "connection");
      outgoing.writeHead(answer.statusCode, Object.fromEntries(kept));
      answer.on("data", (data) => exchange.received.push(data));
      answer.pipe(outgoing);
    });
    forwarded.on("error", () => outgoing.destroy());
    incoming.on("data", (data) => exchange.sent.push(data));
    incoming.pipe(forwarded);
  });
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  return {
    port,
    async take() {
      await Promise.all(exchanges.map(({ ended }) => ended));
      const taken = exchanges.filter(({ status }) => status !== undefined);
      exchanges = [];
      for (const exchange of taken) {
        exchange.sent = Buffer.concat(exchange.sent);
        exchange.received = Buffer.concat(exchange.received);
        const isCompressed = exchange.answered["content-encoding"] === "gzip" && exchange.received.length > 0;
        if (isCompressed) exchange.received = gunzipSync(exchange.received, PARTIAL);
      }
      return taken;
    },
    close() {
      server.closeAllConnections();
      return new Promise((resolve) => server.close(resolve));
    },
  };
}

const asJson = (bytes) => {
  try {
    const value = JSON.parse(bytes.toString("utf8"));
    return value !== null && typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
};

const isManifest = (value) => value?.schemaVersion === 2 && ("layers" in value || "manifests" in value);
const pathOf = (target) => target.split("?")[0];
const isUpload = (exchange) => /\/blobs\/uploads\//.test(exchange.target);
const isToken = (exchange) => pathOf(exchange.target) === "/token";

// The contents of all exchanges, by the hex of their digest, each with a name by its role.
class Contents {
  constructor(exchanges) {
    this.found = new Map();
    this.uploads(exchanges);
    for (const exchange of exchanges) {
      const { method, target, sent, received, status } = exchange;
      if (method === "PUT" && target.includes("/manifests/")) this.add(sent, exchange.headers["content-type"]);
      const isWhole = method === "GET" && status === 200 && /\/(manifests|blobs)\/[^/]+$/.test(pathOf(target));
      if (isWhole) this.add(received, exchange.answered["content-type"]);
    }
    const counts = {};
    const name = (hex, role) => {
      const content = this.found.get(hex);
      if (!content || content.name) return;
      counts[role] = (counts[role] ?? 0) + 1;
      content.name = `${role}-${counts[role]}`;
    };
    for (const [hex, { manifest }] of this.found) {
      if (!manifest) continue;
      name(hex, manifest.manifests ? "index" : manifest.subject ? "artifact" : "manifest");
      if (manifest.config) name(manifest.config.digest.slice(7), "config");
      for (const { digest } of manifest.layers ?? []) name(digest.slice(7), "layer");
    }
    for (const hex of this.found.keys()) name(hex, "blob");
    this.ranks = new Map([...this.found.keys()].map((hex, n) => [hex, n]));
  }

  add(bytes, type) {
    const hex = hexOf(bytes);
    if (this.found.has(hex)) return;
    const value = asJson(bytes);
    this.found.set(hex, { bytes, type: type?.toString(), manifest: isManifest(value) ? value : null });
  }

  // Puts uploads together from their chunks, and notes at each exchange which upload it belongs to.
  uploads(exchanges) {
    const uploads = new Map();
    for (const exchange of exchanges) {
      if (!isUpload(exchange)) continue;
      const url = new URL(exchange.target, "http://registry");
      const session = url.pathname.match(/\/blobs\/uploads\/([^/]+)$/)?.[1];
      let upload = session && uploads.get(session);
      if (!session) {
        upload = { locations: [], parts: [], exchanges: [] };
        const started = exchange.answered.location?.match(/\/blobs\/uploads\/([^/?]+)/)?.[1];
        if (started) uploads.set(started, upload);
      }
      if (!upload) throw new Error(`an upload that was not started: ${exchange.target}`);
      exchange.upload = upload;
      exchange.location = upload.locations.at(-1);
      exchange.offset = upload.parts.reduce((sum, part) => sum + part.length, 0);
      upload.exchanges.push(exchange);
      if (exchange.status < 300 && exchange.answered.location) upload.locations.push(exchange.answered.location);
      if (exchange.status < 300) upload.parts.push(exchange.sent);
      const digest = url.searchParams.get("digest") ?? url.searchParams.get("mount");
      if (digest) upload.hex = digest.slice(7);
      if (exchange.status === 201 && !url.searchParams.has("mount")) this.add(Buffer.concat(upload.parts), undefined);
    }
  }

  // Digests of known contents become `{digest:<name>}`, and their bare hex `{hex:<name>}`.
  named(text) {
    const name = (hex) => this.found.get(hex)?.name;
    return text
      .replaceAll(DIGEST, (all, colon, hex) => {
        if (name(hex)) return colon === ":" ? `{digest:${name(hex)}}` : `{digest%:${name(hex)}}`;
        return `sha256${colon}${"0".repeat(64)}`;
      })
      .replaceAll(HEX, (hex) => (name(hex) ? `{hex:${name(hex)}}` : "0".repeat(64)));
  }

  // A manifest whose digests and sizes are placeholders, without what differs in every run.
  template(manifest) {
    const walk = (value, key) => {
      if (Array.isArray(value)) return value.map((item) => walk(item));
      if (value !== null && typeof value === "object") {
        const copy = Object.fromEntries(Object.entries(value).map(([key, item]) => [key, walk(item, key)]));
        const known = this.found.get(value.digest?.slice?.(7))?.name;
        if (known) copy.size = `{size:${known}}`;
        if (known && copy.data) copy.data = `{data:${known}}`;
        return copy;
      }
      if (typeof value !== "string" || key === "digest") return typeof value === "string" ? this.named(value) : value;
      if (/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d/.test(value)) return this.time(value);
      return value.length > 128 ? "(long)" : this.named(value);
    };
    return walk(manifest);
  }

  // Different times stay different.
  times = [];
  time(value) {
    if (!this.times.includes(value)) this.times.push(value);
    return new Date(Date.UTC(2000, 0, 1 + this.times.indexOf(value))).toISOString();
  }

  table() {
    const described = [...this.found.values()].map(({ name, bytes, type, manifest }) => {
      if (manifest) return [name, { type, json: this.template(manifest) }];
      if (bytes.length < 8) return [name, { text: bytes.toString("utf8") }];
      // Rounded: signatures and times differ in length.
      return [name, { size: Math.ceil(bytes.length / 1024) * 1024 }];
    });
    return Object.fromEntries(described.sort(([one], [other]) => (one < other ? -1 : 1)));
  }
}

// Clients send several blobs at once. Between two requests for manifests, requests about the same blob are kept together,
// and blobs are in the order of their manifest; likewise manifests that are pushed by digest. How many of the requests are refused before there is a token, and which
// ones, differs in every run: one of each kind is kept, for the first blob.
function inOrder(exchanges, contents) {
  const manifestOf = ({ target }) => pathOf(target).match(/\/manifests\/sha256:([0-9a-f]{64})$/)?.[1];
  const blobOf = (exchange) => {
    if (exchange.upload) return exchange.upload.hex ?? "";
    return pathOf(exchange.target).match(/\/blobs\/sha256:([0-9a-f]{64})$/)?.[1];
  };
  const rank = (hex) => {
    const [, role, n] = (contents.found.get(hex)?.name ?? "blob-0").match(/^(.+)-(\d+)$/);
    return ["config", "layer", "blob", "manifest", "artifact", "index"].indexOf(role) * 1000 + Number(n);
  };
  const kindOf = ({ method, target }) => `${method} ${target.replace(/sha256(:|%3A)[0-9a-f]{64}/, "")}`;
  const ordered = [];
  let [asking, blobs, manifests] = [[], [], []];
  const byName = (exchanges) =>
    exchanges
      .map((exchange, n) => ({ exchange, n, rank: rank(blobOf(exchange) ?? manifestOf(exchange)) }))
      .sort((one, other) => one.rank - other.rank || one.n - other.n)
      .map(({ exchange }) => exchange);
  // Looks for a blob under a digest that it might have, or again for the same one, depend on the timing.
  const isNews = (exchange, n) => {
    if (exchange.method !== "HEAD") return true;
    if (!contents.found.has(blobOf(exchange))) return false;
    const isSame = ({ method, target, status }) =>
      method === "HEAD" && target === exchange.target && status === exchange.status;
    return blobs.findIndex(isSame) === n;
  };
  const flush = () => {
    const sorted = byName(blobs.filter(isNews));
    const kept = new Map();
    for (const exchange of asking) {
      const { method, target, sent, answered } = exchange;
      const key = isToken(exchange)
        ? `${method} ${target} ${sent}`
        : `${kindOf(exchange)} ${answered["www-authenticate"]}`;
      const first = kept.get(key);
      if (first) first.same.push(exchange);
      else kept.set(key, { ...exchange, same: [] });
    }
    for (const exchange of kept.values()) {
      const alike = isToken(exchange) ? null : sorted.find((other) => kindOf(other) === kindOf(exchange));
      const { authorization } = exchange.headers;
      const { authorization: _, ...headers } = (alike ?? exchange).headers;
      const refused = { ...exchange, target: (alike ?? exchange).target };
      ordered.push({ ...refused, headers: { ...headers, ...(authorization && { authorization }) } });
    }
    ordered.push(...sorted, ...byName(manifests));
    [asking, blobs, manifests] = [[], [], []];
  };
  for (const exchange of exchanges) {
    const isAboutBlob = blobOf(exchange) !== undefined;
    if (isToken(exchange) || (exchange.status === 401 && isAboutBlob)) asking.push(exchange);
    else if (isAboutBlob) {
      if (manifests.length > 0) flush();
      blobs.push(exchange);
    } else if (manifestOf(exchange) && exchange.method !== "GET" && exchange.status !== 401) manifests.push(exchange);
    else {
      flush();
      ordered.push(exchange);
    }
  }
  flush();
  return ordered;
}

// Tokens, in the order in which they were answered.
class Tokens {
  names = new Map();
  count = 0;

  note(exchange) {
    if (!isToken(exchange) || exchange.status !== 200) return;
    this.count++;
    for (const { received } of [exchange, ...exchange.same]) {
      const answer = JSON.parse(received);
      this.names.set(answer.token ?? answer.access_token, `token-${this.count}`);
      if (answer.refresh_token) this.names.set(answer.refresh_token, `refresh-${this.count}`);
    }
  }

  named(text) {
    for (const [value, name] of this.names) text = text.replaceAll(value, `{${name}}`);
    return text;
  }
}

// The version of the kernel and the like differ from machine to machine.
const USER_AGENT = [
  [/kernel\/\S+/, "kernel/0"],
  [/git-commit\/\S+/, "git-commit/0"],
];

// Makes a document of what a client sent in its operations, `[{ name, exchanges, needs }]`. A client that keeps media types
// in a map sends them in another order each time: then they are sorted.
export function describe(operations, port, hasRandomAccept) {
  const contents = new Contents(operations.flatMap(({ exchanges }) => exchanges));
  const tokens = new Tokens();
  const values = {};
  const text = (value) =>
    contents.named(
      tokens
        .named(value)
        .replaceAll(`localhost:${port}`, HOST)
        .replaceAll(`localhost%3A${port}`, encodeURIComponent(HOST)),
    );

  const target = (exchange) => {
    const { location } = exchange;
    if (!location || !pathOf(exchange.target).match(/\/blobs\/uploads\/[^/]+$/)) return text(exchange.target);
    const own = (url) => url.pathname + url.search;
    const last = own(new URL(location, "http://registry"));
    if (exchange.target.startsWith(last)) return text(`{location}${exchange.target.slice(last.length)}`);
    const state = new URL(location, "http://registry").searchParams.get("_state");
    const query = exchange.target.split("?")[1].replace(encodeURIComponent(state), "{state}").replace(state, "{state}");
    if (!query.includes("{state}")) throw new Error(`not the last location: ${exchange.target}`);
    return text(`{location-path}?${query}`);
  };

  const headers = (exchange) => {
    const kept = {};
    for (const [name, value] of Object.entries(exchange.headers)) {
      if (DROPPED.has(name) || name.startsWith("x-b3")) continue;
      let line = [value].flat().join(", ");
      for (const [pattern, placeholder] of USER_AGENT) line = line.replace(pattern, placeholder);
      if (name === "authorization" && line.startsWith("Basic ")) line = "Basic {credentials}";
      if (name === "accept" && hasRandomAccept) line = line.split(", ").sort().join(", ");
      line = text(line);
      if (/^Bearer (?!\{)/.test(line)) throw new Error(`a token before it was answered: ${exchange.target}`);
      if (name === "content-range" && exchange.sent.length > 0) line = line.replace(/\d+-(\d+)$/, "{range}");
      if (line.length > 90) {
        const known = Object.entries(values).find(([, known]) => known === line)?.[0];
        const key = known ?? `${name}-${Object.keys(values).filter((key) => key.startsWith(name)).length + 1}`;
        values[key] = line;
        line = `{${key}}`;
      }
      kept[name] = line;
    }
    return kept;
  };

  const body = (exchange) => {
    const { sent, upload, offset } = exchange;
    const type = exchange.headers["content-type"];
    if (sent.length === 0) return "content-length" in exchange.headers ? { body: "" } : {};
    const framed = "transfer-encoding" in exchange.headers ? { chunked: true } : {};
    if (type === "application/x-www-form-urlencoded" || isToken(exchange)) {
      const form = text(sent.toString()).replace(/(?<=(^|&)password=)[^&]*/, "{password}");
      if (/token=(?!\{)/.test(form)) throw new Error(`a token that nobody answered: ${exchange.target}`);
      return { form, ...framed };
    }
    if (!upload) return { body: contents.found.get(hexOf(sent)).name, ...framed };
    const whole = contents.found.get(upload.hex);
    if (!whole) throw new Error(`chunks of an upload that was not finished: ${exchange.target}`);
    if (offset === 0 && sent.length === whole.bytes.length) return { body: whole.name, ...framed };
    return { body: whole.name, bytes: [offset, offset + sent.length], ...framed };
  };

  const described = operations.map(({ name, exchanges, needs }) => {
    const requests = [];
    for (const exchange of inOrder(exchanges, contents)) {
      tokens.note(exchange);
      const request = {
        method: exchange.method,
        target: target(exchange),
        headers: headers(exchange),
        ...body(exchange),
      };
      requests.push({ ...request, ...needs(exchange) });
    }
    return { name, requests };
  });
  return { headers: common(described), values, contents: contents.table(), operations: described };
}

// Takes the headers that all requests have out of them.
function common(operations) {
  const requests = operations.flatMap(({ requests }) => requests);
  const shared = Object.entries(requests[0].headers).filter(([name, value]) =>
    requests.every(({ headers }) => headers[name] === value),
  );
  for (const { headers } of requests) for (const [name] of shared) delete headers[name];
  return Object.fromEntries(shared);
}

// JSON on one line, with spaces.
function compact(value) {
  if (Array.isArray(value)) return `[${value.map(compact).join(", ")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const entries = Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}: ${compact(item)}`);
  return entries.length === 0 ? "{}" : `{ ${entries.join(", ")} }`;
}

// A document as JSON, with a few lines for a request, so that a person sees a sequence at a glance.
export function written({ operations, contents, ...head }) {
  const request = ({ method, target, headers, status, reads, ...body }) => {
    const [first, last] = [compact({ method, target, ...body }), compact({ status, reads })];
    return `        ${first.slice(0, -2)},\n          "headers": ${compact(headers)},\n          ${last.slice(2)}`;
  };
  const operation = ({ name, requests }) =>
    `    {\n      "name": ${compact(name)},\n      "requests": [\n${requests.map(request).join(",\n")}\n      ]\n    }`;
  const content = ([name, value]) => `    ${compact(name)}: ${compact(value)}`;
  return (
    `${JSON.stringify(head, null, 2).slice(0, -2)},\n  "contents": {\n` +
    `${Object.entries(contents).map(content).join(",\n")}\n  },\n` +
    `  "operations": [\n${operations.map(operation).join(",\n")}\n  ]\n}\n`
  );
}
