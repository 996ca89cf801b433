/** The picture to start from and its mask. Both survive a reload of the tab. */
import { computed, effect, signal } from "@preact/signals";
import type { Picture, Source } from "../api/types.ts";
import { base64, fitted, fittedMask, loadImage, surface } from "../mask/canvas.ts";
import { within, type Size } from "../mask/fit.ts";
import { paints, type Stroke } from "../mask/strokes.ts";
import { load, ofTab, save } from "./storage.ts";

export interface Start extends Size {
  /** A URL of the server, or a data URL. */
  url: string;
  name: string;
  /** The picture's id, if it is in the gallery. */
  picture: string | null;
}

const KEY = "sdq.start";
/** Files are kept with at most this many pixels on a side. */
const LONGEST = 2048;

const kept = load<{ start: Start; strokes: Stroke[] }>(ofTab, KEY);

export const start = signal<Start | null>(kept?.start ?? null);
export const strokes = signal<Stroke[]>(kept?.strokes ?? []);
export const hasMask = computed(() => start.value !== null && paints(strokes.value));

export function keepStart(): void {
  effect(() => save(ofTab, KEY, start.value && { start: start.value, strokes: strokes.value }));
}

export function clearStart(): void {
  strokes.value = [];
  start.value = null;
}

/** Starts from a picture of the gallery. */
export function startFrom(picture: Picture): void {
  const { url, width, height, id } = picture;
  strokes.value = [];
  start.value = { url, width, height, name: `seed ${picture.seed}`, picture: id };
}

/** Starts from a picture of which only the id is known. */
export async function startFromId(id: string): Promise<void> {
  const url = `/api/v1/pictures/${id}`;
  const { naturalWidth: width, naturalHeight: height } = await loadImage(url);
  strokes.value = [];
  start.value = { url, width, height, name: "the picture before", picture: id };
}

/** Starts from a file; the browser reads it, so that any kind it knows will do. */
export async function startFromFile(file: File): Promise<void> {
  const url = URL.createObjectURL(file);
  try {
    const image = await loadImage(url);
    const size = within({ width: image.naturalWidth, height: image.naturalHeight }, LONGEST);
    const { canvas, context } = surface(size);
    context.drawImage(image, 0, 0, size.width, size.height);
    strokes.value = [];
    start.value = {
      url: canvas.toDataURL("image/png"),
      ...size,
      name: file.name || "pasted picture",
      picture: null,
    };
  } finally {
    URL.revokeObjectURL(url);
  }
}

/** Start picture and mask in the size of the picture to be drawn. */
export async function sources(size: Size): Promise<{ start_picture?: Source; mask?: Source }> {
  const from = start.value;
  if (!from) return {};
  const asItIs = from.picture !== null && from.width === size.width && from.height === size.height;
  const found: { start_picture: Source; mask?: Source } = {
    start_picture: asItIs
      ? { picture: from.picture as string }
      : { data: base64(fitted(await loadImage(from.url), size)) },
  };
  if (hasMask.value) found.mask = { data: base64(fittedMask(strokes.value, from, size)) };
  return found;
}

/** Stand-ins for a plan, which depends on the size alone: empty pictures are small to send. */
export function standIns(size: Size): { start_picture?: Source; mask?: Source } {
  if (!start.value) return {};
  const blank = () => {
    const { canvas, context } = surface(size);
    context.fillStyle = "#fff";
    context.fillRect(0, 0, size.width, size.height);
    return { data: base64(canvas) };
  };
  return { start_picture: blank(), ...(hasMask.value && { mask: blank() }) };
}
