/** The queue and earlier runs, as the server has them; running jobs are watched. */
import { batch, computed, signal } from "@preact/signals";
import { ApiError, connected, get, post, remove } from "../api/client.ts";
import { watch } from "../api/events.ts";
import type { Job, Request } from "../api/types.ts";
import { sentence } from "../text/format.ts";
import { add } from "./gallery.ts";
import { after, isActive, share, type Live } from "./live.ts";
import { announce, attempt, describe, notify } from "./notices.ts";
import { readModels } from "./server.ts";

const LISTED = 60;
/** A browser opens six connections to a server: some stay free for other calls. */
const MAX_WATCHED = 3;
const ACTIVE_MS = 2000;
const IDLE_MS = 15000;
const LOST_MS = 1000;

/** Newest first. */
export const jobs = signal<Live[]>([]);

export const active = computed(() =>
  jobs.value.filter(({ job }) => isActive(job)).sort((a, b) => order(a.job) - order(b.job)),
);
export const ended = computed(() => jobs.value.filter(({ job }) => !isActive(job)));
export const running = computed(() => active.value.find(({ job }) => job.state === "running") ?? null);

/** The job that was asked for last on this page. */
export const own = signal<string | null>(null);

/** The job on the stage: the one that runs, else the last one of this page, else the last one at all. */
export const onStage = computed<Live | null>(() => {
  const drawn = jobs.value.filter(({ job }) => job.kind === "generate");
  return running.value ?? drawn.find(({ job }) => job.id === own.value) ?? drawn[0] ?? null;
});

const watched = new Map<string, () => void>();
let timer: ReturnType<typeof setTimeout> | undefined;

function order(job: Job): number {
  return job.state === "running" ? -1 : (job.place ?? Number.MAX_SAFE_INTEGER);
}

function update(id: string, change: (live: Live) => Live): void {
  jobs.value = jobs.value.map((live) => (live.job.id === id ? change(live) : live));
}

/** Reads the list now, and again after a while. */
export async function refresh(): Promise<void> {
  clearTimeout(timer);
  try {
    const found = await get<{ jobs: Job[] }>(`/jobs?limit=${LISTED}`);
    batch(() => accept(found.jobs));
  } catch (reason) {
    // The header says that the server does not answer.
    if (!(reason instanceof ApiError && reason.silent)) notify(describe(reason), true);
  }
  clearTimeout(timer);
  timer = setTimeout(() => void refresh(), active.value.length || !connected.value ? ACTIVE_MS : IDLE_MS);
}

/** Takes over what the server lists; what is watched is known better already. */
function accept(listed: Job[]): void {
  const known = new Map(jobs.value.map((live) => [live.job.id, live]));
  jobs.value = listed.map((job) => {
    const live = known.get(job.id);
    if (live && watched.has(job.id)) return { ...live, job: { ...live.job, place: job.place } };
    return { job, preview: live?.preview ?? null };
  });
  add(listed.flatMap((job) => job.pictures));
  watchActive();
}

/** Watches the jobs that run now or next. */
function watchActive(): void {
  for (const { job } of active.value) {
    if (watched.size >= MAX_WATCHED) return;
    if (!watched.has(job.id)) watchJob(job.id);
  }
}

function watchJob(id: string): void {
  const stop = () => {
    watched.get(id)?.();
    watched.delete(id);
  };
  const close = watch(
    id,
    (kind, event) => {
      update(id, (live) => after(live, kind, event));
      if (kind === "picture") add([event as Job["pictures"][number]]);
      if (kind === "progress") announceProgress(id);
      if (kind !== "end") return;
      stop();
      announceEnd(event as Job);
      if ((event as Job).kind === "convert") void attempt(readModels);
      void refresh();
    },
    // The next reading of the list watches it again if it is still active.
    () => {
      stop();
      setTimeout(() => void refresh(), LOST_MS);
    },
  );
  watched.set(id, close);
}

let announced = "";

/** Reads out every quarter of a job. */
function announceProgress(id: string): void {
  const live = jobs.value.find(({ job }) => job.id === id);
  const quarter = live ? Math.floor(share(live.job) * 4) : 0;
  const text = `${quarter * 25} % done`;
  if (quarter === 0 || quarter === 4 || text === announced) return;
  announced = text;
  announce(text);
}

function announceEnd(job: Job): void {
  announced = "";
  const count = job.pictures.length;
  if (job.state === "done" && job.kind === "convert") announce("The model is converted.");
  else if (job.state === "done" && count === 1) announce("The picture is finished.");
  else if (job.state === "done") announce(`${count} pictures are finished.`);
  else if (job.state === "cancelled") announce("Cancelled.");
  else if (job.error) announce(sentence(job.error.message));
}

/** Puts a job into the queue. */
export async function draw(model: string | undefined, request: Request): Promise<Job> {
  return enqueue({ kind: "generate", ...(model && { model }), request });
}

export async function convert(source: string, type: string, name: string): Promise<Job> {
  return enqueue({ kind: "convert", source, type, ...(name && { name }) });
}

async function enqueue(body: unknown): Promise<Job> {
  const job = await post<Job>("/jobs", body);
  show(job);
  announce(job.place ? `In the queue, ${job.place} before it.` : "Begun.");
  return job;
}

function show(job: Job): void {
  batch(() => {
    own.value = job.id;
    jobs.value = [{ job, preview: null }, ...jobs.value.filter((live) => live.job.id !== job.id)];
  });
  watchActive();
  void refresh();
}

export async function cancel(id: string): Promise<void> {
  const job = await post<Job>(`/jobs/${id}/cancel`, {});
  update(id, (live) => ({ ...live, job }));
  void refresh();
}

export async function resume(id: string): Promise<void> {
  show(await post<Job>(`/jobs/${id}/resume`, {}));
}

export async function forget(id: string): Promise<void> {
  await remove(`/jobs/${id}`);
  jobs.value = jobs.value.filter(({ job }) => job.id !== id);
  notify("The entry is removed; its pictures stay.");
}

/** Reads the list at once when the page is looked at again. */
export function followVisibility(): void {
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) void refresh();
  });
}
