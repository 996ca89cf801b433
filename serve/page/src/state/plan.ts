/** Memory and time of the run that the form describes, asked for whenever it changes. */
import { effect, signal } from "@preact/signals";
import { ApiError, connected, post } from "../api/client.ts";
import type { Plan, TokenCount } from "../api/types.ts";
import { sentence } from "../text/format.ts";
import { fields } from "./form.ts";
import type { Problems } from "./fields.ts";
import { readable, refused, request, size } from "./request.ts";
import { model } from "./server.ts";
import { hasMask, standIns, start } from "./start.ts";

export const plan = signal<Plan | null>(null);
/** Why there is no plan, if that is nobody's field. */
export const planProblem = signal<string | null>(null);

export const tokens = signal<{ prompt: TokenCount | null; negative_prompt: TokenCount | null }>({
  prompt: null,
  negative_prompt: null,
});

const PLAN_PAUSE_MS = 350;
const TOKENS_PAUSE_MS = 250;
/** Time until a plan is asked for again whose seconds the server does not know yet. */
const UNMEASURED_PAUSE_MS = 1500;

/** Runs `task` when `pause` milliseconds have passed without another call, and aborts the one before. */
function calm(pause: number, task: (signal: AbortSignal) => Promise<void>): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let running: AbortController | undefined;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      running?.abort();
      running = new AbortController();
      // An aborted call has been replaced; the others report through their own signals.
      task(running.signal).catch(() => undefined);
    }, pause);
  };
}

const readPlan = calm(PLAN_PAUSE_MS, async (signal) => {
  if (!readable.value || !model.value) return;
  try {
    const described = { ...request.value, ...standIns(size.value) };
    plan.value = await post<Plan>("/plan", { model: model.value.id, request: described }, signal);
    planProblem.value = null;
    refused.value = {};
    if (plan.value.fits && plan.value.seconds === null) setTimeout(readPlan, UNMEASURED_PAUSE_MS);
  } catch (reason) {
    if (!(reason instanceof ApiError) || signal.aborted) throw reason;
    plan.value = null;
    if (!reason.silent) refuse(reason);
  }
});

/** Shows a refusal near its field, or under the form. */
export function refuse(reason: ApiError): void {
  const name = reason.field as keyof Problems | null;
  if (name && (name in fields.value || name === "start_picture" || name === "mask")) {
    refused.value = { [name]: sentence(reason.message) };
    planProblem.value = null;
  } else planProblem.value = sentence(reason.message);
}

function countTokens(field: "prompt" | "negative_prompt"): () => void {
  return calm(TOKENS_PAUSE_MS, async (signal) => {
    const prompt = fields.value[field];
    const body = { prompt, ...(model.value && { model: model.value.id }) };
    const counted = prompt.trim() ? await post<TokenCount>("/tokens", body, signal) : null;
    tokens.value = { ...tokens.value, [field]: counted };
  });
}

/** Keeps plan and token counts up to date. */
export function follow(): void {
  effect(() => {
    // Read, so that a change of any of them asks for a new plan.
    void [request.value, model.value, start.value, hasMask.value, connected.value];
    readPlan();
  });
  for (const field of ["prompt", "negative_prompt"] as const) {
    const count = countTokens(field);
    let last = "";
    effect(() => {
      const now = `${model.value?.id}\n${fields.value[field]}`;
      if (now !== last) count();
      last = now;
    });
  }
}
