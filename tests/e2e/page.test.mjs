// The page at `/`, in a real browser.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { find, needs } from "../support/clients.mjs";
import { Registry } from "../support/registry.mjs";

const options = needs("chromium");
let browser;
before(async () => {
  if (options.skip) return;
  const args = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
  ];
  browser = await chromium.launch({ executablePath: find("chromium"), args });
});
after(() => browser?.close());

async function show(vars, use) {
  const registry = await Registry.start({ vars });
  const page = await browser.newPage();
  const problems = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on(
    "console",
    (message) => message.type() === "error" && !/401/.test(message.text()) && problems.push(message.text()),
  );
  try {
    await page.goto(`http://${registry.host}/`, { waitUntil: "networkidle" });
    await use(page, registry);
    assert.deepEqual(problems, []);
  } finally {
    await page.close();
    await registry.stop();
  }
}

test("shows the name, the address, and the commands to push and pull", options, async () => {
  await show({ ANONYMOUS: "push" }, async (page, registry) => {
    assert.equal(await page.textContent("h1"), "Pierhead");
    assert.equal(await page.textContent("#address"), registry.host);
    await page.waitForFunction(() => document.querySelector("#status").textContent === "is up");
    const text = await page.innerText("main");
    for (const command of [
      `docker push ${registry.host}/app:1`,
      `docker pull ${registry.host}/app:1`,
      "--dest-tls-verify=false",
    ]) {
      assert.ok(text.includes(command), command);
    }
    assert.ok(!(await page.isVisible("#login")));
    if (process.env.SCREENSHOT) await page.screenshot({ path: process.env.SCREENSHOT });
  });
});

test("shows that a login is required", options, async () => {
  await show({}, async (page, registry) => {
    await page.waitForSelector("#login:visible");
    assert.ok((await page.innerText("#login")).includes(`docker login ${registry.host}`));
  });
});
