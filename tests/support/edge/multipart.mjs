// Incomplete multipart uploads vanish after 7 days:
// https://developers.cloudflare.com/r2/objects/upload-objects/#multipart-upload-details ("Uncompleted multipart
// uploads will be automatically aborted after 7 days"). The error is 10024, NoSuchUpload, of
// https://developers.cloudflare.com/r2/api/error-codes/.
import { now } from "./clock.mjs";
import { ERRORS } from "./faults.mjs";

const LIFETIME = 7 * 24 * 60 * 60 * 1000;
const begun = new Map();

export const begin = (id) => begun.set(id, now());

export function check(id) {
  if (now() - (begun.get(id) ?? now()) >= LIFETIME) throw ERRORS.vanished("multipart");
}

export const save = () => [...begun].slice(-1000);
export function restore(saved) {
  for (const [id, at] of saved) begun.set(id, at);
}
