/** A prompt with its token count, weights by Ctrl+Up and Ctrl+Down, and completion. */
import { useRef } from "preact/hooks";
import { changeWeight, type Edit } from "../text/weights.ts";
import { fields, set } from "../state/form.ts";
import { tokens } from "../state/plan.ts";
import { Choices, useCompletion } from "./Choices.tsx";
import { describedBy, Problem } from "./Field.tsx";

interface Props {
  name: "prompt" | "negative_prompt";
  label: string;
  rows: number;
  placeholder: string;
}

/** Makes an edit that the browser's own undo can take back. */
function apply(area: HTMLTextAreaElement, edit: Edit): void {
  area.focus();
  area.setSelectionRange(edit.start, edit.end);
  const inserted = document.execCommand("insertText", false, edit.insert);
  if (!inserted) area.setRangeText(edit.insert, edit.start, edit.end, "end");
  area.setSelectionRange(...edit.select);
}

function Count({ name }: { name: Props["name"] }) {
  const count = tokens.value[name];
  if (!count) return null;
  const { tokens: used, chunks, per_chunk } = count;
  return (
    <output
      class="count"
      id={`${name}-count`}
      title="Tokens of this prompt, and how many the model reads at once"
    >
      {used} / {Math.max(1, chunks) * per_chunk}
      <span class="unseen"> tokens</span>
    </output>
  );
}

/** Changes the weight of the words at the cursor; `false` if another key was pressed. */
function weigh(event: KeyboardEvent, area: HTMLTextAreaElement, edit: (change: Edit) => void): boolean {
  const steps = event.key === "ArrowUp" ? 1 : event.key === "ArrowDown" ? -1 : 0;
  if (!steps || !(event.ctrlKey || event.metaKey)) return false;
  const change = changeWeight(area.value, [area.selectionStart, area.selectionEnd], steps);
  if (change) edit(change);
  return true;
}

export function PromptField({ name, label, rows, placeholder }: Props) {
  const ref = useRef<HTMLTextAreaElement>(null);
  const area = () => ref.current as HTMLTextAreaElement;
  const edit = (change: Edit) => {
    apply(area(), change);
    set({ [name]: area().value });
  };
  const completion = useCompletion(area, edit);
  return (
    <div class="field prompt">
      <div class="label-row">
        <label for={name}>{label}</label>
        <Count name={name} />
      </div>
      <textarea
        id={name}
        ref={ref}
        rows={rows}
        placeholder={placeholder}
        value={fields.value[name]}
        spellcheck={false}
        onInput={(event) => {
          set({ [name]: event.currentTarget.value });
          completion.offer();
        }}
        onKeyDown={(event) => {
          if (weigh(event, area(), edit) || completion.onKey(event)) event.preventDefault();
        }}
        onBlur={completion.close}
        {...completion.attributes(name)}
        {...describedBy(name)}
      />
      <Choices of={name} completion={completion} />
      <Problem name={name} />
    </div>
  );
}
