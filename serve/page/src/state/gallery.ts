/** The pictures on the server, newest first, read as far as they are looked at. */
import { signal } from "@preact/signals";
import { get, remove } from "../api/client.ts";
import type { Picture } from "../api/types.ts";

const PAGE = 40;

export const pictures = signal<Picture[]>([]);
/** Whether the server has older ones. */
export const more = signal(true);

let reading: Promise<void> | null = null;

/** Reads the next page; at most one at a time. */
export function readMore(): Promise<void> {
  reading ??= readPage().finally(() => (reading = null));
  return reading;
}

async function readPage(): Promise<void> {
  if (!more.value) return;
  const last = pictures.value.at(-1);
  const before = last ? `&before=${last.id}` : "";
  const page = await get<{ pictures: Picture[]; more: boolean }>(`/pictures?limit=${PAGE}${before}`);
  pictures.value = merge(pictures.value, page.pictures);
  more.value = page.more && page.pictures.length > 0;
}

/** Adds pictures that have just been drawn. */
export function add(drawn: Picture[]): void {
  const fresh = addable(drawn, pictures.value, more.value);
  if (fresh.length) pictures.value = merge(fresh, pictures.value);
}

/**
 * Those of `drawn` that are not in the list and belong into the part of it that has been read: the next page begins
 * after the oldest picture of the list, so that an older one would hide those between.
 */
export function addable(drawn: Picture[], list: Picture[], isPartial: boolean): Picture[] {
  const known = new Set(list.map((picture) => picture.id));
  const oldest = isPartial ? Date.parse(list.at(-1)?.created ?? "") : -Infinity;
  return drawn.filter(({ id, created }) => !known.has(id) && Date.parse(created) >= oldest);
}

/** Both lists without doubles, newest first. */
export function merge(a: Picture[], b: Picture[]): Picture[] {
  const known = new Set<string>();
  const all = [...a, ...b].filter(({ id }) => !known.has(id) && known.add(id));
  return all.sort((left, right) => Date.parse(right.created) - Date.parse(left.created));
}

export async function removePicture(id: string): Promise<void> {
  await remove(`/pictures/${id}`);
  pictures.value = pictures.value.filter((picture) => picture.id !== id);
}
