/** The settings of the form as they are typed, and the request that they describe. */
import type { Request } from "../api/types.ts";

/** An empty text leaves a setting to the model, or the seed to chance. */
export interface Fields {
  model: string;
  prompt: string;
  negative_prompt: string;
  width: string;
  height: string;
  steps: string;
  scheduler: string;
  sigma_schedule: string;
  scheduler_options: string;
  guidance_scale: string;
  guidance_rescale: string;
  image_guidance_scale: string;
  seed: string;
  variation_seed: string;
  variation_strength: string;
  count: string;
  clip_skip: string;
  plain_prompt: boolean;
  cache: string;
  strength: string;
  mask_blur: string;
  paste: boolean;
  format: string;
}

export const EMPTY: Fields = {
  model: "",
  prompt: "",
  negative_prompt: "",
  width: "",
  height: "",
  steps: "",
  scheduler: "",
  sigma_schedule: "",
  scheduler_options: "",
  guidance_scale: "",
  guidance_rescale: "",
  image_guidance_scale: "",
  seed: "",
  variation_seed: "",
  variation_strength: "",
  count: "1",
  clip_skip: "",
  plain_prompt: false,
  cache: "",
  strength: "",
  mask_blur: "",
  paste: true,
  format: "png",
};

export type Problems = Partial<Record<keyof Fields | "start_picture" | "mask", string>>;

const MAX_SEED = 2n ** 64n - 1n;

interface Rule {
  min: number;
  max: number;
  step?: number;
  whole?: boolean;
}

/** The ranges that hold for every model and server. */
export const RULES: Partial<Record<keyof Fields, Rule>> = {
  width: { min: 8, max: 16384, step: 8, whole: true },
  height: { min: 8, max: 16384, step: 8, whole: true },
  steps: { min: 1, max: 1000, whole: true },
  count: { min: 1, max: 10000, whole: true },
  guidance_scale: { min: 0, max: 1000 },
  guidance_rescale: { min: 0, max: 1 },
  image_guidance_scale: { min: 0, max: 1000 },
  variation_strength: { min: 0, max: 1 },
  clip_skip: { min: 1, max: 64, whole: true },
  strength: { min: 0, max: 1 },
  mask_blur: { min: 0, max: 64, whole: true },
};

type NumberField =
  | "width"
  | "height"
  | "steps"
  | "guidance_scale"
  | "guidance_rescale"
  | "image_guidance_scale"
  | "variation_strength"
  | "count"
  | "clip_skip"
  | "strength"
  | "mask_blur";

const NUMBERS = Object.keys(RULES) as NumberField[];

/** Fields that count only with a start picture, or with a mask. */
const WITH_START: NumberField[] = ["strength", "image_guidance_scale"];

/** What else the request depends on. */
export interface Circumstances {
  start: boolean;
  mask: boolean;
  /** The model's own scheduler. */
  scheduler?: string | undefined;
}

/** The request for `fields`, without its pictures, and a sentence for each field that cannot be read. */
export function toRequest(fields: Fields, with_: Circumstances): { request: Request; problems: Problems } {
  const request: Request = { prompt: fields.prompt };
  const problems: Problems = {};
  if (fields.negative_prompt.trim()) request.negative_prompt = fields.negative_prompt;
  for (const name of NUMBERS) {
    if (WITH_START.includes(name) && !with_.start) continue;
    if (name === "mask_blur" && !(with_.mask && fields.paste)) continue;
    const problem = readNumber(fields[name], RULES[name] as Rule, (value) => (request[name] = value));
    if (problem) problems[name] = problem;
  }
  for (const name of ["seed", "variation_seed"] as const) {
    const text = fields[name].trim();
    if (!text) continue;
    if (/^\d{1,20}$/.test(text) && BigInt(text) <= MAX_SEED) request[name] = BigInt(text).toString();
    else problems[name] = "A seed is a whole number below 2⁶⁴.";
  }
  if (request.variation_strength === undefined) delete request.variation_seed;
  else request.variation_seed ??= "1";
  const scheduler = fields.scheduler || (fields.sigma_schedule && with_.scheduler);
  // A sigma schedule is written after the scheduler's name.
  if (scheduler) request.scheduler = [scheduler, fields.sigma_schedule].filter(Boolean).join(" ");
  const options = readOptions(fields.scheduler_options);
  if (options === null) problems.scheduler_options = "Write one option on each line, such as `eta = 0.5`.";
  else if (Object.keys(options).length) request.scheduler_options = options;
  if (fields.plain_prompt) request.plain_prompt = true;
  if (fields.cache) request.cache = fields.cache;
  if (with_.mask && !fields.paste) request.paste = false;
  if (fields.format && fields.format !== "png") request.format = fields.format;
  return { request, problems };
}

function readNumber(text: string, rule: Rule, set: (value: number) => void): string | null {
  const trimmed = text.trim();
  if (!trimmed) return null;
  const value = Number(trimmed);
  if (!Number.isFinite(value)) return "This is not a number.";
  if (rule.whole && !Number.isInteger(value)) return "This is not a whole number.";
  if (value < rule.min || value > rule.max) return `The range is ${rule.min} to ${rule.max}.`;
  if (rule.step && value % rule.step !== 0) return `This is not a multiple of ${rule.step}.`;
  set(value);
  return null;
}

function readOptions(text: string): Record<string, string> | null {
  const options: Record<string, string> = {};
  for (const line of text.split("\n")) {
    if (!line.trim()) continue;
    const found = /^\s*([\w-]+)\s*[=:]\s*(\S.*?)\s*$/.exec(line);
    if (!found) return null;
    options[found[1] ?? ""] = found[2] ?? "";
  }
  return options;
}

/** The names by which a recipe's scheduler can be found in the form. */
export interface SchedulerNames {
  schedulers: { name: string; aliases: string[] }[];
  sigma_schedules: { name: string }[];
}

const text = (value: number | string | null | undefined): string => (value == null ? "" : String(value));

/** The fields that describe `request`. `format` and the model are not part of a recipe. */
export function fromRequest(request: Request, names: SchedulerNames, now: Fields): Fields {
  const options = Object.entries(request.scheduler_options ?? {});
  return {
    ...EMPTY,
    model: now.model,
    format: request.format ?? now.format,
    prompt: request.prompt ?? "",
    negative_prompt: request.negative_prompt ?? "",
    width: text(request.width),
    height: text(request.height),
    steps: text(request.steps),
    ...splitScheduler(request.scheduler ?? "", names),
    scheduler_options: options.map(([key, value]) => `${key} = ${value}`).join("\n"),
    guidance_scale: text(request.guidance_scale),
    guidance_rescale: text(request.guidance_rescale || null),
    image_guidance_scale: text(request.image_guidance_scale),
    seed: text(request.seed),
    variation_seed: text(request.variation_seed),
    variation_strength: text(request.variation_strength),
    count: text(request.count ?? 1),
    clip_skip: text(request.clip_skip),
    plain_prompt: request.plain_prompt ?? false,
    cache: request.cache && request.cache !== "none" ? request.cache : "",
    strength: text(request.strength),
    mask_blur: text(request.mask_blur),
    paste: request.paste ?? true,
  };
}

function splitScheduler(name: string, names: SchedulerNames): Pick<Fields, "scheduler" | "sigma_schedule"> {
  const own = (wanted: string) =>
    names.schedulers.find((entry) => entry.name === wanted || entry.aliases.includes(wanted))?.name;
  const whole = own(name);
  if (whole) return { scheduler: whole, sigma_schedule: "" };
  const schedule = names.sigma_schedules.find((entry) =>
    [" ", "-"].some((mark) => name.endsWith(mark + entry.name)),
  )?.name;
  const rest = schedule && own(name.slice(0, -schedule.length - 1));
  return rest ? { scheduler: rest, sigma_schedule: schedule } : { scheduler: name, sigma_schedule: "" };
}
