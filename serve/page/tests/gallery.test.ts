/** Pictures and what is done with them: recipes, variations, comparing, contact sheets. */
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { closeBrowser, closePages, openBrowser, visit } from "./support/browser.ts";
import { Server } from "./support/server.ts";
import { APPLE, done, draw, newest, recipeRow, tiles, transfer } from "./support/steps.ts";

let server: Server;

before(async () => {
  [server] = await Promise.all([Server.start(), openBrowser()]);
});
afterEach(closePages);
after(async () => {
  await Promise.all([closeBrowser(), server.stop()]);
});

test("a variation has the seed of its picture and another noise beside it", async () => {
  const page = await visit(server.url);
  await draw(page, APPLE, "7");
  await tiles(page).first().click();
  assert.equal(await recipeRow(page, "Seed"), "7");
  await page.getByRole("button", { name: "Vary" }).click();
  await tiles(page).nth(1).waitFor();
  await done(page);
  await tiles(page).first().click();
  assert.equal(await recipeRow(page, "Seed"), "7");
  assert.equal(await recipeRow(page, "Variation strength"), "0.2");
  assert.match(await recipeRow(page, "Variation seed"), /^\d+$/);
});

test("again draws the same settings with another seed", async () => {
  const page = await visit(server.url);
  await draw(page, "a cat on a green background", "11");
  const before = await tiles(page).count();
  await tiles(page).first().click();
  await page.getByRole("button", { name: "Again, new seed" }).click();
  await tiles(page).nth(before).waitFor();
  await tiles(page).first().click();
  assert.notEqual(await recipeRow(page, "Seed"), "11");
  assert.equal(await page.locator(".dialog h2").textContent(), "a cat on a green background");
});

test("a picture's settings fill the form", async () => {
  const page = await visit(server.url);
  await page.getByLabel("Steps", { exact: true }).fill("9");
  await draw(page, APPLE, "12");
  await page.getByLabel("Prompt", { exact: true }).fill("something else");
  await page.getByLabel("Steps", { exact: true }).fill("");
  await tiles(page).first().click();
  await page.getByRole("button", { name: "Use settings" }).click();
  await page.locator(".dialog").waitFor({ state: "detached" });
  assert.equal(await page.getByLabel("Prompt", { exact: true }).inputValue(), APPLE);
  assert.equal(await page.getByLabel("Steps", { exact: true }).inputValue(), "9");
  assert.equal(await page.getByLabel("Seed", { exact: true }).inputValue(), "12");
});

test("a dropped picture gives its recipe back", async () => {
  const page = await visit(server.url);
  await page.getByLabel("Guidance scale", { exact: true }).fill("2.5");
  await draw(page, APPLE, "13");
  const bytes = await newest(server.url);
  const other = await visit(server.url);
  await transfer(other, "drop", bytes);
  await other.getByRole("button", { name: "Read its recipe" }).click();
  await other.locator(".dialog").waitFor({ state: "detached" });
  assert.equal(await other.getByLabel("Prompt", { exact: true }).inputValue(), APPLE);
  assert.equal(await other.getByLabel("Guidance scale", { exact: true }).inputValue(), "2.5");
  assert.equal(await other.getByLabel("Seed", { exact: true }).inputValue(), "13");
});

test("nine seeds make a contact sheet", async () => {
  const page = await visit(server.url);
  await page.getByLabel("Steps", { exact: true }).fill("4");
  await page.getByLabel("Prompt", { exact: true }).fill(APPLE);
  await page.getByLabel("Seed", { exact: true }).fill("100");
  await page.getByRole("button", { name: "9 seeds" }).click();
  await page.locator("#stage .cell .caption").nth(8).waitFor();
  await done(page);
  const captions = await page.locator("#stage .caption").allTextContents();
  assert.deepEqual(captions, ["100", "101", "102", "103", "104", "105", "106", "107", "108"]);
  await page.locator("details.earlier > summary").click();
  await page.getByRole("button", { name: "Contact sheet" }).first().click();
  assert.equal(await page.locator(".sheet .tile").count(), 9);
  const [download] = await Promise.all([
    page.waitForEvent("download"),
    page.getByRole("button", { name: "Save as one picture" }).click(),
  ]);
  assert.equal(download.suggestedFilename(), "contact-sheet-100.png");
});

test("two pictures are compared with the keyboard", async () => {
  const page = await visit(server.url);
  await draw(page, APPLE, "1");
  await draw(page, APPLE, "2");
  await tiles(page).first().click();
  await page.getByRole("button", { name: "Compare…" }).click();
  await page.getByText("Choose the picture to compare with.").waitFor();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  const line = page.getByLabel("Where the line is");
  await line.focus();
  await page.keyboard.press("Home");
  assert.equal(await line.inputValue(), "0");
  const clip = () => page.locator(".compare-left").evaluate((image) => getComputedStyle(image).clipPath);
  assert.match(await clip(), /100%/);
  await page.keyboard.press("End");
  assert.match(await clip(), /inset\(0px/);
});

test("older pictures are read when the end of the gallery comes near", async () => {
  const page = await visit(server.url);
  await page.getByLabel("Steps", { exact: true }).fill("1");
  await page.getByLabel("Pictures", { exact: true }).fill("50");
  await page.getByLabel("Prompt", { exact: true }).fill(APPLE);
  const before = await tiles(page).count();
  await page.getByRole("button", { name: "Draw", exact: true }).click();
  await tiles(page)
    .nth(before + 49)
    .waitFor();
  await page.reload();
  await tiles(page).nth(39).waitFor();
  await tiles(page).last().scrollIntoViewIfNeeded();
  await tiles(page).nth(49).waitFor();
});

test("a picture is deleted with a second click", async () => {
  const page = await visit(server.url);
  await draw(page, APPLE, "21");
  const count = await tiles(page).count();
  await tiles(page).first().click();
  await page.getByRole("button", { name: "Delete" }).click();
  await page.getByRole("button", { name: "Really delete?" }).click();
  await page.waitForFunction(
    (before) => document.querySelectorAll(".tiles .tile").length === before - 1,
    count,
  );
});
