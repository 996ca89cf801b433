import assert from "node:assert/strict";
import { test } from "node:test";
import { EMPTY, fromRequest, toRequest, type Fields } from "./fields.ts";

const ALONE = { start: false, mask: false };
const MASKED = { start: true, mask: true };
const NAMES = {
  schedulers: [
    { name: "euler", aliases: ["k-euler"] },
    { name: "dpmpp-2m", aliases: [] },
  ],
  sigma_schedules: [{ name: "karras" }, { name: "sgm-uniform" }],
};

const fields = (set: Partial<Fields>): Fields => ({ ...EMPTY, ...set });

test("an empty form leaves everything to the model", () => {
  assert.deepEqual(toRequest(fields({ prompt: "a cat" }), ALONE).request, { prompt: "a cat", count: 1 });
});

test("numbers are read and checked", () => {
  const { request, problems } = toRequest(
    fields({ width: "72", height: "70", steps: "2.5", guidance_scale: "x", count: "0", clip_skip: " 2 " }),
    ALONE,
  );
  assert.equal(request.width, 72);
  assert.equal(request.clip_skip, 2);
  assert.deepEqual(problems, {
    height: "This is not a multiple of 8.",
    steps: "This is not a whole number.",
    guidance_scale: "This is not a number.",
    count: "The range is 1 to 10000.",
  });
});

test("a seed has 64 bits", () => {
  assert.equal(
    toRequest(fields({ seed: "18446744073709551615" }), ALONE).request.seed,
    "18446744073709551615",
  );
  assert.equal(toRequest(fields({ seed: "007" }), ALONE).request.seed, "7");
  assert.ok(toRequest(fields({ seed: "18446744073709551616" }), ALONE).problems.seed);
  assert.ok(toRequest(fields({ seed: "-1" }), ALONE).problems.seed);
});

test("settings of start picture and mask are sent with them only", () => {
  const set = fields({ strength: "0.5", mask_blur: "4", paste: false, image_guidance_scale: "2" });
  assert.deepEqual(toRequest(set, ALONE).request, { prompt: "", count: 1 });
  const { request } = toRequest(set, MASKED);
  assert.equal(request.strength, 0.5);
  assert.equal(request.paste, false);
  assert.equal(request.mask_blur, undefined, "without pasting there is no edge");
});

test("a variation has a strength and a seed", () => {
  assert.equal(toRequest(fields({ variation_strength: "0.2" }), ALONE).request.variation_seed, "1");
  assert.equal(toRequest(fields({ variation_seed: "3" }), ALONE).request.variation_seed, undefined);
  assert.equal(
    toRequest(fields({ variation_seed: "3", variation_strength: "0.2" }), ALONE).request.variation_seed,
    "3",
  );
});

test("options are lines", () => {
  const { request } = toRequest(fields({ scheduler_options: "eta = 0.5\n\nbeta_start: 0.1 \n" }), ALONE);
  assert.deepEqual(request.scheduler_options, { eta: "0.5", beta_start: "0.1" });
  assert.ok(toRequest(fields({ scheduler_options: "eta" }), ALONE).problems.scheduler_options);
});

test("a recipe fills the form and comes out again", () => {
  const request = {
    prompt: "a cat",
    negative_prompt: "dog",
    width: 64,
    height: 128,
    steps: 12,
    scheduler: "dpmpp-2m sgm-uniform",
    scheduler_options: { eta: "0.5" },
    guidance_scale: 7.1,
    seed: "42",
    variation_seed: "7",
    variation_strength: 0.1,
    count: 1,
    clip_skip: 2,
    plain_prompt: true,
    cache: "deepcache:2",
  };
  const filled = fromRequest(request, NAMES, fields({ model: "sd15" }));
  assert.equal(filled.model, "sd15");
  assert.equal(filled.scheduler, "dpmpp-2m");
  assert.equal(filled.sigma_schedule, "sgm-uniform");
  assert.deepEqual(toRequest(filled, ALONE), { request, problems: {} });
});

test("a sigma schedule without a scheduler goes with the model's own", () => {
  const karras = fields({ sigma_schedule: "karras" });
  assert.equal(toRequest(karras, { ...ALONE, scheduler: "euler" }).request.scheduler, "euler karras");
  assert.equal(toRequest(EMPTY, { ...ALONE, scheduler: "euler" }).request.scheduler, undefined);
});

test("aliases and unknown schedulers are kept", () => {
  const scheduler = (name: string) => fromRequest({ scheduler: name }, NAMES, EMPTY);
  assert.equal(scheduler("k-euler karras").scheduler, "euler");
  assert.equal(scheduler("k-euler karras").sigma_schedule, "karras");
  assert.equal(scheduler("euler-sgm-uniform").sigma_schedule, "sgm-uniform");
  assert.equal(scheduler("restart karras").scheduler, "restart karras");
});
