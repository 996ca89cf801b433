/** Painting a mask over the start picture, with a pointer or with keys. */
import { useState } from "preact/hooks";
import type { Stroke } from "../mask/strokes.ts";
import { close } from "../state/dialogs.ts";
import { start, strokes as kept } from "../state/start.ts";
import { Dialog } from "./Dialog.tsx";
import { MaskCanvas } from "./MaskCanvas.tsx";

const UNDO_KEYS = ["z", "Z"];
/** Brushes in hundredths of the picture's longer side. */
const [SMALLEST, LARGEST, USUAL] = [1, 50, 12];
/** What [ and ] change the brush by. */
const SIZE_STEP = 2;

interface Tools {
  erase: boolean;
  /** In hundredths of the picture's longer side. */
  size: number;
}

/** The strokes, with what can be taken back and done again. */
function useStrokes() {
  const [strokes, setStrokes] = useState<Stroke[]>(kept.value);
  const [undone, setUndone] = useState<Stroke[]>([]);
  return {
    strokes,
    canRedo: undone.length > 0,
    add: (stroke: Stroke) => {
      setStrokes((now) => [...now, stroke]);
      setUndone([]);
    },
    undo: () => {
      const last = strokes.at(-1);
      if (!last) return;
      setStrokes(strokes.slice(0, -1));
      setUndone([...undone, last]);
    },
    redo: () => {
      const last = undone.at(-1);
      if (!last) return;
      setStrokes([...strokes, last]);
      setUndone(undone.slice(0, -1));
    },
  };
}

interface ToolbarProps {
  tools: Tools;
  setTools: (tools: Tools) => void;
  edits: ReturnType<typeof useStrokes>;
}

function Toolbar({ tools, setTools, edits }: ToolbarProps) {
  return (
    <div class="mask-tools" role="toolbar" aria-label="Mask tools">
      <button type="button" aria-pressed={!tools.erase} onClick={() => setTools({ ...tools, erase: false })}>
        Brush
      </button>
      <button type="button" aria-pressed={tools.erase} onClick={() => setTools({ ...tools, erase: true })}>
        Eraser
      </button>
      <label>
        Size
        <input
          type="range"
          min={SMALLEST}
          max={LARGEST}
          value={tools.size}
          onInput={(event) => setTools({ ...tools, size: Number(event.currentTarget.value) })}
        />
      </label>
      <button
        type="button"
        class="quiet"
        disabled={!edits.strokes.length}
        onClick={edits.undo}
        aria-keyshortcuts="Control+Z"
      >
        Undo
      </button>
      <button
        type="button"
        class="quiet"
        disabled={!edits.canRedo}
        onClick={edits.redo}
        aria-keyshortcuts="Control+Shift+Z"
      >
        Redo
      </button>
      <button type="button" class="quiet" onClick={() => edits.add({ kind: "invert" })}>
        Invert
      </button>
      <button type="button" class="quiet" onClick={() => edits.add({ kind: "clear" })}>
        Clear
      </button>
    </div>
  );
}

export function MaskDialog() {
  const edits = useStrokes();
  const [tools, setTools] = useState<Tools>({ erase: false, size: USUAL });
  const from = start.value;
  if (!from) return null;
  const size = (tools.size / 100) * Math.max(from.width, from.height);
  const accept = () => {
    kept.value = edits.strokes;
    close();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (UNDO_KEYS.includes(event.key) && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      if (event.shiftKey) edits.redo();
      else edits.undo();
    } else if (event.key === "[") setTools({ ...tools, size: Math.max(SMALLEST, tools.size - SIZE_STEP) });
    else if (event.key === "]") setTools({ ...tools, size: Math.min(LARGEST, tools.size + SIZE_STEP) });
    else if (event.key === "e") setTools({ ...tools, erase: !tools.erase });
  };
  return (
    <Dialog title="Mask" kind="mask" onClose={close} onKeyDown={onKeyDown}>
      <p class="hint">
        What is painted is drawn anew, the rest stays. Keys: arrows move the brush, Space puts it down and
        lifts it, [ and ] change its size, E changes to the eraser.
      </p>
      <Toolbar tools={tools} setTools={setTools} edits={edits} />
      <MaskCanvas from={from} strokes={edits.strokes} erase={tools.erase} size={size} add={edits.add} />
      <div class="dialog-foot">
        <button type="button" class="primary" onClick={accept}>
          Use this mask
        </button>
        <button type="button" class="quiet" onClick={close}>
          Never mind
        </button>
      </div>
    </Dialog>
  );
}
