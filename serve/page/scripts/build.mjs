// Builds the page into `dist`, or into the folder that is named: `node scripts/build.mjs FOLDER`.
import { copyFile, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const page = join(dirname(fileURLToPath(import.meta.url)), "..");
const out = resolve(process.argv[2] ?? join(page, "dist"));

const assets = join(out, "assets");

await rm(out, { recursive: true, force: true });
await mkdir(assets, { recursive: true });
await build({
  absWorkingDir: page,
  entryPoints: { app: "src/main.tsx" },
  outdir: assets,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["chrome123", "firefox120", "safari17.5"],
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  charset: "utf8",
  logLevel: "warning",
});
await copyFile(join(page, "src", "index.html"), join(out, "index.html"));
await copyFile(join(page, "src", "icon.svg"), join(assets, "icon.svg"));

// The licences of the packages that are part of the page.
const packages = ["preact", "@preact/signals", "@preact/signals-core"];
const texts = packages.map(async (name) => {
  const licence = await readFile(join(page, "node_modules", name, "LICENSE"), "utf8");
  return `${name}\n\n${licence.trim()}\n`;
});
await writeFile(join(assets, "licences.txt"), (await Promise.all(texts)).join("\n\n"));
