/** Weights of words in a prompt, `(word:1.1)`, changed from the keyboard as in AUTOMATIC1111's web UI. */

/** A change of a text: the characters from `start` to `end` become `insert`, then `select` is selected. */
export interface Edit {
  start: number;
  end: number;
  insert: string;
  select: [number, number];
}

const STEP = 0.1;
/** Multipliers of `<lora:name:1>` move more slowly. */
const TAG_STEP = 0.05;
const MIN = 0;
const MAX = 10;

const WEIGHTED = /^\((.*):(-?\d+(?:\.\d+)?)\)$/s;
/** Characters between words. */
const BETWEEN = /[\s,.;:()[\]<>]/;

function stepped(weight: number, steps: number, size: number): number {
  const next = Math.round((weight + steps * size) * 100) / 100;
  return Math.min(MAX, Math.max(MIN, next));
}

/** The innermost pair of brackets around `position` that ends in a weight. */
function enclosing(text: string, position: number, open: string, close: string): [number, number] | null {
  let depth = 0;
  for (let start = position - 1; start >= 0; start -= 1) {
    if (text[start] === close) depth += 1;
    else if (text[start] === open && depth > 0) depth -= 1;
    else if (text[start] === open) {
      const end = closing(text, start, open, close);
      return end !== null && end >= position ? [start, end + 1] : null;
    }
  }
  return null;
}

function closing(text: string, start: number, open: string, close: string): number | null {
  let depth = 0;
  for (let end = start; end < text.length; end += 1) {
    if (text[end] === open) depth += 1;
    else if (text[end] === close) depth -= 1;
    if (depth === 0) return end;
  }
  return null;
}

/** The word at `position`, without the spaces and signs around it. */
function wordAt(text: string, position: number): [number, number] {
  let [start, end] = [position, position];
  while (start > 0 && !BETWEEN.test(text[start - 1] ?? " ")) start -= 1;
  while (end < text.length && !BETWEEN.test(text[end] ?? " ")) end += 1;
  return [start, end];
}

/** A tag such as `<lora:ink:0.8>` around `position`, with its multiplier changed. */
function tagEdit(text: string, position: number, steps: number): Edit | null {
  const range = enclosing(text, position, "<", ">");
  if (!range) return null;
  const [start, end] = range;
  const found = /^<([a-z]+:[^:<>]+)(?::(-?\d*\.?\d+))?>$/i.exec(text.slice(start, end));
  if (!found) return null;
  const insert = `<${found[1]}:${stepped(Number(found[2] ?? 1), steps, TAG_STEP)}>`;
  return { start, end, insert, select: [start + insert.length, start + insert.length] };
}

/**
 * Raises (`steps` = 1) or lowers (-1) the weight of the selection, of the brackets around it, or of the word at the
 * cursor. A weight of 1 needs no brackets. `null` if there is no word.
 */
export function changeWeight(text: string, selection: [number, number], steps: number): Edit | null {
  let [from, to] = selection;
  if (from === to) {
    const tag = tagEdit(text, from, steps);
    if (tag) return tag;
  }
  const around = enclosing(text, from, "(", ")");
  const inner = around && WEIGHTED.exec(text.slice(...around));
  if (around && inner && to <= around[1]) {
    return weighted(around, inner[1] ?? "", stepped(Number(inner[2]), steps, STEP));
  }
  if (from === to) [from, to] = wordAt(text, from);
  while (from < to && text[from] === " ") from += 1;
  while (to > from && text[to - 1] === " ") to -= 1;
  if (from === to) return null;
  const chosen = WEIGHTED.exec(text.slice(from, to));
  if (chosen) return weighted([from, to], chosen[1] ?? "", stepped(Number(chosen[2]), steps, STEP));
  return weighted([from, to], text.slice(from, to), stepped(1, steps, STEP));
}

function weighted([start, end]: [number, number], words: string, weight: number): Edit {
  if (weight === 1) return { start, end, insert: words, select: [start, start + words.length] };
  return { start, end, insert: `(${words}:${weight})`, select: [start + 1, start + 1 + words.length] };
}
