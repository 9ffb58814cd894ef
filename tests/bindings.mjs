// Loaded into Node before the wasm tests. Puts into the global scope Miniflare's R2 and KV, backed by
// workerd, and the address of a real S3 server.
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";
import { getPlatformProxy } from "wrangler";
import { S3Server } from "./support/s3.mjs";

const configPath = fileURLToPath(new URL("bindings.toml", import.meta.url));
const platform = await getPlatformProxy({ configPath, persist: false });
globalThis.pierheadBucket = platform.env.BUCKET;
globalThis.pierheadKv = platform.env.CACHE;
// PIERHEAD_S3 selects another store: see docs/storage.md.
const { PIERHEAD_S3: named } = process.env;
const s3 = named ? null : await S3Server.start();
globalThis.pierheadS3 = named ? JSON.parse(named) : { ...s3.vars, S3_IS_FILES: "yes" };

// The globals of workerd that the code uses and Node lacks.
crypto.DigestStream ??= class extends WritableStream {
  constructor(algorithm) {
    const hash = createHash(algorithm.replace("-", ""));
    const { promise, resolve, reject } = Promise.withResolvers();
    super({
      write: (chunk) => void hash.update(chunk),
      close: () => resolve(new Uint8Array(hash.digest()).buffer),
      abort: reject,
    });
    this.digest = promise;
  }
};

globalThis.FixedLengthStream ??= class extends TransformStream {
  constructor(length) {
    let left = length;
    super({
      transform(chunk, controller) {
        left -= chunk.length;
        if (left < 0) throw new TypeError("more bytes than announced");
        controller.enqueue(chunk);
      },
      flush() {
        if (left > 0) throw new TypeError("fewer bytes than announced");
      },
    });
  }
};

// The runtime behind the bindings must not keep the test process alive.
process.on("exit", () => {
  s3?.stopNow();
  void platform.dispose();
});
