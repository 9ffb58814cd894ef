// Pushes through a front door that refuses large bodies before the worker sees them, as Cloudflare does by the plan of the
// domain: clients that can send chunks learn from the registry how long these may be.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { rm } from "node:fs/promises";
import { request as send, createServer } from "node:http";
import path from "node:path";
import { after, before, describe, test } from "node:test";
import { needs, run } from "../support/clients.mjs";
import { writeLayout } from "../support/images.mjs";
import { Registry, digestOf, temporaryFolder } from "../support/registry.mjs";

// In bytes: a fifth of the smallest plan's, to take less time.
const LARGEST = 20_000_000;

// Refuses longer bodies with a page of its own, also those that do not tell their length, and cuts the connection.
function frontDoor(registry) {
  const refused = [];
  const server = createServer((incoming, outgoing) => {
    const refuse = () => {
      refused.push(`${incoming.method} ${incoming.headers["content-length"] ?? "unknown"}`);
      outgoing.writeHead(413, { "content-type": "text/html", connection: "close" });
      outgoing.end("<html><body>413 Request Entity Too Large</body></html>");
    };
    if (Number(incoming.headers["content-length"] ?? 0) > LARGEST) return refuse();
    const { method, headers } = incoming;
    const passed = send(new URL(incoming.url, registry.url), { method, headers }, (answer) => {
      outgoing.writeHead(answer.statusCode, answer.headers);
      answer.pipe(outgoing);
    });
    passed.on("error", () => outgoing.destroy());
    let length = 0;
    incoming.on("data", (piece) => {
      length += piece.length;
      if (length <= LARGEST || outgoing.headersSent) return;
      incoming.unpipe(passed);
      passed.destroy();
      refuse();
    });
    incoming.pipe(passed);
    return undefined;
  });
  return new Promise((resolve) => {
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      resolve({ url: `http://127.0.0.1:${port}`, host: `localhost:${port}`, refused, stop: () => server.close() });
    });
  });
}

describe("a front door of 20 MB", () => {
  let registry, door;
  before(async () => {
    registry = await Registry.start({ vars: { ANONYMOUS: "push", MAX_BODY: "20 MB" } });
    door = await frontDoor(registry);
  });
  after(async () => {
    door?.stop();
    await registry?.stop();
  });

  const at = (line, options = {}) => {
    const [method, target] = line.split(" ");
    return fetch(new URL(target, door.url), { method, redirect: "manual", ...options });
  };

  // regclient, scheme/reg/blob.go: a mount without a source, the whole blob in one `PUT`, and after a refusal chunks at the
  // same URL, in which the digest is still. A chunk has 1 MiB unless the registry asks for more.
  test("regctl's way: refused as a whole, the blob arrives in chunks", async () => {
    const bytes = randomBytes(50_000_000);
    const digest = digestOf(bytes);
    const mount = await at(`POST /v2/a/blobs/uploads/?mount=${digest}`);
    assert.equal(mount.status, 202);
    const [least, most] = ["oci-chunk-min-length", "oci-chunk-max-length"].map((name) =>
      Number(mount.headers.get(name)),
    );
    assert.equal(most, LARGEST);
    let location = `${mount.headers.get("location")}&digest=${digest}`;
    door.refused.length = 0;
    const whole = await at(`PUT ${location}`, { body: bytes }).catch(() => null);
    assert.ok(whole === null || whole.status === 413, String(whole?.status));
    assert.deepEqual(door.refused, ["PUT 50000000"]);

    const chunk = Math.min(Math.max(1 << 20, least), most);
    for (let start = 0; start < bytes.length; start += chunk) {
      const body = bytes.subarray(start, start + chunk);
      const headers = { "content-range": `${start}-${start + body.length - 1}` };
      const patched = await at(`PATCH ${location}`, { body, headers });
      assert.equal(patched.status, 202, await patched.text());
      location = patched.headers.get("location");
    }
    const put = await at(`PUT ${location}&digest=${digest}`);
    assert.equal(put.status, 201, await put.text());
    assert.equal(put.headers.get("docker-content-digest"), digest);
    assert.equal(door.refused.length, 1);
    const pulled = await at(`GET /v2/a/blobs/${digest}`);
    assert.ok(Buffer.from(await pulled.arrayBuffer()).equals(bytes));
  });

  test("chunks of the longest length that is announced pass", async () => {
    const bytes = randomBytes(LARGEST + 1);
    const digest = digestOf(bytes);
    const begun = await at("POST /v2/a/blobs/uploads/");
    const most = Number(begun.headers.get("oci-chunk-max-length"));
    let location = begun.headers.get("location");
    for (let start = 0; start < bytes.length; start += most) {
      const patched = await at(`PATCH ${location}`, { body: bytes.subarray(start, start + most) });
      assert.equal(patched.status, 202, await patched.text());
      location = patched.headers.get("location");
    }
    assert.equal((await at(`PUT ${location}&digest=${digest}`)).status, 201);
  });

  test("what reaches the worker is taken, however long it is", async () => {
    const bytes = randomBytes(LARGEST + 5_000_000);
    assert.equal(await registry.pushBlob("a", bytes), digestOf(bytes));
  });

  test(
    "a client that cannot send chunks fails at the front door, and its smaller layers pass",
    needs("skopeo"),
    async () => {
      const folder = await temporaryFolder();
      try {
        const copy = async (name, sizes) => {
          await writeLayout(path.join(folder, name), sizes);
          const target = `docker://${door.host}/skopeo:${name}`;
          const insecure = ["--insecure-policy", "copy", "--dest-tls-verify=false"];
          return run("skopeo", [...insecure, `oci:${path.join(folder, name)}:latest`, target]);
        };
        await copy("small", [1000, 15_000_000]);
        door.refused.length = 0;
        await assert.rejects(copy("large", [1000, 25_000_000]));
        assert.ok(door.refused.length > 0);
        assert.equal((await at("HEAD /v2/skopeo/manifests/large")).status, 404);
      } finally {
        await rm(folder, { recursive: true, force: true });
      }
    },
  );
});
