/** What the buttons do. */
import { signal } from "@preact/signals";
import { ApiError, get, postBytes } from "../api/client.ts";
import type { Picture, Recipe, Request } from "../api/types.ts";
import { shapeOf, type Size } from "../mask/fit.ts";
import { sentence } from "../text/format.ts";
import { close } from "./dialogs.ts";
import { fields, set } from "./form.ts";
import { cancel, draw, running } from "./jobs.ts";
import { attempt, describe, notify } from "./notices.ts";
import { planProblem, refuse } from "./plan.ts";
import { fill, randomSeed, readable, refused, request, size } from "./request.ts";
import { model, models } from "./server.ts";
import { clearStart, sources, start, startFrom, startFromFile, startFromId } from "./start.ts";

/** The seed of the last run, for drawing it again. */
export const lastSeed = signal<string | null>(null);

/** Whether a job is on its way to the server. */
export const sending = signal(false);

/** Draws what the form describes; `changes` have precedence. */
export async function drawForm(changes: Request = {}): Promise<void> {
  if (sending.value) return;
  if (!readable.value) {
    document.querySelector<HTMLElement>("[aria-invalid=true]")?.focus();
    return;
  }
  sending.value = true;
  refused.value = {};
  planProblem.value = null;
  try {
    const seed = request.value.seed ?? randomSeed();
    const pictures = await sources(size.value);
    const sized = start.value ? size.value : {};
    await draw(model.value?.id, { ...request.value, ...sized, seed, ...pictures, ...changes });
    lastSeed.value = seed;
    toStage();
  } catch (reason) {
    if (reason instanceof ApiError && !reason.silent) refuse(reason);
    else notify(describe(reason), true);
  } finally {
    sending.value = false;
  }
}

/** As many pictures as a contact sheet has. */
export const SHEET_COUNT = 9;

/** Cancels the job that runs. */
export function cancelRunning(): void {
  const live = running.value;
  if (live) void attempt(() => cancel(live.job.id));
}

export const recipeOf = (picture: Picture): Promise<Recipe> => get<Recipe>(`/pictures/${picture.id}/recipe`);

/** Takes the settings of a request over into the form, with the picture that it starts from. */
export async function useRequest(settings: Request, modelId?: string): Promise<void> {
  const known = models.value.find((entry) => entry.id === modelId && entry.problem === null);
  if (known) set({ model: known.id });
  fill(settings);
  clearStart();
  if (settings.start_picture && "picture" in settings.start_picture)
    await startFromId(settings.start_picture.picture);
}

/** Takes a recipe's settings over into the form. */
export async function useRecipe(recipe: Recipe): Promise<void> {
  close();
  await useRequest(recipe.request, recipe.model.id ?? undefined);
  const mask = recipe.request.mask ? ["Its mask has to be painted again."] : [];
  notify(["The settings are in the form.", ...mask, ...recipe.notes.map(sentence)].join(" "));
  focusPrompt();
}

export function focusPrompt(): void {
  document.getElementById("prompt")?.focus();
}

/** Draws a picture's recipe once more, with `changes`. */
export async function redraw(picture: Picture, changes: Request): Promise<void> {
  const recipe = await recipeOf(picture);
  await draw(recipe.model.id ?? model.value?.id, { ...recipe.request, count: 1, ...changes });
  close();
  toStage();
}

/** The same settings with another seed, or with several. */
export const drawAgain = (picture: Picture, count = 1): Promise<void> =>
  redraw(picture, { seed: randomSeed(), count });

/** A picture like this one. */
export const vary = (picture: Picture, strength: number): Promise<void> =>
  redraw(picture, { variation_seed: randomSeed(), variation_strength: strength });

export function toStage(): void {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  document.getElementById("stage")?.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "start" });
}

/** Sets the form's size to the shape of the start picture. */
function adoptShape(shape: Size): void {
  const { width, height } = shape;
  set({ width: String(width), height: String(height) });
}

/** Starts from a picture of the gallery, in its size and with its prompt if the form has none. */
export function startFromPicture(picture: Picture): void {
  startFrom(picture);
  adoptShape(picture);
  if (!fields.value.prompt.trim()) set({ prompt: picture.prompt });
  close();
  focusPrompt();
}

/** Starts from a file, in its shape and about the model's usual size. */
export async function startWithFile(file: File): Promise<void> {
  await startFromFile(file);
  const usual = model.value?.defaults ?? size.value;
  if (start.value) adoptShape(shapeOf(start.value, usual));
}

/** Reads the recipe in a file. */
export async function readRecipe(file: File): Promise<void> {
  await useRecipe(await postBytes<Recipe>("/recipe", file));
}
