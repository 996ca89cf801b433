/** Everyone can use the page: with keys, a screen reader, a phone, without movement, in light and dark. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { after, afterEach, before, test } from "node:test";
import type { Page } from "playwright-core";
import { closeBrowser, closePages, openBrowser, visit } from "./support/browser.ts";
import { Server } from "./support/server.ts";
import { APPLE, draw, stage, tiles, unfold } from "./support/steps.ts";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PHONE = { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true };
let server: Server;

before(async () => {
  [server] = await Promise.all([Server.start(), openBrowser()]);
});
afterEach(closePages);
after(async () => {
  await Promise.all([closeBrowser(), server.stop()]);
});

interface Finding {
  id: string;
  impact: string;
  nodes: { html: string }[];
}

/** Fails if axe finds anything. */
async function check(page: Page): Promise<void> {
  // The browser's own tools may run scripts that the page's policy forbids.
  await page.evaluate(AXE);
  const findings = await page.evaluate(async () => {
    const { axe } = window as unknown as { axe: { run: () => Promise<{ violations: Finding[] }> } };
    return (await axe.run()).violations;
  });
  const told = findings.map(
    ({ id, impact, nodes }) => `${id} (${impact}): ${nodes.map(({ html }) => html).join("\n")}`,
  );
  assert.deepEqual(told, []);
}

for (const colorScheme of ["light", "dark"] as const) {
  test(`axe finds nothing, ${colorScheme}`, async () => {
    const page = await visit(server.url, { colorScheme, reducedMotion: "reduce" });
    await page.locator("#plan").waitFor();
    await check(page);
    await draw(page, APPLE, "7");
    await unfold(page, "More settings");
    await page.getByLabel("Width", { exact: true }).fill("70");
    await page.locator("#width-problem").waitFor();
    await check(page);
    await page.getByLabel("Width", { exact: true }).fill("64");
    await tiles(page).first().click();
    await page.locator(".recipe").waitFor();
    await check(page);
    await page.getByRole("button", { name: "Use as start" }).click();
    await page.getByRole("button", { name: "Paint a mask" }).click();
    await page.locator(".mask-area").waitFor();
    await check(page);
    await page.keyboard.press("Escape");
    await page.getByRole("button", { name: "Models…" }).click();
    await page.locator(".models-dialog").waitFor();
    await check(page);
  });
}

test("nothing is wider than a phone", async () => {
  const page = await visit(server.url, PHONE);
  await unfold(page, "Settings");
  await unfold(page, "More settings");
  await draw(page, APPLE, "7");
  const overflow = () =>
    page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.equal(await overflow(), 0);
  assert.ok(await stage(page).locator("img").first().isVisible());
  await check(page);
  await tiles(page).first().click();
  await page.locator(".recipe").waitFor();
  const dialog = await page.locator(".dialog").boundingBox();
  assert.ok(dialog && dialog.x >= 0 && dialog.x + dialog.width <= PHONE.viewport.width);
  assert.equal(await overflow(), 0);
});

/** Presses Tab until the element that has the focus is called `name`. */
async function tabTo(page: Page, name: RegExp): Promise<void> {
  for (let presses = 0; presses < 80; presses += 1) {
    await page.keyboard.press("Tab");
    const focused = await page.evaluate(() => {
      const element = document.activeElement as HTMLElement | null;
      const label = (element as HTMLInputElement | null)?.labels?.[0]?.textContent;
      return label ?? element?.getAttribute("aria-label") ?? element?.textContent ?? "";
    });
    if (name.test(focused)) return;
  }
  assert.fail(`Tab does not lead to ${name}`);
}

test("everything works with keys alone", async () => {
  const page = await visit(server.url);
  await page.locator("#plan").waitFor();
  await page.keyboard.press("/");
  await page.keyboard.type(APPLE);
  await tabTo(page, /^Steps$/);
  await page.keyboard.type("6");
  await tabTo(page, /^Draw$/);
  await page.keyboard.press("Enter");
  await page.locator("#announcement", { hasText: "The picture is finished." }).waitFor();
  await tabTo(page, new RegExp(`^${APPLE}, seed`));
  await page.keyboard.press("Enter");
  await page.locator(".recipe").waitFor();
  await tabTo(page, /^Use settings$/);
  await page.keyboard.press("Escape");
  await page.locator(".dialog").waitFor({ state: "detached" });
  assert.match(
    await page.evaluate(() => document.activeElement?.className ?? ""),
    /tile/,
    "the focus is back",
  );
  await page.keyboard.press("?");
  await page.getByRole("heading", { name: "Keys" }).waitFor();
});

test("the focus is always visible", async () => {
  const page = await visit(server.url);
  await page.keyboard.press("Tab");
  const width = await page.evaluate(() => getComputedStyle(document.activeElement as Element).outlineWidth);
  assert.notEqual(width, "0px");
});

test("nothing moves for those who asked for that", async () => {
  const page = await visit(server.url, { reducedMotion: "reduce" });
  const moving = await page.evaluate(
    () =>
      [...document.querySelectorAll("*")].filter((element) => {
        const { animationName, transitionDuration } = getComputedStyle(element);
        return animationName !== "none" || transitionDuration.split(", ").some((time) => time !== "0s");
      }).length,
  );
  assert.equal(moving, 0);
});

test("the switch of colours has precedence and is remembered", async () => {
  const page = await visit(server.url, { colorScheme: "light" });
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const light = await ground();
  await page.getByLabel("Colours").selectOption("dark");
  const dark = await ground();
  assert.notEqual(dark, light);
  await page.reload();
  await page.getByLabel("Colours").waitFor();
  assert.equal(await ground(), dark);
});
