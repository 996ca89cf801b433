/** Starting from a picture, and masks. */
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import type { Page } from "playwright-core";
import { closeBrowser, closePages, openBrowser, visit } from "./support/browser.ts";
import { Server } from "./support/server.ts";
import { APPLE, done, draw, newest, pixels, tiles, transfer } from "./support/steps.ts";

const SIDE = 64;
let server: Server;

before(async () => {
  [server] = await Promise.all([Server.start(), openBrowser()]);
});
afterEach(closePages);
after(async () => {
  await Promise.all([closeBrowser(), server.stop()]);
});

async function startFromNewest(page: Page): Promise<void> {
  await tiles(page).first().click();
  await page.getByRole("button", { name: "Use as start" }).click();
  await page.locator(".masked").waitFor();
}

/** Columns of the picture in which `a` and `b` differ. */
function changedColumns(a: number[], b: number[]): Set<number> {
  assert.equal(a.length, b.length);
  const columns = new Set<number>();
  for (const [index, value] of a.entries()) if (value !== b[index]) columns.add(Math.floor(index / 4) % SIDE);
  return columns;
}

async function redrawMasked(page: Page): Promise<number[]> {
  const before = await tiles(page).count();
  await page.getByLabel("Prompt", { exact: true }).fill("a cat on a green background");
  await page.getByRole("button", { name: "Draw", exact: true }).click();
  await tiles(page).nth(before).waitFor();
  await done(page);
  return pixels(page, "#stage .cell img");
}

test("what the mask does not cover stays to the last bit", async () => {
  const page = await visit(server.url);
  await draw(page, APPLE, "7");
  const from = await pixels(page, "#stage .cell img");
  await startFromNewest(page);
  await page.getByRole("button", { name: "Paint a mask" }).click();
  const box = await page.locator(".mask-area canvas").boundingBox();
  assert.ok(box);
  await page.getByLabel("Size", { exact: true }).last().fill("30");
  await page.mouse.move(box.x + box.width * 0.2, box.y + box.height * 0.1);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.2, box.y + box.height * 0.9, { steps: 10 });
  await page.mouse.up();
  await page.getByRole("button", { name: "Use this mask" }).click();
  const changed = changedColumns(from, await redrawMasked(page));
  assert.ok(changed.size > 8, `${changed.size} columns changed`);
  assert.ok(Math.max(...changed) < SIDE / 2, `column ${Math.max(...changed)} changed`);
});

test("a mask is painted with keys alone, taken back and done again", async () => {
  // The test itself reads the canvas.
  const page = await visit(server.url, { expected: /willReadFrequently/ });
  await draw(page, APPLE, "8");
  await startFromNewest(page);
  await page.getByRole("button", { name: "Paint a mask" }).click();
  const canvas = page.getByRole("application");
  await canvas.focus();
  const painted = () =>
    canvas.evaluate((element) => {
      const { width, height } = element as HTMLCanvasElement;
      const data =
        (element as HTMLCanvasElement).getContext("2d")?.getImageData(0, 0, width, height).data ??
        new Uint8ClampedArray();
      return data.reduce((count, value, index) => count + (index % 4 === 3 && value > 0 ? 1 : 0), 0);
    });
  assert.equal(await painted(), 0);
  await page.keyboard.press("Space");
  for (const key of ["ArrowRight", "ArrowRight", "ArrowDown"]) await page.keyboard.press(key);
  assert.match((await canvas.getAttribute("aria-label")) ?? "", /painting/);
  await page.keyboard.press("Space");
  const all = await painted();
  assert.ok(all > 0);
  await page.keyboard.press("Control+z");
  assert.equal(await painted(), 0);
  await page.keyboard.press("Control+Shift+z");
  assert.equal(await painted(), all);
  await page.getByRole("button", { name: "Invert" }).click();
  assert.ok((await painted()) > all);
  await page.getByRole("button", { name: "Clear" }).click();
  assert.equal(await painted(), 0);
  await page.getByRole("button", { name: "Use this mask" }).click();
  await page.getByRole("button", { name: "Paint a mask" }).waitFor();
});

test("picture and mask survive a reload", async () => {
  const page = await visit(server.url);
  await draw(page, APPLE, "9");
  await startFromNewest(page);
  await page.getByRole("button", { name: "Paint a mask" }).click();
  await page.locator(".mask-area canvas").click();
  await page.getByRole("button", { name: "Use this mask" }).click();
  await page.reload();
  await page.getByRole("button", { name: "Edit mask" }).waitFor();
});

test("a pasted picture is the start, in its own shape", async () => {
  const page = await visit(server.url);
  await page.getByLabel("Width", { exact: true }).fill("96");
  await page.getByLabel("Height", { exact: true }).fill("48");
  await draw(page, APPLE, "10");
  const bytes = await newest(server.url);
  const other = await visit(server.url);
  await transfer(other, "paste", bytes);
  await other.getByRole("button", { name: "Start from it" }).click();
  await other.locator(".masked").waitFor();
  const side = (name: string) => other.getByLabel(name, { exact: true }).inputValue();
  assert.deepEqual([await side("Width"), await side("Height")], ["88", "48"]);
  await other.getByLabel("Strength", { exact: true }).fill("0.3");
  await draw(other, APPLE, "10");
});

test("a file is chosen by a button, and can be removed", async () => {
  const page = await visit(server.url);
  await draw(page, APPLE, "11");
  const buffer = await newest(server.url);
  const [chooser] = await Promise.all([
    page.waitForEvent("filechooser"),
    page.getByRole("button", { name: "Start from a picture…" }).click(),
  ]);
  await chooser.setFiles({ name: "mine.png", mimeType: "image/png", buffer });
  await page.getByText("mine.png, 64 × 64").waitFor();
  await page.getByRole("button", { name: "Remove picture" }).click();
  await page.getByRole("button", { name: "Start from a picture…" }).waitFor();
});

test("a file that is no picture is refused in a sentence", async () => {
  const page = await visit(server.url);
  await transfer(page, "drop", Buffer.from("no picture"));
  await page.getByRole("button", { name: "Start from it" }).click();
  await page.getByText("The browser cannot read this picture.").waitFor();
});
