import assert from "node:assert/strict";
import { test } from "node:test";
import type { Picture } from "../api/types.ts";
import { addable, merge } from "./gallery.ts";

const picture = (id: string, second: number): Picture => ({
  id,
  url: `/api/v1/pictures/${id}`,
  width: 64,
  height: 64,
  seed: "1",
  created: new Date(second * 1000).toISOString(),
  job: "j",
  prompt: "",
  bytes: 1,
});

test("merged lists are newest first, without doubles", () => {
  const [old, middle, fresh] = [picture("a", 1), picture("b", 2), picture("c", 3)];
  assert.deepEqual(
    merge([old, fresh], [middle, fresh]).map(({ id }) => id),
    ["c", "b", "a"],
  );
});

test("only pictures that are newer than the part that has been read are added", () => {
  const [old, middle, fresh] = [picture("a", 1), picture("b", 2), picture("c", 3)];
  assert.deepEqual(addable([old, middle, fresh], [middle], true), [fresh]);
  assert.deepEqual(addable([old, middle, fresh], [middle], false), [old, fresh]);
  assert.deepEqual(addable([fresh], [], true), [], "the first page will have it");
  assert.deepEqual(addable([fresh], [], false), [fresh]);
});
