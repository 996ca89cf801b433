/** What the browser keeps. It may refuse, for example in a private window: the page works without. */

export function load<T>(storage: () => Storage, key: string): T | null {
  try {
    const text = storage().getItem(key);
    return text === null ? null : (JSON.parse(text) as T);
  } catch {
    return null;
  }
}

export function save(storage: () => Storage, key: string, value: unknown): void {
  try {
    if (value === null) storage().removeItem(key);
    else storage().setItem(key, JSON.stringify(value));
  } catch {
    // The value is lost with the page.
  }
}

/** Kept for later visits. */
export const lasting = (): Storage => window.localStorage;
/** Kept while the tab is open. */
export const ofTab = (): Storage => window.sessionStorage;
