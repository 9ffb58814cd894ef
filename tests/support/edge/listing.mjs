// A page of a listing may be short, or empty and truncated: only `truncated` says whether there is more.
// https://developers.cloudflare.com/r2/api/workers/workers-api-reference/#r2listoptions ("the actual number of
// objects returned may be less than limit ... use the truncated property").
import { current } from "./log.mjs";
import { chance } from "./rules.mjs";

const MARK = "edge:";

export async function list(bucket, options) {
  const limit = options.limit ?? 1000;
  // A cursor knows where the listing began.
  const { cursor, startAfter, isLate } = options.cursor?.startsWith(MARK)
    ? JSON.parse(options.cursor.slice(MARK.length))
    : options;
  const next = { ...options, cursor, startAfter };
  // No page is empty twice in a row, so that every listing ends.
  if (current().rules.listing !== "short") return bucket.list(next);
  if (!isLate && chance() < 0.3) {
    const page = await bucket.list({ ...next, limit: 1 });
    if (page.objects.length + page.delimitedPrefixes.length === 0) return page;
    const empty = MARK + JSON.stringify({ cursor, startAfter, isLate: true });
    return { objects: [], delimitedPrefixes: [], truncated: true, cursor: empty };
  }
  return bucket.list({ ...next, limit: 1 + Math.floor(chance() * Math.min(limit, 10)) });
}
