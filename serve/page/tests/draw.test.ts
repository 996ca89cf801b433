/** Drawing: previews, cancelling, the queue, and a reload or a crash in the middle. */
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { closeBrowser, closePages, openBrowser, visit } from "./support/browser.ts";
import { Server } from "./support/server.ts";
import { APPLE, beginLongRun, done, draw, pixels, stage, tiles } from "./support/steps.ts";

let server: Server;

before(async () => {
  [server] = await Promise.all([Server.start(), openBrowser()]);
});
afterEach(closePages);
after(async () => {
  await Promise.all([closeBrowser(), server.stop()]);
});

test("previews arrive step by step, then the picture", async () => {
  const page = await visit(server.url);
  await page.evaluate(() => {
    const seen = new Set<string>();
    Object.assign(window, { seen });
    new MutationObserver(() => {
      for (const image of document.querySelectorAll<HTMLElement>(".forming"))
        seen.add(image.dataset.step ?? "");
    }).observe(document.body, { childList: true, subtree: true, attributes: true });
  });
  await page.getByLabel("Steps", { exact: true }).fill("80");
  await draw(page, APPLE, "7");
  const seen = await page.evaluate(() => (window as unknown as { seen: Set<string> }).seen.size);
  assert.ok(seen >= 5, `${seen} previews were shown`);
  const drawn = await pixels(page, "#stage .cell img");
  assert.ok(new Set(drawn).size > 50, "the picture is not empty");
  assert.match((await stage(page).locator(".state").textContent()) ?? "", /^1 picture in /);
});

test("the same seed draws the same picture, and Reuse brings a random one back", async () => {
  const page = await visit(server.url);
  await draw(page, APPLE, "7");
  const first = await pixels(page, "#stage .cell img");
  await draw(page, APPLE, "7");
  assert.deepEqual(await pixels(page, "#stage .cell img"), first);
  await draw(page, APPLE);
  const random = await pixels(page, "#stage .cell img");
  assert.notDeepEqual(random, first);
  await page.getByRole("button", { name: "Reuse" }).click();
  assert.match(await page.getByLabel("Seed", { exact: true }).inputValue(), /^\d+$/);
  const count = await tiles(page).count();
  await page.keyboard.press("Control+Enter");
  await tiles(page).nth(count).waitFor();
  await done(page);
  assert.deepEqual(await pixels(page, "#stage .cell img"), random);
});

test("Escape cancels the run", async () => {
  const page = await visit(server.url);
  await beginLongRun(page);
  await page.keyboard.press("Escape");
  await done(page, "cancelled");
  assert.equal(await page.getByRole("button", { name: "Draw", exact: true }).isVisible(), true);
  assert.equal(await page.locator(".forming").count(), 1, "the preview stays");
});

test("a cancelled run goes on where it was", async () => {
  const page = await visit(server.url);
  await beginLongRun(page);
  const step = () =>
    page.evaluate(() => Number(document.querySelector<HTMLElement>(".forming")?.dataset.step));
  await page.waitForFunction(() => Number(document.querySelector<HTMLElement>(".forming")?.dataset.step) > 8);
  await page.keyboard.press("Escape");
  await done(page, "cancelled");
  const cancelledAt = await step();
  await stage(page).getByRole("button", { name: "Go on" }).click();
  await done(page, "running");
  await page.waitForFunction((last) => {
    const now = document.querySelector<HTMLElement>("#stage[data-state=running] .forming");
    return Number(now?.dataset.step) > last;
  }, cancelledAt);
  await page.keyboard.press("Escape");
  await done(page, "cancelled");
});

test("a second run waits in the queue and can be cancelled there", async () => {
  const page = await visit(server.url);
  await beginLongRun(page);
  await page.getByLabel("Prompt", { exact: true }).fill("a cat on a green background");
  await page.getByRole("button", { name: "Add to queue" }).click();
  const waiting = page.locator(".queue li[data-state=waiting]");
  await waiting.waitFor();
  assert.match((await waiting.textContent()) ?? "", /a cat on a green background\s*waiting, next/);
  await waiting.getByRole("button", { name: "Cancel" }).click();
  await waiting.waitFor({ state: "detached" });
  assert.equal(await page.locator("#stage[data-state=running]").count(), 1);
  await page.getByRole("button", { name: "Cancel" }).first().click();
  await done(page, "cancelled");
});

test("a reload in the middle loses nothing", async () => {
  const page = await visit(server.url);
  await beginLongRun(page);
  await page.reload();
  await page.locator(".forming").waitFor();
  const step = await page.locator(".forming").getAttribute("data-step");
  await page.waitForFunction(
    (last) => document.querySelector<HTMLElement>(".forming")?.dataset.step !== last,
    step,
  );
  assert.equal(await page.getByLabel("Prompt", { exact: true }).inputValue(), APPLE);
  assert.equal(await page.getByLabel("Steps", { exact: true }).inputValue(), "500");
  await page.keyboard.press("Escape");
  await done(page, "cancelled");
});

test("a server that dies and comes back is found again, with its pictures", async () => {
  const page = await visit(server.url, {
    expected: /ERR_CONNECTION_REFUSED|ERR_INCOMPLETE|ERR_CONNECTION_RESET|ERR_EMPTY/,
  });
  await draw(page, APPLE, "3");
  const count = await tiles(page).count();
  await beginLongRun(page);
  await server.kill();
  await page.getByText("No connection; trying again.").waitFor();
  await server.run();
  await page.getByText("No connection; trying again.").waitFor({ state: "detached" });
  const entry = page.locator(".queue li[data-state=interrupted]");
  await entry.first().waitFor();
  await page.getByLabel("Steps", { exact: true }).fill("");
  await page.getByLabel("Pictures", { exact: true }).fill("1");
  await draw(page, APPLE, "4");
  assert.ok((await tiles(page).count()) > count);
});
