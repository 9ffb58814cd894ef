// A client that is cut off: its body ends with an error after so many bytes, and no answer reaches it.
const error = () => new Error("Network connection lost.");

export function cutRequest(request, bytes, waitUntil) {
  const { readable, writable } = new IdentityTransformStream();
  const pump = async () => {
    const writer = writable.getWriter();
    let left = bytes;
    for await (const chunk of request.body) {
      if (chunk.length > left) break;
      left -= chunk.length;
      await writer.write(chunk);
    }
    await writer.abort(error());
  };
  waitUntil(pump().catch(() => {}));
  const { method, headers } = request;
  return new Request(request.url, { method, headers, body: readable });
}

// The answer that the client no longer hears.
export function cutAnswer(answer) {
  answer.body?.cancel().catch(() => {});
  return new Response("the client was cut off", { status: 499 });
}
