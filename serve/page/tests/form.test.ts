/** The form: prompts, plan, errors. */
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { closeBrowser, closePages, openBrowser, visit } from "./support/browser.ts";
import { Server } from "./support/server.ts";
import { APPLE, unfold } from "./support/steps.ts";

let server: Server;

before(async () => {
  [server] = await Promise.all([Server.startWithLora("ink"), openBrowser()]);
});
afterEach(closePages);
after(async () => {
  await Promise.all([closeBrowser(), server.stop()]);
});

test("tokens are counted while the prompt is written", async () => {
  const page = await visit(server.url);
  await page.getByLabel("Prompt", { exact: true }).fill(APPLE);
  await page.locator("#prompt-count").waitFor();
  const few = await page.locator("#prompt-count").textContent();
  await page.getByLabel("Prompt", { exact: true }).fill(`${APPLE}, small, and a cat`);
  await page.waitForFunction((text) => document.querySelector("#prompt-count")?.textContent !== text, few);
  const count = (text: string | null) => Number(/^\d+/.exec(text ?? "")?.[0]);
  assert.ok(count(await page.locator("#prompt-count").textContent()) > count(few));
});

test("Ctrl and arrows weigh words, and undo takes it back", async () => {
  const page = await visit(server.url);
  const prompt = page.getByLabel("Prompt", { exact: true });
  await prompt.fill("a cat");
  await prompt.press("End");
  await prompt.press("Control+ArrowUp");
  await prompt.press("Control+ArrowUp");
  assert.equal(await prompt.inputValue(), "a (cat:1.2)");
  await prompt.press("Control+ArrowDown");
  assert.equal(await prompt.inputValue(), "a (cat:1.1)");
  await prompt.press("Control+z");
  assert.equal(await prompt.inputValue(), "a (cat:1.2)");
});

test("a LoRA is completed with Tab", async () => {
  // The server finds nothing in this LoRA and says so.
  const page = await visit(server.url, { expected: /status of 422/ });
  const prompt = page.getByLabel("Prompt", { exact: true });
  await prompt.pressSequentially("a cat <lo");
  await page.getByRole("option", { name: "ink" }).waitFor();
  await prompt.press("Tab");
  assert.equal(await prompt.inputValue(), "a cat <lora:ink:1>");
  assert.equal(await page.locator(".choices").count(), 0);
});

test("the plan follows the settings", async () => {
  const page = await visit(server.url);
  await page.locator("#plan", { hasText: "64 × 64" }).waitFor();
  await page.getByRole("button", { name: "16:9" }).click();
  await page.locator("#plan", { hasText: "88 × 48" }).waitFor();
});

test("the scheduler's advice is below it", async () => {
  const page = await visit(server.url);
  await page.locator("#scheduler-hint").waitFor();
  const advice = await page.locator("#scheduler-hint").textContent();
  await page.getByLabel("Scheduler", { exact: true }).selectOption("unipc");
  await page.waitForFunction(
    (text) => document.querySelector("#scheduler-hint")?.textContent !== text,
    advice,
  );
});

test("the page finds a wrong number itself, and nothing is sent", async () => {
  const page = await visit(server.url);
  await page.getByLabel("Width", { exact: true }).fill("70");
  await page.locator("#width-problem", { hasText: "This is not a multiple of 8." }).waitFor();
  await page.getByRole("button", { name: "Draw", exact: true }).click();
  assert.equal(await page.evaluate(() => document.activeElement?.id), "width");
  assert.equal(await page.locator("#stage[data-state]").count(), 0);
});

test("a sentence of the server is shown at its field", async () => {
  const page = await visit(server.url, { expected: /status of 422/ });
  await page.getByLabel("Pictures", { exact: true }).fill("9999");
  await page.locator("#count-problem").waitFor();
  assert.match((await page.locator("#count-problem").textContent()) ?? "", /\d/);
  await page.getByLabel("Pictures", { exact: true }).fill("1");
  await page.locator("#count-problem").waitFor({ state: "detached" });
});

test("scheduler and sigma schedule are drawn with", async () => {
  const page = await visit(server.url);
  await unfold(page, "More settings");
  await page.getByLabel("Scheduler", { exact: true }).selectOption("euler");
  await page.getByLabel("Sigma schedule").selectOption("karras");
  await page.getByLabel("Prompt", { exact: true }).fill(APPLE);
  await page.getByRole("button", { name: "Draw", exact: true }).click();
  await page.locator("#stage[data-state=done]").waitFor();
  assert.equal(await page.locator("#stage .problem").count(), 0);
});
