// The worker's classes on the strict edge.
import { WorkerEntrypoint } from "cloudflare:workers";
import * as cache from "./cache.mjs";
import * as clock from "./clock.mjs";
import { CALL, wrapContext } from "./context.mjs";
import { PATH, begin, control } from "./control.mjs";
import { STATE, wrapEnv } from "./environment.mjs";
import { cutAnswer, cutRequest } from "./cut.mjs";
import * as fetching from "./fetch.mjs";
import { refuse } from "./front-door.mjs";
import { event, invoke, opened, slept } from "./log.mjs";
import { object as wrapObject } from "./objects.mjs";
import { rulesOf } from "./rules.mjs";

clock.install(slept, event);
cache.install();
fetching.install();

const wrappedEnvs = new WeakMap();
function envOf(env) {
  if (!wrappedEnvs.has(env)) wrappedEnvs.set(env, wrapEnv(env));
  return wrappedEnvs.get(env);
}

export const object = (Class) => wrapObject(Class, envOf);

// Notes when the last byte of a body was read.
function noted(request, invocation) {
  const length = request.headers.get("content-length");
  const pipe = length === null ? new IdentityTransformStream() : new FixedLengthStream(Number(length));
  const piping = request.body.pipeTo(pipe.writable).then(() => (invocation.entry.lastByte = event()));
  invocation.waitUntil(piping.catch(() => {}));
  const { method, headers } = request;
  return new Request(request.url, { method, headers, body: pipe.readable });
}

// The methods of a class and of those that it extends, other than the platform's own.
function methodsOf(Class) {
  const names = new Set();
  for (let at = Class.prototype; at && at !== WorkerEntrypoint.prototype; at = Object.getPrototypeOf(at)) {
    for (const name of Object.getOwnPropertyNames(at)) names.add(name);
  }
  return [...names].filter((name) => !["constructor", "fetch", "scheduled", "queue"].includes(name));
}

// An entry point, by the name it is exported under. The default one takes requests, the cron trigger and queues; the
// worker itself calls others.
export function entrypoint(Class, name = "default") {
  class Strict extends WorkerEntrypoint {
    invoke(about, own, use, parent) {
      const background = { open: 0 };
      const context = wrapContext(this.ctx, name, background);
      const waitUntil = (promise) => this.ctx.waitUntil(promise);
      const begun = (invocation) => use(new Class(context, envOf(this.env)), invocation);
      return invoke({ ...about, background }, { waitUntil, ...own }, begun, parent);
    }

    async fetch(request) {
      begin(this.env[STATE]);
      const { pathname, search } = new URL(request.url);
      if (pathname === PATH) return control(request, this.env);
      const parent = opened(request.headers.get(CALL));
      if (parent)
        return this.invoke({ kind: "inner", line: `${name} ${pathname}` }, {}, (inner) => inner.fetch(request), parent);
      const { rules, marks } = rulesOf(request.headers.get("x-edge"));
      const refused = refuse(request, rules);
      if (refused) return refused;
      const about = { kind: "request", line: `${request.method} ${pathname}${search}`, ...marks };
      const answer = await this.invoke(about, { rules }, (inner, invocation) => {
        if (!request.body) return inner.fetch(request);
        if (rules.cut !== null) return inner.fetch(cutRequest(request, rules.cut, invocation.waitUntil));
        return inner.fetch(marks.lastByte ? noted(request, invocation) : request);
      });
      return rules.cut === null ? answer : cutAnswer(answer);
    }

    scheduled(event) {
      begin(this.env[STATE]);
      return this.invoke({ kind: "scheduled", line: event.cron }, {}, (inner) => inner.scheduled(event));
    }

    queue(batch) {
      begin(this.env[STATE]);
      return this.invoke({ kind: "queue", line: batch.queue }, {}, (inner) => inner.queue(batch));
    }
  }
  // Methods that other classes call.
  for (const method of methodsOf(Class)) {
    Strict.prototype[method] = function (...values) {
      return this.invoke({ kind: "inner", line: `${name}.${method}` }, {}, (inner) => inner[method](...values));
    };
  }
  return Strict;
}
