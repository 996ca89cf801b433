/** What events say about a job, in values that never change: each event makes a new one. */
import type { JobEvents } from "../api/events.ts";
import type { Job, Preview } from "../api/types.ts";

export interface Live {
  job: Job;
  /** The estimate of the picture that is being drawn. */
  preview: Preview | null;
}

/** `live` after an event. */
export function after<K extends keyof JobEvents>(live: Live, kind: K, event: JobEvents[K]): Live {
  switch (kind) {
    case "job":
    case "end":
      return { ...live, job: event as Job };
    case "progress":
      return { ...live, job: { ...live.job, state: "running", progress: event as JobEvents["progress"] } };
    case "preview":
      return { ...live, preview: event as Preview };
    case "picture":
      return withPicture(live, event as JobEvents["picture"]);
    case "note":
      return { ...live, job: { ...live.job, notes: [...live.job.notes, (event as JobEvents["note"]).text] } };
  }
  return live;
}

/** A connection that was lost sends the same pictures again. */
function withPicture(live: Live, picture: JobEvents["picture"]): Live {
  if (live.job.pictures.some((known) => known.id === picture.id)) return live;
  return { preview: null, job: { ...live.job, pictures: [...live.job.pictures, picture] } };
}

export const isActive = (job: Job): boolean => job.state === "waiting" || job.state === "running";

/** The share of a job that is done, from 0 to 1. */
export function share(job: Job): number {
  if (job.state === "done") return 1;
  const { done = 0, total = 0 } = job.progress ?? {};
  return total > 0 ? Math.min(1, done / total) : 0;
}
