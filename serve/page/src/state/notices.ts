/** Short messages at the edge of the page, and sentences for screen readers. */
import { signal } from "@preact/signals";
import { ApiError } from "../api/client.ts";
import { sentence } from "../text/format.ts";

export interface Notice {
  id: number;
  text: string;
  error: boolean;
}

export const notices = signal<Notice[]>([]);

/** Read aloud by screen readers when it changes. */
export const announcement = signal("");

const SHOWN_MS = 8000;
let next = 0;

export function notify(text: string, error = false): void {
  const notice = { id: (next += 1), text, error };
  notices.value = [...notices.value.filter((shown) => shown.text !== text), notice];
  if (!error) setTimeout(() => dismiss(notice.id), SHOWN_MS);
}

export function dismiss(id: number): void {
  notices.value = notices.value.filter((notice) => notice.id !== id);
}

export function announce(text: string): void {
  announcement.value = text;
}

export function describe(reason: unknown): string {
  if (reason instanceof ApiError) return sentence(reason.message);
  return reason instanceof Error ? reason.message : String(reason);
}

/** Runs `action` and shows why it failed. */
export async function attempt(action: () => Promise<unknown>): Promise<void> {
  try {
    await action();
  } catch (reason) {
    notify(describe(reason), true);
  }
}
