// Many clients push at once to a bucket that limits writes to a key, by either rule. Every push is acknowledged, and
// everything pulls afterwards. Clients repeat 503 as docker does, and give up on 429 and 500.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, before, describe, test } from "node:test";
import { Client, WAYS, image } from "../support/pushes.mjs";
import { PART, Registry } from "../support/registry.mjs";

const WRITERS = 16;
const SIZES = [100, 2000, 300_000, PART + 1000];

for (const rule of ["A", "B"])
  describe(`rule ${rule}`, () => {
    let registry, client;
    before(async () => {
      registry = await Registry.start({ edge: { profile: "near", rule } });
      client = new Client(registry);
    });
    after(() => registry.stop());

    // Runs these pushes at once. Reports all failures, and what the edge counted.
    async function together(t, pushes) {
      await registry.edge({ profile: "near", rule });
      const results = await Promise.allSettled(pushes.map((push) => push()));
      const failures = results.filter(({ status }) => status === "rejected").map(({ reason }) => reason.message);
      const { counters } = await registry.edgeLog();
      t.diagnostic(`${counters.refused} writes refused, at most ${counters.highest} calls waited at once`);
      assert.equal(failures.length, 0, `${failures.length} of ${pushes.length} failed:\n${failures.join("\n")}`);
      assert.ok(counters.highest <= 6);
    }

    test("the first push of all, several layers at once", async (t) => {
      const first = image([100, 200, 300, 400, 500, 600, 700, 800]);
      await together(t, [() => client.push("first", "v1", first, "docker", 8)]);
      await client.pull("first", "v1", first);
    });

    for (const way of WAYS) {
      const label = way === "put" ? "by PUT" : "in docker's way";

      test(`${WRITERS} pushes of one image to as many tags, ${label}`, async (t) => {
        const one = image(SIZES);
        const tags = Array.from({ length: WRITERS }, (_, n) => `v${n}`);
        await together(
          t,
          tags.map((tag) => () => client.push(`tags/${way}`, tag, one, way)),
        );
        for (const tag of tags) await client.pull(`tags/${way}`, tag, one);
      });

      test(`${WRITERS} pushes to as many repositories that share a base layer and a config, ${label}`, async (t) => {
        const [base, config] = [randomBytes(SIZES[2]), randomBytes(500)];
        const large = randomBytes(PART + 1000);
        const images = Array.from({ length: WRITERS }, () => image([base, large, 1000], config));
        await together(
          t,
          images.map((image, n) => () => client.push(`shared/${way}/${n}`, "v1", image, way)),
        );
        for (const [n, image] of images.entries()) await client.pull(`shared/${way}/${n}`, "v1", image);
      });
    }

    test("five more tags of one manifest, one after the other", async (t) => {
      const one = image([1000, 2000]);
      await client.push("sixth", "v0", one, "put");
      await together(t, [
        async () => {
          for (let n = 1; n <= 5; n++) await client.manifest("sixth", `v${n}`, one);
        },
      ]);
      for (let n = 0; n <= 5; n++) await client.pull("sixth", `v${n}`, one);
    });
  });
