// `fetch`: the S3 server, as far away as the profile says. Bodies are not waited for.
import { call } from "./call.mjs";

export function install() {
  const real = globalThis.fetch;
  globalThis.fetch = (input, init) => {
    const { pathname } = new URL(typeof input === "string" ? input : input.url);
    const kind = (init?.method ?? input.method ?? "GET").toLowerCase();
    return call({ class: "s3", kind, key: pathname }, { far: "s3", operation: () => real(input, init) });
  };
}
