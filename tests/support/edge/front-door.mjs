// What stands before the worker: bodies above the plan's limit get its own HTML 413, and the worker never runs.
// https://developers.cloudflare.com/workers/platform/limits/#request-limits
const PAGE = `<html>
<head><title>413 Request Entity Too Large</title></head>
<body>
<center><h1>413 Request Entity Too Large</h1></center>
<hr><center>cloudflare</center>
</body>
</html>
`;

export function refuse(request, { frontDoor }) {
  if (!(Number(request.headers.get("content-length")) > frontDoor)) return null;
  return new Response(PAGE, { status: 413, headers: { "content-type": "text/html", connection: "close" } });
}
