import assert from "node:assert/strict";
import { test } from "node:test";
import { changeWeight } from "./weights.ts";

/** Presses the keys on `text`, in which `|` marks the cursor or both ends of the selection. */
function press(marked: string, ...steps: number[]): string {
  const [before = "", middle = "", after] = marked.split("|");
  let text = before + middle + (after ?? "");
  let selection: [number, number] =
    after === undefined ? [before.length, before.length] : [before.length, before.length + middle.length];
  for (const step of steps) {
    const edit = changeWeight(text, selection, step);
    if (!edit) return text;
    text = text.slice(0, edit.start) + edit.insert + text.slice(edit.end);
    selection = edit.select;
  }
  return text;
}

test("the word at the cursor gets a weight", () => {
  assert.equal(press("a red ap|ple, blue", 1), "a red (apple:1.1), blue");
  assert.equal(press("a red ap|ple, blue", -1), "a red (apple:0.9), blue");
  assert.equal(press("apple|", 1), "(apple:1.1)");
  assert.equal(press("|apple", 1), "(apple:1.1)");
});

test("the selection gets a weight, without the spaces at its ends", () => {
  assert.equal(press("a| red apple |on blue", 1), "a (red apple:1.1) on blue");
});

test("steps add up, and a weight of 1 has no brackets", () => {
  assert.equal(press("a |cat| sits", 1, 1, 1), "a (cat:1.3) sits");
  assert.equal(press("a |cat| sits", 1, -1), "a cat sits");
  assert.equal(press("a (c|at:0.9) sits", 1), "a cat sits");
  assert.equal(press("|(cat:1.2)|", 1), "(cat:1.3)");
});

test("the innermost weight changes", () => {
  assert.equal(press("((big c|at:1.2) on blue:0.8)", 1), "((big cat:1.3) on blue:0.8)");
  assert.equal(press("((big cat:1.2) on bl|ue:0.8)", 1), "((big cat:1.2) on blue:0.9)");
});

test("brackets without a weight are words' surroundings", () => {
  assert.equal(press("(c|at)", 1), "((cat:1.1))");
});

test("weights stay between 0 and 10", () => {
  assert.equal(press("(c|at:0.05)", -1), "(cat:0)");
  assert.equal(press("(c|at:10)", 1), "(cat:10)");
});

test("the multiplier of a tag moves", () => {
  assert.equal(press("a cat <lora:in|k:0.8>", 1), "a cat <lora:ink:0.85>");
  assert.equal(press("a cat <lora:in|k>", -1), "a cat <lora:ink:0.95>");
});

test("nothing happens where there is no word", () => {
  assert.equal(press("a ,| b", 1), "a , b");
  assert.equal(press("|", 1), "");
});
