/** The form's fields, kept for later visits. */
import { effect, signal } from "@preact/signals";
import { EMPTY, type Fields } from "./fields.ts";
import { lasting, load, save } from "./storage.ts";

const KEY = "sdq.form";

export const fields = signal<Fields>({ ...EMPTY, ...load<Partial<Fields>>(lasting, KEY) });

export function set(changes: Partial<Fields>): void {
  fields.value = { ...fields.value, ...changes };
}

export function keepForm(): void {
  effect(() => save(lasting, KEY, fields.value));
}
