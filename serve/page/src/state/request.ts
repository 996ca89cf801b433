/** The request that the form describes. */
import { computed, signal } from "@preact/signals";
import type { Request } from "../api/types.ts";
import { fromRequest, toRequest, type Problems } from "./fields.ts";
import { fields } from "./form.ts";
import { model, schedulers } from "./server.ts";
import { hasMask, start } from "./start.ts";

/** What the server refused, by field. */
export const refused = signal<Problems>({});

const read = computed(() =>
  toRequest(fields.value, {
    start: start.value !== null,
    mask: hasMask.value,
    scheduler: model.value?.defaults?.scheduler,
  }),
);

/** The request without its pictures, and without a seed if that is left to chance. */
export const request = computed(() => read.value.request);

/** A sentence for each field that is wrong. */
export const problems = computed<Problems>(() => ({ ...refused.value, ...read.value.problems }));

/** Whether the page itself finds the form in order. */
export const readable = computed(() => Object.keys(read.value.problems).length === 0);

/** The size of the picture to be drawn. */
export const size = computed(() => {
  const defaults = model.value?.defaults;
  return {
    width: request.value.width ?? defaults?.width ?? 512,
    height: request.value.height ?? defaults?.height ?? 512,
  };
});

/** Fills the form from a recipe. */
export function fill(recipe: Request): void {
  fields.value = fromRequest(recipe, schedulers.value, fields.value);
}

/** A seed that is short enough to read aloud. */
export function randomSeed(): string {
  return String(crypto.getRandomValues(new Uint32Array(1))[0] ?? 0);
}
