// At most six calls of an invocation wait at once; further ones queue.
// https://developers.cloudflare.com/workers/platform/limits/#simultaneous-open-connections
export class Waiting {
  #now = 0;
  #queue = [];

  // Waits for a turn. Returns how many wait now.
  async take(limit) {
    if (this.#now >= limit) await new Promise((resolve) => this.#queue.push(resolve));
    else this.#now++;
    return this.#now;
  }

  // Gives the turn to the next in the queue.
  give() {
    const next = this.#queue.shift();
    if (next) next();
    else this.#now--;
  }
}
