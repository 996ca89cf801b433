/** What the server has: models, schedulers, LoRAs, limits. */
import { computed, effect, signal } from "@preact/signals";
import { connected, get } from "../api/client.ts";
import type { Convertible, Model, Scheduler, SigmaSchedule, Status } from "../api/types.ts";
import { fields } from "./form.ts";
import { attempt } from "./notices.ts";

export const status = signal<Status | null>(null);
export const models = signal<Model[]>([]);
export const convertible = signal<Convertible[]>([]);
export const schedulers = signal<{ schedulers: Scheduler[]; sigma_schedules: SigmaSchedule[] }>({
  schedulers: [],
  sigma_schedules: [],
});
export const loras = signal<string[]>([]);
export const embeddings = signal<string[]>([]);

/** The model of the form, or the first one that can be used. */
export const model = computed<Model | null>(
  () =>
    models.value.find((entry) => entry.id === fields.value.model) ??
    models.value.find((entry) => entry.problem === null) ??
    null,
);

export async function readModels(): Promise<void> {
  const found = await get<{ models: Model[]; convertible?: Convertible[] }>("/models");
  models.value = found.models;
  convertible.value = found.convertible ?? [];
}

/** Reads everything now, and again when a server that was lost answers: it may have been started with other models. */
export function followServer(): void {
  effect(() => {
    if (connected.value) void attempt(readServer);
  });
}

async function readServer(): Promise<void> {
  await Promise.all([
    get<Status>("/status").then((found) => (status.value = found)),
    readModels(),
    get<typeof schedulers.value>("/schedulers").then((found) => (schedulers.value = found)),
    get<{ loras: { name: string }[] }>("/loras").then(
      (found) => (loras.value = found.loras.map((lora) => lora.name)),
    ),
    get<{ embeddings: { word: string }[] }>("/embeddings").then(
      (found) => (embeddings.value = found.embeddings.map((embedding) => embedding.word)),
    ),
  ]);
}
