/** The dialog that is open. */
import { signal } from "@preact/signals";
import type { Picture } from "../api/types.ts";

export type Dialog =
  | { kind: "viewer"; picture: Picture }
  | { kind: "compare"; left: Picture; right: Picture }
  | { kind: "sheet"; pictures: Picture[] }
  | { kind: "mask" }
  | { kind: "dropped"; file: File }
  | { kind: "models" }
  | { kind: "help" };

export const dialog = signal<Dialog | null>(null);

/** The picture that waits for a second one to be compared with. */
export const comparing = signal<Picture | null>(null);

export function close(): void {
  dialog.value = null;
}

/** Opens a picture, or compares it with the one that waits. */
export function open(picture: Picture): void {
  const left = comparing.value;
  comparing.value = null;
  if (left && left.id !== picture.id) dialog.value = { kind: "compare", left, right: picture };
  else dialog.value = { kind: "viewer", picture };
}
