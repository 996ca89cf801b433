/** What people do on the page. */
import assert from "node:assert/strict";
import type { Page } from "playwright-core";

export const APPLE = "a red apple on a blue background";

/** Opens the settings if they are folded away. */
export async function unfold(page: Page, summary: string): Promise<void> {
  const line = page.locator("summary", { hasText: new RegExp(`^${summary}$`) });
  const isOpen = await line.evaluate((element) => (element.parentElement as HTMLDetailsElement).open);
  if (!isOpen) await line.click();
}

/** Steps of a picture of which only the existence matters. */
const FEW_STEPS = "6";

/** Draws `prompt`, in few steps unless the form has others, and waits for the picture. */
export async function draw(page: Page, prompt: string, seed = ""): Promise<void> {
  await page.getByLabel("Prompt", { exact: true }).fill(prompt);
  await page.getByLabel("Seed", { exact: true }).fill(seed);
  const steps = page.getByLabel("Steps", { exact: true });
  if (!(await steps.inputValue())) await steps.fill(FEW_STEPS);
  const before = await tiles(page).count();
  await page.getByRole("button", { name: "Draw", exact: true }).click();
  await tiles(page).nth(before).waitFor();
  await done(page);
}

/** Begins a run that lasts until it is cancelled. */
export async function beginLongRun(page: Page): Promise<void> {
  await page.getByLabel("Prompt", { exact: true }).fill(APPLE);
  await page.getByLabel("Steps", { exact: true }).fill("500");
  await page.getByLabel("Pictures", { exact: true }).fill("60");
  await page.keyboard.press("Control+Enter");
  await page.locator(".forming").waitFor();
}

export const tiles = (page: Page) => page.locator(".tiles .tile");
export const stage = (page: Page) => page.locator("#stage");

export async function done(page: Page, state = "done"): Promise<void> {
  await page.locator(`#stage[data-state=${state}]`).waitFor();
}

/** The pixels of a picture on the page: four bytes each. */
export async function pixels(page: Page, selector: string): Promise<number[]> {
  return page
    .locator(selector)
    .first()
    .evaluate(async (element) => {
      const image = element as HTMLImageElement;
      await image.decode();
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const context = canvas.getContext("2d");
      context?.drawImage(image, 0, 0);
      return [...(context?.getImageData(0, 0, canvas.width, canvas.height).data ?? [])];
    });
}

/** The value of a row of the recipe that is open. */
export async function recipeRow(page: Page, name: string): Promise<string> {
  const row = page.locator(".recipe > div", {
    has: page.locator("dt", { hasText: new RegExp(`^${name}$`) }),
  });
  return (await row.locator("dd").textContent()) ?? "";
}

/** A PNG file that is dropped or pasted. */
export async function transfer(
  page: Page,
  kind: "drop" | "paste",
  bytes: Buffer,
  target = "body",
): Promise<void> {
  await page.locator(target).evaluate(
    (element, { kind, base64 }) => {
      const data = new DataTransfer();
      const content = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
      data.items.add(new File([content], "dropped.png", { type: "image/png" }));
      const options = { bubbles: true, cancelable: true };
      if (kind === "paste")
        element.dispatchEvent(new ClipboardEvent("paste", { ...options, clipboardData: data }));
      else {
        element.dispatchEvent(new DragEvent("dragover", { ...options, dataTransfer: data }));
        element.dispatchEvent(new DragEvent("drop", { ...options, dataTransfer: data }));
      }
    },
    { kind, base64: bytes.toString("base64") },
  );
}

/** The bytes of the newest picture of the gallery. */
export async function newest(url: string): Promise<Buffer> {
  const list = (await (await fetch(`${url}/api/v1/pictures?limit=1`)).json()) as {
    pictures: { url: string }[];
  };
  const [picture] = list.pictures;
  assert.ok(picture);
  return Buffer.from(await (await fetch(url + picture.url)).arrayBuffer());
}
