// The R2 binding. https://developers.cloudflare.com/r2/api/workers/workers-api-reference/
import { call } from "./call.mjs";
import { virtual } from "./clock.mjs";
import { list } from "./listing.mjs";
import { wrap } from "./members.mjs";
import * as multipart from "./multipart.mjs";
import { write } from "./write-limit.mjs";

// An object's date is the clock's.
const dated = (object) =>
  object &&
  new Proxy(object, {
    get(target, member) {
      const value = Reflect.get(target, member, target);
      if (member === "uploaded") return new Date(virtual(value.getTime()));
      return typeof value === "function" && member !== "constructor" ? value.bind(target) : value;
    },
  });

// A body that can be sent whenever the call lands.
const copied = async (body) => (body instanceof ReadableStream ? new Response(body).arrayBuffer() : body);

// A stream that is refused is used up all the same: it cannot be sent again.
const drain = (body) =>
  body instanceof ReadableStream && !body.locked ? body.pipeTo(new crypto.DigestStream("MD5")) : undefined;

function read(kind, key, operation) {
  return call({ class: "r2", kind, key }, { far: "read", operation });
}

// A write to these keys, of `body` if it has one.
async function change(kind, keys, operation, { body, fail } = {}) {
  let content = body;
  try {
    return await call(
      { class: "r2", kind, key: keys[0] ?? "", keys },
      {
        far: "write",
        limit: ["put", "delete", "complete"].includes(kind) ? (rules) => write(rules.rule, keys, kind) : undefined,
        operation: () => operation(content),
        copy: async () => (content = await copied(content)),
        fail,
      },
    );
  } catch (error) {
    await drain(content)?.catch(() => {});
    throw error;
  }
}

function wrapUpload(upload) {
  const { key, uploadId } = upload;
  const expired = () => multipart.check(uploadId);
  return wrap(
    "R2MultipartUpload",
    upload,
    {
      uploadPart: (number, body, options) =>
        change("uploadPart", [key], (body) => (expired(), upload.uploadPart(number, body, options)), { body }),
      complete: (parts) => change("complete", [key], async () => (expired(), dated(await upload.complete(parts)))),
      abort: () => change("abort", [key], () => (expired(), upload.abort())),
    },
    ["key", "uploadId"],
  );
}

export function wrapBucket(bucket) {
  return wrap("R2Bucket", bucket, {
    head: (key) => read("head", key, async () => dated(await bucket.head(key))),
    get: (key, options) => read("get", key, async () => dated(await bucket.get(key, options))),
    list: (options = {}) =>
      read("list", options.prefix ?? "", async () => {
        const page = await list(bucket, options);
        return { ...page, objects: page.objects.map(dated) };
      }),
    put: (key, body, options) =>
      change("put", [key], async (body) => dated(await bucket.put(key, body, options)), { body }),
    delete: (keys) => change("delete", [keys].flat(), () => bucket.delete(keys)),
    createMultipartUpload: (key, options) =>
      change("createMultipartUpload", [key], async () => {
        const upload = await bucket.createMultipartUpload(key, options);
        multipart.begin(upload.uploadId);
        return wrapUpload(upload);
      }),
    // Not a call: nothing is looked up.
    resumeMultipartUpload: (key, uploadId) => wrapUpload(bucket.resumeMultipartUpload(key, uploadId)),
  });
}
