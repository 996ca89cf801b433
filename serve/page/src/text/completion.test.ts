import assert from "node:assert/strict";
import { test } from "node:test";
import { complete } from "./completion.ts";

const WORDS = { loras: ["blueprint", "ink", "styles/pink"], embeddings: ["bad-hands", "easy"] };

function choices(text: string): string[] {
  return complete(text, text.length, WORDS)?.choices.map((choice) => choice.insert) ?? [];
}

test("a bracket offers every LoRA", () => {
  assert.equal(choices("a cat <").length, 3);
  assert.equal(choices("a cat <lo").length, 3);
  assert.equal(complete("a cat <lo", 9, WORDS)?.start, 6);
});

test("the name narrows the choice, beginnings first", () => {
  assert.deepEqual(choices("a cat <lora:in"), ["<lora:ink:1>", "<lora:blueprint:1>", "<lora:styles/pink:1>"]);
});

test("a finished tag offers nothing", () => {
  assert.deepEqual(choices("a cat <lora:ink:"), []);
  assert.deepEqual(choices("a cat <lora:ink:1>"), []);
  assert.deepEqual(choices("a cat <hypernet:in"), []);
});

test("two letters of an embedding's word offer it", () => {
  assert.deepEqual(choices("photo, ea"), ["easy"]);
  assert.deepEqual(choices("photo, (hands"), ["bad-hands"]);
  assert.deepEqual(choices("photo, e"), []);
  assert.deepEqual(choices("photo, easy"), []);
});
