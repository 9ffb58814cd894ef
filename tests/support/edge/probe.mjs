// A worker for the tests of the edge: carries out steps over its bindings and answers what happened.
//
// A request's body is a list of groups; the steps of a group run at once. A step is [what, ...arguments].
import { WorkerEntrypoint } from "cloudflare:workers";
import { wrappers } from "./context.mjs";
import { entrypoint, object } from "./strict.mjs";

const waitFor = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

const sized = (size) => {
  const { readable, writable } = new FixedLengthStream(size);
  const writer = writable.getWriter();
  writer.write(new Uint8Array(size)).then(() => writer.close());
  return readable;
};

const text = async (found) => (found ? await (found.text ? found.text() : found) : null);

class Steps {
  constructor(env, context) {
    this.env = env;
    this.context = context;
  }

  bucket(method, ...values) {
    return this.env.BUCKET[method](...values);
  }

  async read(key) {
    return text(await this.env.BUCKET.get(key));
  }

  async uploaded(key) {
    return (await this.env.BUCKET.head(key)).uploaded.getTime() - Date.now();
  }

  // Returns whether the stream was left unused.
  async stream(key, size) {
    const body = sized(size);
    try {
      await this.env.BUCKET.put(key, body);
    } catch (error) {
      throw Object.assign(error, { message: `${error.message} used: ${body.locked || (await isEmpty(body))}` });
    }
  }

  async pages(prefix) {
    const sizes = [];
    const keys = [];
    for (let cursor; ;) {
      const page = await this.env.BUCKET.list({ prefix, cursor });
      sizes.push(page.objects.length);
      keys.push(...page.objects.map(({ key }) => key));
      if (!page.truncated) return { sizes, keys };
      ({ cursor } = page);
    }
  }

  async create(key) {
    return (await this.env.BUCKET.createMultipartUpload(key)).uploadId;
  }

  async part(key, id) {
    const part = await this.env.BUCKET.resumeMultipartUpload(key, id).uploadPart(1, "part");
    return { partNumber: part.partNumber, etag: part.etag };
  }

  async complete(key, id, parts) {
    await this.env.BUCKET.resumeMultipartUpload(key, id).complete(parts);
  }

  // A command to an object: a name, or null for a new one.
  async object(name, command) {
    const namespace = this.env.UPLOADS;
    const id = name === null ? namespace.newUniqueId() : namespace.idFromName(name);
    const answer = await namespace.get(id).fetch("https://probe/", { method: "POST", body: command });
    return answer.json();
  }

  // Sends a command several times through one stub.
  async stub(name, command, times) {
    const stub = this.env.UPLOADS.getByName(name);
    const outcomes = [];
    for (let n = 0; n < times; n++) {
      const sent = stub.fetch("https://probe/", { method: "POST", body: command });
      outcomes.push(await sent.then(() => "ok").catch(() => "error"));
    }
    return outcomes;
  }

  // Steps of the inner entry point.
  async inner(...groups) {
    const { Inner } = this.context.exports;
    return (await Inner.fetch("https://probe/", { method: "POST", body: JSON.stringify(groups) })).json();
  }

  method(...values) {
    return this.context.exports.Inner.sum(...values);
  }

  kv(method, ...values) {
    return this.env.CACHE[method](...values);
  }

  async cache(method, key, size) {
    const cache = await caches.open("probe");
    const headers = { "cache-control": "max-age=60", "content-length": String(size) };
    if (method === "put") return cache.put(`https://probe/${key}`, new Response(new Uint8Array(size), { headers }));
    return (await cache.match(`https://probe/${key}`))?.status ?? null;
  }

  async sleep(milliseconds) {
    const from = Date.now();
    await waitFor(milliseconds);
    return Date.now() - from;
  }

  later(key) {
    this.context.waitUntil(waitFor(20).then(() => this.env.BUCKET.put(key, "later")));
  }

  played() {
    return this.context.cache.played;
  }

  variables() {
    return { names: "EDGE_STATE" in { ...this.env }, value: this.env.EDGE_STATE ?? null };
  }
}

async function isEmpty(body) {
  return (await body.getReader().read()).done;
}

async function attempt(steps, [what, ...values]) {
  const from = Date.now();
  try {
    const value = await steps[what](...values);
    return { value: value === undefined ? null : plain(value), took: Date.now() - from };
  } catch (error) {
    const { message, retryable, overloaded } = error;
    return { error: message, retryable, overloaded, took: Date.now() - from };
  }
}

// What JSON can carry of an answer.
const plain = (value) => (value?.key && value?.etag ? { key: value.key } : value);

class Probe extends WorkerEntrypoint {
  async fetch(request) {
    if (request.method !== "POST") {
      const read = await new Response(request.body).arrayBuffer().catch((error) => String(error.message));
      if (typeof read === "string") await this.env.BUCKET.put("body", read);
      return Response.json({ read: read.byteLength ?? read });
    }
    const steps = new Steps(this.env, this.ctx);
    const results = [];
    for (const group of await request.json()) {
      results.push(...(await Promise.all(group.map((step) => attempt(steps, step)))));
    }
    return Response.json(results);
  }
}

// Counts commands, in memory and in its storage. Like a class made by `wasm-bindgen`, it extends nothing: the base
// class of the platform takes no state but the platform's own.
class Counter {
  count = 0;

  constructor(state, env) {
    this.ctx = state;
    this.env = env;
  }

  async fetch(request) {
    const [command, value] = (await request.text()).split(" ");
    const stored = ((await this.ctx.storage.get("count")) ?? 0) + 1;
    this.count++;
    await this.ctx.storage.put("count", stored);
    if (command === "put") await this.env.BUCKET.put(value, "by the object");
    if (command === "head") await this.env.BUCKET.head(value);
    if (command === "alarm") await this.ctx.storage.setAlarm(Date.now() + Number(value) * 1000);
    if (command === "fail") await this.ctx.storage.put("fails", Number(value));
    const [rings = 0, alarm] = [await this.ctx.storage.get("rings"), await this.ctx.storage.getAlarm()];
    return Response.json({ memory: this.count, stored, rings, alarm });
  }

  async alarm() {
    await this.ctx.storage.put("rings", ((await this.ctx.storage.get("rings")) ?? 0) + 1);
    const fails = (await this.ctx.storage.get("fails")) ?? 0;
    await this.ctx.storage.put("fails", fails - 1);
    if (fails > 0) throw new Error("the alarm fails");
  }
}

class Inner extends Probe {
  sum(...values) {
    return values.reduce((sum, value) => sum + value, 0);
  }
}

wrappers.push(
  (context, name) =>
    new Proxy(context, {
      get: (context, member) => {
        if (member === "cache") return { played: name };
        const value = Reflect.get(context, member, context);
        return typeof value === "function" ? value.bind(context) : value;
      },
    }),
);

export default entrypoint(Probe);
const InnerStrict = entrypoint(Inner, "Inner");
export { InnerStrict as Inner };
export const EventEndpoint = object(Counter);
export const MetricsAggregate = object(Counter);
export const RepositoryWriter = object(Counter);
export const UploadSession = object(Counter);
