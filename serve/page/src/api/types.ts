/** What the server's interface `/api/v1` sends and reads. Seeds are texts of digits: they have 64 bits. */

export interface Status {
  version: string;
  device: string;
  threads: number;
  queue: { running: string[]; waiting: number; limit: number };
  memory: { limit: number | null; taken: number };
  formats: string[];
  limits: { count: number; steps: number; width: number; height: number; upload_bytes: number };
}

export interface Model {
  id: string;
  title: string;
  built_in: boolean;
  bytes: number;
  open: boolean;
  family: string | null;
  class_name: string | null;
  fingerprint: string | null;
  weight_types: string[];
  defaults: ModelDefaults | null;
  accepts: { picture: boolean; mask: boolean; needs_picture: boolean; needs_mask: boolean };
  /** Why the file cannot be used. */
  problem: string | null;
}

export interface ModelDefaults {
  width: number;
  height: number;
  steps: number;
  guidance_scale: number;
  scheduler: string;
}

export interface Convertible {
  name: string;
  bytes: number;
}

export interface Scheduler {
  name: string;
  title: string;
  advice: string;
  aliases: string[];
}

export interface SigmaSchedule {
  name: string;
  title: string;
}

/** A picture of the gallery, or the bytes of one. */
export type Source = { picture: string } | { data: string };

/** The description of pictures to draw; what is absent has the model's default. */
export interface Request {
  prompt?: string;
  negative_prompt?: string;
  width?: number;
  height?: number;
  steps?: number;
  scheduler?: string;
  scheduler_options?: Record<string, string>;
  guidance_scale?: number;
  guidance_rescale?: number;
  image_guidance_scale?: number;
  seed?: string;
  variation_seed?: string;
  variation_strength?: number;
  count?: number;
  clip_skip?: number | null;
  plain_prompt?: boolean;
  cache?: string;
  strength?: number;
  mask_blur?: number;
  paste?: boolean;
  start_picture?: Source;
  mask?: Source;
  format?: string;
}

export interface Plan {
  memory_bytes: number;
  available_bytes: number | null;
  fits: boolean;
  seconds: number | null;
  steps: number;
  width: number;
  height: number;
  notes: string[];
}

export interface TokenCount {
  tokens: number;
  chunks: number;
  per_chunk: number;
}

export interface Picture {
  id: string;
  url: string;
  width: number;
  height: number;
  seed: string;
  created: string;
  job: string;
  prompt: string;
  bytes: number;
}

export interface Recipe {
  request: Request;
  program: string | null;
  model: { id: string | null; name: string; fingerprint: string | null; known: boolean };
  notes: string[];
}

export interface Progress {
  task: string;
  done: number;
  total: number;
  image: number;
  step: number;
  steps: number;
  seconds_left: number | null;
}

export type JobState = "waiting" | "running" | "done" | "failed" | "cancelled" | "interrupted";

export interface Job {
  id: string;
  kind: string;
  model: string | null;
  state: JobState;
  /** 0 for the next one to run. */
  place: number | null;
  created: string;
  started: string | null;
  ended: string | null;
  progress: Progress | null;
  pictures: Picture[];
  notes: string[];
  error: { code: string; message: string } | null;
  /** `null` for a conversion. */
  request: Request | null;
  resumable: boolean;
}

/** A picture that is being drawn, as far as it is. */
export interface Preview {
  image: number;
  step: number;
  /** A data URL. */
  data: string;
  width: number;
  height: number;
}
