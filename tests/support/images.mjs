// Generates OCI image layouts for real clients to push.
import { randomBytes } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { gzipSync } from "node:zlib";
import path from "node:path";
import { INDEX, MANIFEST, digestOf } from "./registry.mjs";

// A tar archive of one file.
function tar(name, content) {
  const header = Buffer.alloc(512);
  const octal = (value, length) => value.toString(8).padStart(length - 1, "0");
  header.write(name, 0);
  header.write(octal(0o644, 8), 100);
  header.write(octal(0, 8), 108);
  header.write(octal(0, 8), 116);
  header.write(octal(content.length, 12), 124);
  header.write(octal(0, 12), 136);
  header.write("        ", 148);
  header.write("0", 156);
  header.write("ustar\0" + "00", 257);
  header.write(
    octal(
      header.reduce((sum, byte) => sum + byte, 0),
      7,
    ) + "\0",
    148,
  );
  const padding = Buffer.alloc((512 - (content.length % 512)) % 512);
  return Buffer.concat([header, content, padding, Buffer.alloc(1024)]);
}

// Writes a layout with one image of random layers for each architecture, and an index if there are several.
// With `history`, it says what made each layer, which schema 1 needs. `bytes` makes the content of a layer. Returns the
// digest that its tag `latest` points to.
export async function writeLayout(
  folder,
  layerSizes,
  architectures = ["amd64"],
  { history = false, bytes = randomBytes } = {},
) {
  await mkdir(path.join(folder, "blobs/sha256"), { recursive: true });
  const put = async (mediaType, bytes, more = {}) => {
    const digest = digestOf(bytes);
    await writeFile(path.join(folder, "blobs/sha256", digest.slice(7)), bytes);
    return { mediaType, digest, size: bytes.length, ...more };
  };
  const json = (value) => Buffer.from(JSON.stringify(value));
  const images = [];
  for (const architecture of architectures) {
    const layers = [];
    const diffIds = [];
    for (const [index, size] of layerSizes.entries()) {
      const archive = tar(`${architecture}-${index}`, bytes(size));
      diffIds.push(digestOf(archive));
      layers.push(await put("application/vnd.oci.image.layer.v1.tar+gzip", gzipSync(archive, { level: 1 })));
    }
    const platform = { architecture, os: "linux" };
    const rootfs = { type: "layers", diff_ids: diffIds };
    const made = layerSizes.map((_, index) => ({ created: "2025-01-01T00:00:00Z", created_by: `layer ${index}` }));
    const content = { ...platform, rootfs, config: {}, ...(history ? { history: made } : {}) };
    const config = await put("application/vnd.oci.image.config.v1+json", json(content));
    const manifest = json({ schemaVersion: 2, mediaType: MANIFEST, config, layers });
    images.push(await put(MANIFEST, manifest, { platform }));
  }
  let top = images[0];
  if (images.length > 1) top = await put(INDEX, json({ schemaVersion: 2, mediaType: INDEX, manifests: images }));
  const annotations = { "org.opencontainers.image.ref.name": "latest" };
  await writeFile(path.join(folder, "oci-layout"), '{"imageLayoutVersion":"1.0.0"}');
  await writeFile(path.join(folder, "index.json"), json({ schemaVersion: 2, manifests: [{ ...top, annotations }] }));
  return top.digest;
}
