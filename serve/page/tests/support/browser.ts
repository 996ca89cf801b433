/** A browser whose every page is watched: nothing may fail in it, and nothing may be asked of another server. */
import assert from "node:assert/strict";
import { chromium, type Browser, type BrowserContextOptions, type Page } from "playwright-core";

/** Time for a picture of a debug build on a busy machine. */
const PATIENCE_MS = 30_000;

let browser: Browser | null = null;
let pages: { page: Page; faults: string[] }[] = [];

export async function openBrowser(): Promise<void> {
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    // Tests run as root in containers, where Chromium's sandbox does not work.
    args: ["--no-sandbox", "--disable-dev-shm-usage"],
  });
}

export async function closeBrowser(): Promise<void> {
  await browser?.close();
}

export interface Options extends BrowserContextOptions {
  /** Failed answers that the test provokes. */
  expected?: RegExp;
}

/** Opens the page at `url` as a first visitor. */
export async function visit(url: string, options: Options = {}): Promise<Page> {
  const { expected, ...context } = options;
  if (!browser) throw new Error("the browser is not open");
  const page = await (
    await browser.newContext({ viewport: { width: 1280, height: 860 }, ...context })
  ).newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const faults: string[] = [];
  const fault = (text: string) => {
    if (!expected?.test(text)) faults.push(text);
  };
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") fault(message.text());
  });
  page.on("pageerror", (error) => fault(String(error)));
  page.on("request", (request) => {
    const asked = new URL(request.url());
    if (!["data:", "blob:"].includes(asked.protocol) && asked.origin !== new URL(url).origin)
      fault(`asked ${asked}`);
  });
  pages.push({ page, faults });
  await page.goto(url);
  return page;
}

/** Closes the pages of a test and fails if anything went wrong in them. */
export async function closePages(): Promise<void> {
  const closed = pages;
  pages = [];
  for (const { page } of closed) await page.context().close();
  assert.deepEqual(
    closed.flatMap(({ faults }) => faults),
    [],
  );
}
