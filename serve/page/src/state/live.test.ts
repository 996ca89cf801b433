import assert from "node:assert/strict";
import { test } from "node:test";
import type { Job, Picture, Preview } from "../api/types.ts";
import { after, share, type Live } from "./live.ts";

const JOB: Job = {
  id: "j1",
  kind: "generate",
  model: "built-in",
  state: "waiting",
  place: 0,
  created: "2026-01-01T00:00:00Z",
  started: null,
  ended: null,
  progress: null,
  pictures: [],
  notes: [],
  error: null,
  request: {},
  resumable: false,
};
const LIVE: Live = { job: JOB, preview: null };
const PROGRESS = { task: "drawing", done: 5, total: 20, image: 0, step: 5, steps: 20, seconds_left: 3 };
const PREVIEW: Preview = { image: 0, step: 5, data: "data:image/png;base64,", width: 8, height: 8 };
const PICTURE: Picture = {
  id: "p1",
  url: "/api/v1/pictures/p1",
  width: 64,
  height: 64,
  seed: "1",
  created: "2026-01-01T00:00:01Z",
  job: "j1",
  prompt: "a cat",
  bytes: 100,
};

test("progress means that the job runs", () => {
  const live = after(LIVE, "progress", PROGRESS);
  assert.equal(live.job.state, "running");
  assert.equal(share(live.job), 0.25);
  assert.equal(LIVE.job.progress, null);
});

test("a finished picture takes the place of its preview", () => {
  const shown = after(LIVE, "preview", PREVIEW);
  assert.equal(shown.preview, PREVIEW);
  const drawn = after(shown, "picture", PICTURE);
  assert.equal(drawn.preview, null);
  assert.deepEqual(drawn.job.pictures, [PICTURE]);
});

test("a picture that is sent twice is there once", () => {
  assert.equal(after(after(LIVE, "picture", PICTURE), "picture", PICTURE).job.pictures.length, 1);
});

test("the end replaces everything that is known", () => {
  const ended = { ...JOB, state: "failed" as const, error: { code: "memory", message: "No." } };
  assert.equal(after(after(LIVE, "progress", PROGRESS), "end", ended).job, ended);
  assert.equal(share(ended), 0);
});
