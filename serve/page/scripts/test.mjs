// Bundles every `*.test.ts` below the folder that is named and runs them with Node's own test runner. Further words
// choose tests by their file names: `npm run browser -- draw start`.
import { spawnSync } from "node:child_process";
import { mkdir, readdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const page = join(dirname(fileURLToPath(import.meta.url)), "..");
const [folder = "src", ...wanted] = process.argv.slice(2);
const out = join(page, ".work", folder);

/** Paths of all tests below `path`. */
async function testsIn(path) {
  const entries = await readdir(path, { withFileTypes: true });
  const found = await Promise.all(
    entries.map((entry) => {
      const child = join(path, entry.name);
      if (entry.isDirectory()) return testsIn(child);
      const isWanted = wanted.length === 0 || wanted.includes(entry.name.slice(0, -".test.ts".length));
      return entry.name.endsWith(".test.ts") && isWanted ? [child] : [];
    }),
  );
  return found.flat().sort();
}

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
await build({
  absWorkingDir: page,
  entryPoints: await testsIn(join(page, folder)),
  outdir: out,
  outbase: join(page, folder),
  bundle: true,
  packages: "external",
  platform: "node",
  format: "esm",
  target: "node18",
  jsx: "automatic",
  jsxImportSource: "preact",
  outExtension: { ".js": ".mjs" },
  sourcemap: "inline",
  logLevel: "warning",
});
const built = (await readdir(out, { recursive: true })).filter((name) => name.endsWith(".test.mjs")).sort();
const flags = ["--enable-source-maps", "--test", "--test-concurrency=1", "--test-reporter=spec"];
const run = spawnSync(process.execPath, [...flags, ...built.map((name) => join(out, name))], {
  cwd: page,
  stdio: "inherit",
});
process.exit(run.status ?? 1);
