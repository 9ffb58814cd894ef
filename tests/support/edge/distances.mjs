// How far the platform's parts are, in milliseconds. Cloudflare publishes no figures for one place: `far` is a
// reader on another continent than the bucket, as measured from Workers by those who report it; `near` is a
// worker in the bucket's own region.
//
// - read, write: R2 from a request. - fromObject: R2 from a Durable Object, which stands near the bucket.
// - object: a call to a Durable Object. - firstByName: what the first use of an object by its name adds: the
//   name is looked up around the world (https://developers.cloudflare.com/durable-objects/api/namespace/,
//   "newUniqueId ... avoids a round-the-world check").
// - kvHot, kvCold: a key that this location has read within a minute, or not
//   (https://developers.cloudflare.com/kv/concepts/how-kv-works/).
// - queue: a producer's call, which ends when the message is stored.
// - cache: the Cache API, in the same data centre. - s3: another provider's bucket.
const none = {
  read: 0,
  write: 0,
  objectRead: 0,
  objectWrite: 0,
  object: 0,
  firstByName: 0,
  kvHot: 0,
  kvCold: 0,
  queue: 0,
};

export const DISTANCES = {
  none: { ...none, cache: 0, s3: 0 },
  near: {
    read: 2,
    write: 3,
    objectRead: 1,
    objectWrite: 2,
    object: 2,
    firstByName: 5,
    kvHot: 1,
    kvCold: 3,
    queue: 5,
    cache: 1,
    s3: 2,
  },
  "same-continent": {
    read: 30,
    write: 50,
    objectRead: 12,
    objectWrite: 45,
    object: 25,
    firstByName: 150,
    kvHot: 4,
    kvCold: 30,
    queue: 40,
    cache: 3,
    s3: 40,
  },
  far: {
    read: 80,
    write: 120,
    objectRead: 15,
    objectWrite: 60,
    object: 60,
    firstByName: 150,
    kvHot: 5,
    kvCold: 60,
    queue: 80,
    cache: 5,
    s3: 100,
  },
};

export function distance(profile, name, isFromObject) {
  const distances = DISTANCES[profile];
  if (!distances) throw new Error(`edge: no profile ${profile}`);
  if (isFromObject && (name === "read" || name === "write"))
    return distances[name === "read" ? "objectRead" : "objectWrite"];
  return distances[name];
}
