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
  const known = new Set(pictures.value.map((picture) => picture.id));
  const fresh = drawn.filter((picture) => !known.has(picture.id));
  if (fresh.length) pictures.value = merge(fresh, pictures.value);
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
