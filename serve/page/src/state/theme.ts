/** Light or dark: as the system says, unless the reader chose. */
import { effect, signal } from "@preact/signals";
import { lasting, load, save } from "./storage.ts";

export const THEMES = ["system", "light", "dark"] as const;
export type Theme = (typeof THEMES)[number];

const KEY = "sdq.theme";
const kept = load<Theme>(lasting, KEY);

export const theme = signal<Theme>(kept && THEMES.includes(kept) ? kept : "system");

export function keepTheme(): void {
  effect(() => {
    document.documentElement.dataset.theme = theme.value;
    save(lasting, KEY, theme.value);
  });
}
