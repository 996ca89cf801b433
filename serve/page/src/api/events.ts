/** The events of a job, as the server sends them while it runs. */
import { parse } from "./json.ts";
import type { Job, Picture, Preview, Progress } from "./types.ts";

export interface JobEvents {
  job: Job;
  progress: Progress;
  preview: Preview;
  picture: Picture;
  note: { text: string };
  end: Job;
}

export type Listener = <K extends keyof JobEvents>(kind: K, event: JobEvents[K]) => void;

const KINDS: (keyof JobEvents)[] = ["job", "progress", "preview", "picture", "note", "end"];

/**
 * Watches a job until it ends. The browser itself connects again after a lost connection; `lost` is called if it
 * gives up. Returns a function that stops watching.
 */
export function watch(id: string, listener: Listener, lost: () => void): () => void {
  const source = new EventSource(`/api/v1/jobs/${id}/events`);
  for (const kind of KINDS) {
    source.addEventListener(kind, (event) => {
      if (kind === "end") source.close();
      listener(kind, parse((event as MessageEvent<string>).data) as JobEvents[typeof kind]);
    });
  }
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) lost();
  });
  return () => source.close();
}
