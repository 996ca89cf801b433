/** What the page may load, and the token. */
import assert from "node:assert/strict";
import { after, afterEach, before, test } from "node:test";
import { closeBrowser, closePages, openBrowser, visit } from "./support/browser.ts";
import { Server } from "./support/server.ts";
import { APPLE, draw } from "./support/steps.ts";

const TOKEN = "correct-horse";
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; " +
  "form-action 'none'; base-uri 'none'; frame-ancestors 'none'";
let open: Server;
let closed: Server;

before(async () => {
  [open, closed] = await Promise.all([Server.start(), Server.start("--token", TOKEN), openBrowser()]);
});
afterEach(closePages);
after(async () => {
  await Promise.all([closeBrowser(), open.stop(), closed.stop()]);
});

test("the policy forbids everything that is not the server's own", async () => {
  const response = await fetch(open.url);
  assert.equal(response.headers.get("content-security-policy"), POLICY);
  const html = await response.text();
  assert.doesNotMatch(html, /<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=/);
  assert.doesNotMatch(html, /https?:\/\//);
});

test("the browser enforces it", async () => {
  const page = await visit(open.url, { expected: /Content Security Policy/ });
  const refused = await page.evaluate(async () => {
    const script = document.createElement("script");
    script.textContent = "window.broken = true";
    document.body.append(script);
    const outside = await fetch("https://example.org/").then(
      () => false,
      () => true,
    );
    return outside && !("broken" in window);
  });
  assert.equal(refused, true);
});

test("the token is asked for once", async () => {
  const page = await visit(closed.url, { expected: /status of 401/ });
  const field = page.locator("#token");
  await field.fill("wrong");
  await page.getByRole("button", { name: "Open" }).click();
  await page.getByText("This is not the server's token.").waitFor();
  await field.fill(TOKEN);
  await page.keyboard.press("Enter");
  await page.locator(".token-dialog").waitFor({ state: "detached" });
  await draw(page, APPLE, "7");
  await page.reload();
  await page.locator("#plan").waitFor();
  assert.equal(await page.locator(".token-dialog").count(), 0);
  const kept = await page.evaluate(
    () => JSON.stringify({ ...localStorage, ...sessionStorage }) + document.cookie,
  );
  assert.equal(kept.includes(TOKEN), false, "no script can read the token");
});
