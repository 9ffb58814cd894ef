// The operations of the table in docs/costs.md: what each needs, and its requests.
//
// An operation is a function of a `Place`. It prepares what the operation needs and returns a function that sends the
// requests to measure.
import { randomBytes } from "node:crypto";
import { cost } from "./edge/measure.mjs";
import { Client, TEN_LAYERS, image } from "./pushes.mjs";
import { MANIFEST, PART, digestOf } from "./registry.mjs";

const MIB = 1024 * 1024;
const SMALL = 5000;
const SMALL_LAYERS = TEN_LAYERS.map((size) => Math.min(size, 1000));

// What R2 bills as class A and class B, by the edge's names. Deletes and aborts are free.
const CLASS_A = ["put", "list", "createMultipartUpload", "uploadPart", "complete"];
const CLASS_B = ["head", "get"];

const COLUMNS = {
  "R2 A": CLASS_A.map((kind) => `r2.${kind}`),
  "R2 B": CLASS_B.map((kind) => `r2.${kind}`),
  "KV reads": ["kv.get", "kv.getWithMetadata"],
  // A deletion has the price of a write.
  "KV writes": ["kv.put", "kv.delete"],
  "object calls": ["object.fetch"],
};

// A registry, and a repository that nothing else uses.
class Place {
  constructor(registry, name) {
    this.registry = registry;
    this.name = name;
    this.client = new Client(registry);
  }

  // Replaces the WebAssembly instance, and with it what the isolate remembers.
  async newIsolate() {
    this.isNew = true;
    // What waits in the instance never ends.
    await settled(this.registry);
    await (await this.registry.expect("GET /v2/_test/panic", 500)).arrayBuffer();
  }

  async send(line, status, options) {
    const answer = await this.registry.expect(line, status, options);
    return { answer, body: Buffer.from(await answer.arrayBuffer()) };
  }

  // Uploads in chunks with `Content-Range`.
  async chunks(bytes, size) {
    let location = await this.registry.startUpload(this.name);
    for (let at = 0; at < bytes.length; at += size) {
      const body = bytes.subarray(at, at + size);
      const headers = { "content-range": `${at}-${at + body.length - 1}` };
      const { answer } = await this.send(`PATCH ${location}`, 202, { body, headers });
      location = answer.headers.get("location");
    }
    await this.send(`PUT ${location}&digest=${digestOf(bytes)}`, 201);
  }

  // An upload with one chunk; returns its location.
  async begun(bytes) {
    const location = await this.registry.startUpload(this.name);
    const { answer } = await this.send(`PATCH ${location}`, 202, { body: bytes });
    return answer.headers.get("location");
  }

  // An image whose blobs the repository has.
  async blobsOf(layers = SMALL_LAYERS) {
    const made = image(layers);
    for (const bytes of [made.config, ...made.layers]) await this.client.blob(this.name, bytes, "put");
    return made;
  }

  async pushed(tag = "v1") {
    const made = await this.blobsOf([SMALL]);
    await this.client.manifest(this.name, tag, made);
    return made;
  }
}

const get = (at, path, status = 200, options = {}) => at.send(`GET /v2/${at.name}/${path}`, status, options);
const head = (at, path) => at.send(`HEAD /v2/${at.name}/${path}`, 200);
const remove = (at, path) => at.send(`DELETE /v2/${at.name}/${path}`, 202);
const started = (at, query = "", status = 202, options = {}) =>
  at.send(`POST /v2/${at.name}/blobs/uploads/${query}`, status, options);

const blob = (size, way) => async (at) => {
  const bytes = randomBytes(size);
  return () => at.client.blob(at.name, bytes, way);
};

// With the repository's blob as it was just pushed.
const withBlob = (use) => async (at) => {
  const digest = await at.registry.pushBlob(at.name, randomBytes(SMALL));
  return use(at, digest);
};

const withManifest = (use) => async (at) => {
  const { digest } = await at.pushed();
  return use(at, digest);
};

export const OPERATIONS = {
  "`GET /v2/`": async (at) => () => at.send("GET /v2/", 200),

  "`HEAD` of a blob": withBlob((at, digest) => () => head(at, `blobs/${digest}`)),
  "blob smaller than a part, `POST` + `PATCH` + `PUT`": blob(SMALL, "docker"),
  "the same, of a blob that another repository has": async (at) => {
    const bytes = randomBytes(SMALL);
    await at.client.blob(`${at.name}/other`, bytes, "docker");
    return () => at.client.blob(at.name, bytes, "docker");
  },
  "blob of 30 MB, `POST` + `PATCH` + `PUT`": blob(30_000_000, "docker"),
  "blob of 6 MB in 2 chunks": async (at) => () => at.chunks(randomBytes(6_000_000), 3_000_000),
  "blob of 15 MiB in chunks of 5 MiB": async (at) => () => at.chunks(randomBytes(15 * MIB), 5 * MIB),
  "blob up to 8 MiB, `POST` + `PUT`": blob(SMALL, "put"),
  "blob above 8 MiB, `POST` + `PUT`": blob(PART + 1, "put"),
  "blob up to 8 MiB, `POST ?digest=`": async (at) => {
    const body = randomBytes(SMALL);
    return () => started(at, `?digest=${digestOf(body)}`, 201, { body });
  },
  mount: async (at) => {
    const digest = await at.registry.pushBlob(`${at.name}/other`, randomBytes(SMALL));
    return () => started(at, `?mount=${digest}&from=${at.name}/other`, 201);
  },
  "mount without `from`": async (at) => {
    const digest = await at.registry.pushBlob(`${at.name}/other`, randomBytes(SMALL));
    return () => started(at, `?mount=${digest}`, 201);
  },
  "status of an upload": async (at) => {
    const location = await at.begun(randomBytes(SMALL));
    return () => at.send(`GET ${location}`, 204);
  },
  "cancel of an upload smaller than a part": async (at) => {
    const location = await at.begun(randomBytes(SMALL));
    return () => at.send(`DELETE ${location}`, 204);
  },
  "cancel of an upload with parts": async (at) => {
    const location = await at.begun(randomBytes(PART + SMALL));
    return () => at.send(`DELETE ${location}`, 204);
  },
  "`POST` of an upload, first of all": async (at) => () => started(at),
  "`POST` of an upload, first in an isolate": async (at) => {
    await started(at);
    await at.newIsolate();
    return () => started(at);
  },

  "manifest with 11 blobs, `PUT`": async (at) => {
    const made = await at.blobsOf();
    return () => at.client.manifest(at.name, "v1", made);
  },
  "the same manifest, another tag": async (at) => {
    const made = await at.blobsOf();
    await at.client.manifest(at.name, "v1", made);
    return () => at.client.manifest(at.name, "v2", made);
  },
  "the same manifest, another tag, first in an isolate": async (at) => {
    const made = await at.blobsOf();
    await at.client.manifest(at.name, "v1", made);
    await at.newIsolate();
    return () => at.client.manifest(at.name, "v2", made);
  },
  "manifest with 11 blobs and a subject, `PUT`": async (at) => {
    const made = await at.blobsOf();
    const subject = { mediaType: MANIFEST, digest: digestOf("subject"), size: 7 };
    const manifest = Buffer.from(JSON.stringify({ ...JSON.parse(made.manifest), subject }));
    return () => at.client.manifest(at.name, "v1", { manifest });
  },
  "manifest by tag, `HEAD`": withManifest((at) => () => head(at, "manifests/v1")),
  "manifest by tag, `GET`": withManifest((at) => () => get(at, "manifests/v1")),
  "manifest by tag, `GET`, first in an isolate": withManifest(async (at, digest) => {
    await fromKv(at, digest);
    return () => get(at, "manifests/v1");
  }),
  "manifest by digest, `HEAD`": withManifest((at, digest) => () => head(at, `manifests/${digest}`)),
  "manifest by digest, `GET`": withManifest((at, digest) => () => get(at, `manifests/${digest}`)),
  "manifest by digest, `GET`, first in an isolate": withManifest(async (at, digest) => {
    await fromKv(at, digest);
    return () => get(at, `manifests/${digest}`);
  }),
  "manifest by digest, `GET`, first of all": withManifest(async (at, digest) => {
    await at.newIsolate();
    return () => get(at, `manifests/${digest}`);
  }),

  "blob, `GET`, from the bucket, first in an isolate": withBlob(async (at, digest) => {
    await at.newIsolate();
    return () => get(at, `blobs/${digest}`);
  }),
  "blob, `GET`, from the bucket": withBlob(async (at, digest) => {
    await head(at, `blobs/${digest}`);
    await get(at, `blobs/${digest}`);
    return () => get(at, `blobs/${digest}`);
  }),
  "blob, `GET`, from the bucket, filling the edge cache": withBlob(async (at, digest) => {
    await at.newIsolate();
    return () => get(at, `blobs/${digest}`);
  }),
  "blob, `GET`, from the edge cache": withBlob(async (at, digest) => {
    await get(at, `blobs/${digest}`);
    await settled(at.registry);
    return () => get(at, `blobs/${digest}`);
  }),
  "range of a blob, from the bucket": withBlob(async (at, digest) => {
    await get(at, `blobs/${digest}`);
    return () => get(at, `blobs/${digest}`, 206, { headers: { range: "bytes=1-10" } });
  }),

  "list of tags": withManifest((at) => () => get(at, "tags/list")),
  catalog: withManifest((at) => () => at.send("GET /v2/_catalog", 200)),
  "referrers of a manifest": withManifest((at, digest) => () => get(at, `referrers/${digest}`)),

  "tag, `DELETE`": withManifest((at) => () => remove(at, "manifests/v1")),
  "manifest with one tag, `DELETE`": withManifest((at, digest) => () => remove(at, `manifests/${digest}`)),
  "blob, `DELETE`": withBlob((at, digest) => () => remove(at, `blobs/${digest}`)),
};

// Operations on a registry without the edge cache, which nothing else uses.
export const WITHOUT_EDGE_CACHE = [
  "`POST` of an upload, first of all",
  "blob, `GET`, from the bucket, first in an isolate",
  "blob, `GET`, from the bucket",
  "range of a blob, from the bucket",
];

// KV has the manifest, and the isolate nothing.
async function fromKv(at, digest) {
  await at.newIsolate();
  await get(at, `manifests/${digest}`);
  await settled(at.registry);
  await at.newIsolate();
}

// Waits for the work after the answers. Returns the log and the counters.
export async function settled(registry) {
  for (let tries = 0; tries < 1000; tries++) {
    const answer = await registry.edgeLog();
    const isOpen = ({ answered, background }) => answered === undefined || background?.open > 0;
    if (!answer.log.some(isOpen)) return answer;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error("the work after the answers does not end");
}

// The cells of an operation's line.
export async function measured(registry, name, use) {
  const place = new Place(registry, name);
  const run = await use(place);
  // The isolate has changed a repository before, unless the operation has made it new.
  if (!place.isNew) await place.send("DELETE /v2/other/manifests/none", 404);
  await settled(registry);
  // A key takes one write a second.
  await registry.advance(2);
  await registry.edge({ rule: "A", profile: "near", listing: "full", kv: "exact" });
  await run();
  const { log, counters } = await settled(registry);
  const requests = log.filter(({ kind }) => kind === "request");
  const count = (kinds) =>
    kinds.reduce((sum, kind) => sum + (counters.calls[kind] ?? 0) + (counters.calls[`object:${kind}`] ?? 0), 0);
  return {
    cells: {
      requests: requests.length,
      rounds: requests.reduce((sum, request) => sum + cost(request).rounds, 0),
      ...Object.fromEntries(Object.entries(COLUMNS).map(([column, kinds]) => [column, count(kinds)])),
    },
    // For messages.
    calls: requests.map(({ line, calls, answered }) => {
      const names = calls.map((call) => {
        const inner = (call.inner ?? []).map(({ class: name, kind }) => `${name}.${kind}`);
        const inside = inner.length > 0 ? `(${inner.join(" ")})` : "";
        return `${call.began > answered ? "later:" : ""}${call.class}.${call.kind}${inside}`;
      });
      return `${line.split("?")[0]}: ${names.join(" ")}`;
    }),
    refused: counters.refused,
  };
}
