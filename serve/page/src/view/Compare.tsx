/** Two pictures in one frame, divided by a line that moves. */
import { useState } from "preact/hooks";
import type { Picture } from "../api/types.ts";
import { close, dialog } from "../state/dialogs.ts";
import { Dialog } from "./Dialog.tsx";

export function Compare({ left, right }: { left: Picture; right: Picture }) {
  const [percent, setPercent] = useState(50);
  const style = { "--divider": `${percent}%`, "--shape": String(left.width / left.height) };
  return (
    <Dialog title="Compare" kind="compare" onClose={close}>
      <div class="compare" style={style}>
        <img src={right.url} alt={`Right: ${right.prompt}, seed ${right.seed}`} />
        <img class="compare-left" src={left.url} alt={`Left: ${left.prompt}, seed ${left.seed}`} />
        <div class="compare-line" aria-hidden />
        <input
          type="range"
          min={0}
          max={100}
          step={1}
          value={percent}
          aria-label="Where the line is"
          aria-valuetext={`${percent} % left picture`}
          onInput={(event) => setPercent(Number(event.currentTarget.value))}
        />
      </div>
      <div class="compare-names">
        <Name picture={left} />
        <button
          type="button"
          class="quiet"
          onClick={() => (dialog.value = { kind: "compare", left: right, right: left })}
        >
          Swap
        </button>
        <Name picture={right} />
      </div>
    </Dialog>
  );
}

function Name({ picture }: { picture: Picture }) {
  return (
    <p>
      {picture.prompt || "Without a prompt"}
      <span class="hint"> seed {picture.seed}</span>
    </p>
  );
}
