/** The token of a server that wants one. The page keeps none: the server sets a cookie that scripts cannot read. */
import { signal } from "@preact/signals";

/** Whether the page waits for the token. */
export const locked = signal(false);

let waiting: (() => void)[] = [];

/** Resolves when the server has accepted a token. */
export function askForToken(): Promise<void> {
  locked.value = true;
  return new Promise((resolve) => waiting.push(resolve));
}

/** Lets every call that waited try again. */
export function unlock(): void {
  locked.value = false;
  const resumed = waiting;
  waiting = [];
  for (const resume of resumed) resume();
}
