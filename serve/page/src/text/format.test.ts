import assert from "node:assert/strict";
import { test } from "node:test";
import { bytes, counted, duration, moment, sentence } from "./format.ts";

test("bytes have three digits", () => {
  assert.equal(bytes(12), "12 bytes");
  assert.equal(bytes(1 << 20), "1.00 MB");
  assert.equal(bytes(999 * 1024), "999 KB");
  assert.equal(bytes(1100 * 1024), "1.07 MB");
  assert.equal(bytes(17 * 2 ** 30), "17.0 GB");
});

test("durations have the units that matter", () => {
  assert.equal(duration(-1), "0.0 s");
  assert.equal(duration(0.44), "0.4 s");
  assert.equal(duration(9.97), "10 s");
  assert.equal(duration(59.6), "1 min");
  assert.equal(duration(200), "3 min 20 s");
  assert.equal(duration(3900), "1 h 5 min");
});

test("a moment of today has no date", () => {
  const now = new Date(2026, 4, 3, 18, 30);
  assert.doesNotMatch(moment(new Date(2026, 4, 3, 9, 5).toISOString(), now), /2026/);
  assert.match(moment(new Date(2026, 4, 2, 9, 5).toISOString(), now), /2026/);
  assert.equal(moment("never", now), "");
});

test("remarks become sentences", () => {
  assert.equal(sentence("not used: a hires pass"), "Not used: a hires pass.");
  assert.equal(sentence("The queue is full."), "The queue is full.");
  assert.equal(sentence("`euler` has no option"), "`euler` has no option.");
});

test("one picture, more pictures", () => {
  assert.equal(counted(1, "picture"), "1 picture");
  assert.equal(counted(9, "picture"), "9 pictures");
});
