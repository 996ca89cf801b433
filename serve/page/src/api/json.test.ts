import assert from "node:assert/strict";
import { test } from "node:test";
import { parse, stringify } from "./json.ts";

test("seeds keep all their digits", () => {
  const text = '{"seed":18446744073709551615,"variation_seed":9007199254740993,"steps":20}';
  const value = parse(text) as { seed: string; steps: number };
  assert.equal(value.seed, "18446744073709551615");
  assert.equal(value.steps, 20);
  assert.equal(stringify(value), text);
});

test("a prompt that looks like a seed stays as it is", () => {
  const prompt = 'a sign that reads "seed":12 and "variation_seed":"3"';
  assert.deepEqual(parse(stringify({ prompt, seed: "7" })), { prompt, seed: "7" });
  assert.deepEqual(JSON.parse(stringify({ prompt, seed: "7" })), { prompt, seed: 7 });
});
