/** Completions of a text area: the focus stays in the text, keys move in the list. */
import { useState } from "preact/hooks";
import { complete, type Completion } from "../text/completion.ts";
import type { Edit } from "../text/weights.ts";
import { embeddings, loras } from "../state/server.ts";

interface Completing {
  shown: Completion | null;
  /** The choice that Enter takes, or -1. */
  chosen: number;
  /** Looks for completions at the cursor. */
  offer: () => void;
  close: () => void;
  accept: (index: number) => void;
  /** Whether the list uses this key. */
  onKey: (event: KeyboardEvent) => boolean;
  /** Of the text area. */
  attributes: (id: string) => Record<string, string | undefined>;
}

export function useCompletion(area: () => HTMLTextAreaElement, edit: (change: Edit) => void): Completing {
  /** Where the cursor is while the list may be shown. */
  const [cursor, setCursor] = useState<number | null>(null);
  const words = { loras: loras.value, embeddings: embeddings.value };
  const shown = cursor === null ? null : complete(area().value, cursor, words);
  const [chosen, setChosen] = useState(-1);
  const count = shown?.choices.length ?? 0;
  const close = () => setCursor(null);
  const accept = (index: number) => {
    const insert = shown?.choices[index]?.insert;
    if (!shown || insert === undefined) return;
    const end = shown.start + insert.length;
    edit({ start: shown.start, end: area().selectionStart, insert, select: [end, end] });
    close();
  };
  const keys: Record<string, () => void> = {
    ArrowDown: () => setChosen((chosen + 1) % count),
    ArrowUp: () => setChosen(chosen <= 0 ? count - 1 : chosen - 1),
    Tab: () => accept(Math.max(0, chosen)),
    // Without a choice Enter is a new line, as everywhere.
    ...(chosen >= 0 && { Enter: () => accept(chosen) }),
    Escape: close,
  };
  return {
    shown,
    chosen,
    close,
    accept,
    offer: () => {
      const { selectionStart, selectionEnd } = area();
      setCursor(selectionStart === selectionEnd ? selectionStart : null);
      setChosen(-1);
    },
    onKey: (event) => {
      const act = keys[event.key];
      if (!shown || !act || event.ctrlKey || event.metaKey || event.shiftKey) return false;
      act();
      return true;
    },
    attributes: (id) => ({
      "aria-autocomplete": "list",
      "aria-controls": shown ? `${id}-choices` : undefined,
      "aria-activedescendant": shown && chosen >= 0 ? `${id}-choice-${chosen}` : undefined,
    }),
  };
}

export function Choices({ of, completion }: { of: string; completion: Completing }) {
  const { shown, chosen, accept } = completion;
  if (!shown) return null;
  return (
    <ul class="choices" id={`${of}-choices`} role="listbox" aria-label="Completions">
      {shown.choices.map((choice, index) => (
        <li
          key={choice.label}
          id={`${of}-choice-${index}`}
          role="option"
          aria-selected={index === chosen}
          // The text area must keep the focus.
          onMouseDown={(event) => event.preventDefault()}
          onClick={() => accept(index)}
        >
          {choice.label}
        </li>
      ))}
    </ul>
  );
}
