/** Models: the list, and converting a published one. */
import assert from "node:assert/strict";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { closeBrowser, closePages, openBrowser, visit } from "./support/browser.ts";
import { Server } from "./support/server.ts";
import { APPLE, draw, recipeRow, tiles } from "./support/steps.ts";

let models: string;
let server: Server;

before(async () => {
  models = mkdtempSync(join(tmpdir(), "sdq-models-"));
  cpSync(join(process.cwd(), "../../demo/model"), join(models, "emoji"), { recursive: true });
  [server] = await Promise.all([Server.start("--model-dir", models), openBrowser()]);
});
afterEach(closePages);
after(async () => {
  await Promise.all([closeBrowser(), server.stop()]);
  rmSync(models, { recursive: true, force: true });
});

test("a published model is converted and drawn with", async () => {
  const page = await visit(server.url);
  await page.getByRole("button", { name: "Models…" }).click();
  const published = page.locator(".entries li", { hasText: "emoji" }).last();
  await published.getByRole("combobox").selectOption("q8");
  await published.getByRole("button", { name: "Convert" }).click();
  await page.locator("#announcement", { hasText: "The model is converted." }).waitFor();
  await page.getByRole("button", { name: "Models…" }).click();
  // The first model of the folder is the one of a form that names none.
  const converted = page.locator(".entries li", { hasText: "q8" }).first();
  await converted.getByRole("button", { name: "In use" }).waitFor();
  await page.locator(".entries li", { hasText: "built in" }).getByRole("button", { name: "Use" }).click();
  await page.locator("#model-hint", { hasText: "built in" }).waitFor();
  await page.getByLabel("Model", { exact: true }).selectOption("emoji");
  await page.locator("#model-hint", { hasText: "q8" }).waitFor();
  await draw(page, APPLE, "7");
  await tiles(page).first().click();
  assert.doesNotMatch(await recipeRow(page, "Model"), /not here/);
});
