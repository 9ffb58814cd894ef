// The worker over a bucket that fails one call. `PUT /v2/_fault?at=<n>&kind=<kind>` selects it, counted from
// 0; GET returns the number of calls since. Kinds: `error` and `busy` have no effect and fail, `busy` with
// R2's message for a retry; `timeout` takes effect and loses the answer.
import Worker, { UploadSession } from "../../src/cloudflare/entry.mjs";

export { UploadSession };

const MESSAGES = {
  error: "we are out of disks (10999)",
  busy: "reduce your rate of requests (10058)",
  timeout: "Network connection lost.",
};
let calls = 0;
let fault = null;

const METHODS = ["head", "get", "put", "delete", "list", "createMultipartUpload", "uploadPart", "complete", "abort"];

function faulty(target) {
  return new Proxy(target, {
    get(target, name) {
      const value = target[name];
      if (typeof value !== "function" || name === "constructor") return value;
      if (name === "resumeMultipartUpload") return (...args) => faulty(target[name](...args));
      if (!METHODS.includes(name)) return value.bind(target);
      return async (...args) => {
        const fails = fault && calls === fault.at ? fault.kind : null;
        calls++;
        if (fails && fails !== "timeout") throw new Error(`${name}: ${MESSAGES[fails]}`);
        const result = await target[name](...args);
        if (fails) throw new Error(MESSAGES.timeout);
        return name === "createMultipartUpload" ? faulty(result) : result;
      };
    },
  });
}

export default class extends Worker {
  constructor(context, env) {
    const bucket = faulty(env.BUCKET);
    super(context, new Proxy(env, { get: (env, name) => (name === "BUCKET" ? bucket : env[name]) }));
  }

  async fetch(request) {
    const { pathname, searchParams } = new URL(request.url);
    if (pathname !== "/v2/_fault") return super.fetch(request);
    if (request.method === "PUT") {
      calls = 0;
      fault = { at: Number(searchParams.get("at")), kind: searchParams.get("kind") };
    }
    return Response.json({ calls });
  }
}
