// A webhook receiver on this machine, which does with each request what it is told.
import http from "node:http";

const MIB = 1024 * 1024;

export class Receiver {
  // Every request so far: { method, url, headers, body, events, mode, at }.
  requests = [];

  // `mode` is asked for each request, by its record, what to do:
  //
  //   "ok"                204
  //   a number            this status
  //   "hang"              no answer
  //   "close"             closes the connection without an answer
  //   { slow: ms }        204, after so long
  //   { redirect, status }  this status, by default 307, to this URL
  //   { megabytes }       200 with so many megabytes
  //   { status, headers }  this status with these headers
  static async start(mode = () => "ok") {
    const receiver = new Receiver();
    receiver.mode = mode;
    await receiver.listen(0);
    return receiver;
  }

  async listen(port) {
    this.server = http.createServer((request, response) => {
      // A sender that is killed breaks its request off.
      this.#receive(request, response).catch(() => response.destroy());
    });
    this.server.keepAliveTimeout = 1000;
    await new Promise((resolve) => this.server.listen(port, "127.0.0.1", resolve));
    this.port = this.server.address().port;
    this.url = `http://127.0.0.1:${this.port}`;
  }

  // Ends every connection, and listens no more.
  async stop() {
    const closed = new Promise((resolve) => this.server.close(resolve));
    this.server.closeAllConnections();
    await closed;
  }

  // Listens on the same port again.
  resume() {
    return this.listen(this.port);
  }

  // The events of the requests that were answered with success.
  taken() {
    return this.requests.filter(({ isTaken }) => isTaken).flatMap(({ events }) => events);
  }

  async #receive(request, response) {
    request.on("error", () => {});
    response.on("error", () => {});
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    const { method, url, headers } = request;
    const record = { method, url, headers, body, events: eventsOf(body), at: Date.now() };
    record.mode = this.mode(record);
    this.requests.push(record);
    this.#answer(record, response).catch(() => response.destroy());
  }

  async #answer(record, response) {
    const { mode } = record;
    if (mode === "hang") return;
    if (mode === "close") return response.socket.destroy();
    if (mode === "ok") return this.#take(record, response, 204);
    if (typeof mode === "number") return void response.writeHead(mode).end();
    if (mode.slow !== undefined) {
      await new Promise((resolve) => setTimeout(resolve, mode.slow));
      return this.#take(record, response, 204);
    }
    if (mode.redirect) return void response.writeHead(mode.status ?? 307, { location: mode.redirect }).end();
    if (mode.megabytes) {
      record.isTaken = true;
      response.writeHead(200);
      for (let sent = 0; sent < mode.megabytes && !response.destroyed; sent++) {
        if (!response.write(Buffer.alloc(MIB))) await new Promise((resolve) => response.once("drain", resolve));
        record.sent = sent + 1;
      }
      return void response.end();
    }
    response.writeHead(mode.status, mode.headers).end();
  }

  #take(record, response, status) {
    record.isTaken = true;
    response.writeHead(status).end();
  }
}

// Those of an envelope, or the one of a CloudEvents request.
function eventsOf(body) {
  try {
    const json = JSON.parse(body);
    return json.events ?? [json];
  } catch {
    return [];
  }
}
