// The context of an invocation. Calls to the worker's own entry points (`ctx.exports`) are logged, and what these do is
// found under the call.
import { call } from "./call.mjs";
import { close, current, open } from "./log.mjs";
import { wrap } from "./members.mjs";

// Names the call that an invocation is for, between the edge's two sides.
export const CALL = "x-edge-call";

// Played on top of the runtime, innermost first, for instance Workers Caching. Each takes the context so far and the
// name of the entry point, and returns a context.
export const wrappers = [];

// A cached call stays in the data centre, and so does one on its way to the entry point behind the cache.
function link(name, stub) {
  const fetch = (input, init) => {
    const request = new Request(input, init);
    const { rules } = current();
    const operation = async (entry) => {
      open(entry, rules);
      try {
        const headers = new Headers(request.headers);
        headers.set(CALL, String(entry.number));
        return await stub.fetch(new Request(request, { headers }), init?.cf && { cf: init.cf });
      } finally {
        close(entry);
      }
    };
    return call({ class: "inner", kind: "fetch", key: `${name} ${request.url}` }, { far: "cache", operation });
  };
  return new Proxy(stub, {
    apply: (stub, _, values) => link(name, stub(...values)),
    get(stub, member) {
      if (member === "fetch") return fetch;
      if (typeof member === "symbol" || member === "constructor") return Reflect.get(stub, member);
      const operation = (values) => () => stub[member](...values);
      return (...values) =>
        call({ class: "inner", kind: member, key: name }, { far: "cache", operation: operation(values) });
    },
  });
}

const linked = (exports) =>
  exports &&
  new Proxy(exports, {
    get(exports, name) {
      const stub = exports[name];
      return typeof name === "symbol" || !stub ? stub : link(name, stub);
    },
  });

// `background` counts the promises that `waitUntil` still waits for.
export function wrapContext(real, name, background) {
  const context = wrappers.reduce((context, wrapper) => wrapper(context, name), real);
  const members = {
    exports: linked(context.exports),
    cache: context.cache,
    waitUntil: (promise) => {
      background.open++;
      context.waitUntil(Promise.resolve(promise).finally(() => background.open--));
    },
  };
  return wrap("ExecutionContext", real, members, ["passThroughOnException", "props", "tracing"]);
}
