// The entry point of the strict edge: the worker's own, over bindings that behave as production's are documented
// to. Each rule stands in a file of its own, with its source.
import { complete } from "./exports.mjs";
import { entrypoint, object } from "./strict.mjs";
import * as worker from "../../../src/cloudflare/entry.mjs";

export default entrypoint(worker.default);
export const Facts = entrypoint(worker.Facts, "Facts");
export const Manifests = entrypoint(worker.Manifests, "Manifests");
export const Blobs = entrypoint(worker.Blobs, "Blobs");
export const EventEndpoint = object(worker.EventEndpoint);
export const MetricsAggregate = object(worker.MetricsAggregate);
export const RepositoryWriter = object(worker.RepositoryWriter);
export const UploadSession = object(worker.UploadSession);

const OBJECTS = ["EventEndpoint", "MetricsAggregate", "RepositoryWriter", "UploadSession"];
complete(worker, ["default", "Facts", "Manifests", "Blobs", ...OBJECTS]);
