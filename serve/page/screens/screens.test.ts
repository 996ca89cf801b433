/** The pictures of docs/server.md. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { Page } from "playwright-core";
import { closeBrowser, openBrowser, visit, type Options } from "../tests/support/browser.ts";
import { Server } from "../tests/support/server.ts";
import { draw, tiles, unfold } from "../tests/support/steps.ts";

const FOLDER = join(process.cwd(), "../../docs/server");
const PROMPTS = [
  "a big dog, pink background",
  "rocket, black background",
  "a house on a yellow background",
  "a robot on a brown background",
  "penguin, blue background",
  "a heart on a white background",
  "a cat on a green background",
];
let server: Server;

before(async () => {
  mkdirSync(FOLDER, { recursive: true });
  [server] = await Promise.all([Server.start(), openBrowser()]);
});
after(async () => {
  await Promise.all([closeBrowser(), server.stop()]);
});

/** Writes what is seen as WebP, which is a fraction of a PNG file. */
async function shot(page: Page, name: string): Promise<void> {
  const png = (await page.screenshot()).toString("base64");
  const url = await page.evaluate(async (data) => {
    const image = new Image();
    image.src = `data:image/png;base64,${data}`;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.width, image.height];
    canvas.getContext("2d")?.drawImage(image, 0, 0);
    return canvas.toDataURL("image/webp", 0.9);
  }, png);
  writeFileSync(join(FOLDER, `${name}.webp`), Buffer.from(url.slice(url.indexOf(",") + 1), "base64"));
}

/** Waits for a run's middle, where the picture can be guessed. */
async function middle(page: Page): Promise<void> {
  await page.waitForFunction(
    () => Number(document.querySelector<HTMLElement>(".forming")?.dataset.step) > 60,
  );
}

async function beginSlowly(page: Page, prompt: string): Promise<void> {
  await page.getByLabel("Prompt", { exact: true }).fill(prompt);
  await page.getByLabel("Steps", { exact: true }).fill("150");
  await page.locator("#plan", { hasText: "about" }).waitFor();
  await page.keyboard.press("Control+Enter");
  await middle(page);
}

test("the page while it draws, light and dark", async () => {
  const options: Options = { viewport: { width: 1200, height: 800 }, colorScheme: "light" };
  const page = await visit(server.url, options);
  for (const [index, prompt] of PROMPTS.entries()) await draw(page, prompt, String(7 + index));
  await beginSlowly(page, "a red apple on a blue background");
  await shot(page, "light");
  await page.keyboard.press("Escape");
  const dark = await visit(server.url, { ...options, colorScheme: "dark" });
  await beginSlowly(dark, "a yellow sun, purple background");
  await shot(dark, "dark");
  await dark.keyboard.press("Escape");
});

test("a picture with its recipe, and a mask", async () => {
  const page = await visit(server.url, { viewport: { width: 1200, height: 800 }, colorScheme: "light" });
  await tiles(page).nth(1).click();
  await page.locator(".recipe").waitFor();
  await shot(page, "recipe");
  await page.getByRole("button", { name: "Use as start" }).click();
  await page.getByRole("button", { name: "Paint a mask" }).click();
  const box = await page.locator(".mask-area canvas").boundingBox();
  if (!box) throw new Error("the mask has no place");
  await page.mouse.move(box.x + box.width * 0.25, box.y + box.height * 0.3);
  await page.mouse.down();
  for (const [x, y] of [
    [0.7, 0.25],
    [0.3, 0.4],
    [0.72, 0.42],
  ] as const) {
    await page.mouse.move(box.x + box.width * x, box.y + box.height * y, { steps: 12 });
  }
  await page.mouse.up();
  await shot(page, "mask");
});

test("a phone", async () => {
  const phone = {
    viewport: { width: 360, height: 720 },
    isMobile: true,
    hasTouch: true,
    deviceScaleFactor: 2,
  };
  const page = await visit(server.url, { ...phone, colorScheme: "light" });
  await unfold(page, "Settings");
  await draw(page, "a red apple on a blue background", "7");
  await page.locator("summary", { hasText: /^Settings$/ }).click();
  await page.locator("#stage").evaluate((stage) => stage.scrollIntoView({ block: "center" }));
  await shot(page, "phone");
});
