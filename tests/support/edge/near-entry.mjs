// The worker behind Workers Caching, with calls to its bindings counted and, on request, as slow as far ones.
//
// `PUT /v2/_near` takes JSON: `ahead` (seconds to move the clock by), `moods` (of the cache), `distances` (milliseconds
// of a call), `slow` (the next call to the bucket whose key contains `key` takes `seconds`), `release` and `clear`.
// `GET` returns the counts. Answers carry `x-took`: the milliseconds until their first byte, and `x-calls`: the calls to
// inner entry points, which wait for one another.
import Worker, * as entry from "../../../src/cloudflare/entry.mjs";
import { CENTER, WorkersCache } from "./workers-cache.mjs";

export const { EventEndpoint, MetricsAggregate, RepositoryWriter, UploadSession } = entry;

const now = Date.now.bind(Date);
let ahead = 0;
Date.now = () => now() + ahead;

const distances = { cached: 0, r2: 0, object: 0 };
const far = { r2: 0, object: 0 };
let slow;

const sleep = (milliseconds) =>
  milliseconds > 0 ? new Promise((resolve) => setTimeout(resolve, milliseconds)) : undefined;

const cache = new WorkersCache({ sleep: () => sleep(distances.cached) });

// Counts every call to a binding.
function farAway(target, kind) {
  return new Proxy(target, {
    get(target, name) {
      const value = target[name];
      if (typeof value !== "function" || name === "constructor") return value;
      if (name === "resumeMultipartUpload" || (kind === "object" && name === "get")) {
        return (...args) => farAway(target[name](...args), kind);
      }
      if (kind === "object" && name !== "fetch") return value.bind(target);
      return async (...args) => {
        far[kind]++;
        await sleep(distances[kind]);
        const result = await target[name](...args);
        if (kind === "r2" && slow && String(args[0]).includes(slow.key)) {
          ahead += slow.seconds * 1000;
          slow = undefined;
        }
        return name === "createMultipartUpload" ? farAway(result, kind) : result;
      };
    },
  });
}

// An entry point of the worker: `name` is that of its class.
const behind = (Class, name) =>
  class extends Class {
    constructor(ctx, env) {
      const here = { center: "a", calls: 0 };
      const bindings = { BUCKET: farAway(env.BUCKET, "r2"), UPLOADS: farAway(env.UPLOADS, "object") };
      super(
        cache.context(ctx, name, () => (here.calls++, here.center)),
        { ...env, ...bindings },
      );
      this.here = here;
    }

    async fetch(request) {
      this.here.center = request.headers.get(CENTER) ?? "a";
      const started = now();
      const response = await super.fetch(request);
      const answer = new Response(response.body, response);
      answer.headers.set("x-took", String(now() - started));
      answer.headers.set("x-calls", String(this.here.calls));
      return answer;
    }
  };

export const Facts = behind(entry.Facts, "Facts");
export const Manifests = behind(entry.Manifests, "Manifests");
export const Blobs = behind(entry.Blobs, "Blobs");

export default class extends behind(Worker, "default") {
  async fetch(request) {
    const { pathname, searchParams } = new URL(request.url);
    if (pathname !== "/v2/_near") return super.fetch(request);
    if (request.method === "PUT") {
      const order = await request.json();
      ahead += (order.ahead ?? 0) * 1000;
      slow = order.slow ?? slow;
      Object.assign(distances, order.distances);
      Object.assign(cache.moods, order.moods);
      if (order.release) cache.release();
      if (order.clear) cache.clear();
    }
    return Response.json({ far, counts: cache.counts, paths: cache.paths(searchParams.get("center") ?? "a") });
  }
}
