// The context of an invocation. `wrappers` add to it: Workers Caching, for one.
import { wrap } from "./members.mjs";

// Each takes the real context, the real bindings and the class that runs, and returns members of the context.
export const wrappers = [];

export function wrapContext(context, env, Class) {
  const members = {
    waitUntil: (promise) => context.waitUntil(promise),
  };
  for (const wrapper of wrappers) Object.assign(members, wrapper(context, env, Class));
  return wrap("ExecutionContext", context, members, ["passThroughOnException", "exports", "props", "cache", "tracing"]);
}
