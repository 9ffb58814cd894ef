// The producer of a queue. https://developers.cloudflare.com/queues/platform/limits/: a message has at most 128 KB (of
// 1,000 bytes), a batch 100 messages and 256 KB. The consumer is the entry point's `queue`.
import { call } from "./call.mjs";
import { wrap } from "./members.mjs";

const MESSAGE = 128_000;
const BATCH = 100;
const BATCH_BYTES = 256_000;

const size = (body) => Buffer.byteLength(typeof body === "string" ? body : JSON.stringify(body));

function limit(sizes) {
  return () => {
    if (sizes.some((size) => size > MESSAGE)) throw new Error("Queue send failed: message length exceeds 128000 bytes");
    const sum = sizes.reduce((sum, size) => sum + size, 0);
    if (sizes.length > BATCH || sum > BATCH_BYTES) throw new Error("Queue sendBatch failed: Payload Too Large");
  };
}

export function wrapQueue(queue) {
  return wrap("WorkerQueue", queue, {
    send: (body, options) =>
      call(
        { class: "queue", kind: "send", key: "" },
        { far: "queue", limit: limit([size(body)]), operation: () => queue.send(body, options) },
      ),
    sendBatch: (messages, options) => {
      const sent = [...messages];
      return call(
        { class: "queue", kind: "sendBatch", key: "" },
        {
          far: "queue",
          limit: limit(sent.map(({ body }) => size(body))),
          operation: () => queue.sendBatch(sent, options),
        },
      );
    },
  });
}
