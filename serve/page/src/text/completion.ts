/** Completion of LoRAs and of embeddings' words in a prompt. */

export interface Words {
  loras: string[];
  embeddings: string[];
}

/** Texts that may replace the characters from `start` to the cursor. */
export interface Completion {
  start: number;
  choices: { label: string; insert: string }[];
}

const MAX_CHOICES = 8;
const MIN_WORD = 2;

/** What may follow at `cursor`, or `null`. */
export function complete(text: string, cursor: number, words: Words): Completion | null {
  const before = text.slice(0, cursor);
  return completeTag(before, words.loras) ?? completeWord(before, words.embeddings);
}

/** After `<`, `<lo`, `<lora:` or `<lora:na`: names of LoRAs. */
function completeTag(before: string, loras: string[]): Completion | null {
  const start = before.lastIndexOf("<");
  if (start < 0) return null;
  const typed = before.slice(start).toLowerCase();
  const name = "<lora:".startsWith(typed) ? "" : typed.startsWith("<lora:") ? typed.slice(6) : null;
  if (name === null || /[:>]/.test(name)) return null;
  return found(start, matching(loras, name), (lora) => `<lora:${lora}:1>`);
}

/** After the beginning of an embedding's word: the word. */
function completeWord(before: string, embeddings: string[]): Completion | null {
  const word = /[^\s,()[\]:<>]+$/.exec(before)?.[0] ?? "";
  if (word.length < MIN_WORD) return null;
  const matches = matching(embeddings, word.toLowerCase()).filter((name) => name !== word);
  return found(before.length - word.length, matches, (name) => name);
}

/** Names that begin with `part`, then those that contain it. */
function matching(names: string[], part: string): string[] {
  const rank = (name: string) => name.toLowerCase().indexOf(part);
  const matches = names.filter((name) => rank(name) >= 0);
  return matches
    .sort((a, b) => Math.sign(rank(a)) - Math.sign(rank(b)) || a.localeCompare(b))
    .slice(0, MAX_CHOICES);
}

function found(start: number, names: string[], insert: (name: string) => string): Completion | null {
  if (names.length === 0) return null;
  return { start, choices: names.map((name) => ({ label: name, insert: insert(name) })) };
}
