/** The picture to start from: from a file, the clipboard or the gallery; with a mask if wanted. */
import { useRef, useState } from "preact/hooks";
import { startFromPicture, startWithFile } from "../state/actions.ts";
import { dialog } from "../state/dialogs.ts";
import { pictures } from "../state/gallery.ts";
import { attempt } from "../state/notices.ts";
import { size } from "../state/request.ts";
import { model } from "../state/server.ts";
import { clearStart, hasMask, start, strokes } from "../state/start.ts";
import { FlagField, NumberField } from "./Field.tsx";
import { MaskedPicture } from "./MaskedPicture.tsx";

/** The type under which a picture of the gallery is dragged. */
export const DRAGGED = "application/x-sdq-picture";

function take(event: DragEvent): void {
  const file = event.dataTransfer?.files[0];
  const id = event.dataTransfer?.getData(DRAGGED);
  const picture = pictures.value.find((entry) => entry.id === id);
  if (picture) startFromPicture(picture);
  else if (file) void attempt(() => startWithFile(file));
}

function Choice() {
  const [over, setOver] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  return (
    <div
      class={over ? "start-choice over" : "start-choice"}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        event.stopPropagation();
        setOver(false);
        take(event);
      }}
    >
      <button type="button" class="quiet" onClick={() => input.current?.click()}>
        Start from a picture…
      </button>
      {model.value?.accepts.needs_picture ? (
        <span class="hint">this model needs one</span>
      ) : (
        <span class="hint drop-hint">or drop or paste one</span>
      )}
      <input
        ref={input}
        type="file"
        accept="image/*"
        hidden
        aria-label="Start picture"
        onChange={(event) => {
          const file = event.currentTarget.files?.[0];
          event.currentTarget.value = "";
          if (file) void attempt(() => startWithFile(file));
        }}
      />
    </div>
  );
}

function MaskSettings() {
  if (!hasMask.value) return null;
  return (
    <>
      <NumberField
        name="mask_blur"
        label="Soft edge"
        usual={0}
        hint="Pixels inside the mask over which it fades."
        slider={[0, 64]}
      />
      <FlagField
        name="paste"
        label="Keep the rest exactly"
        hint="Pixels outside the mask stay those of the picture."
      />
    </>
  );
}

export function StartPicture() {
  const from = start.value;
  if (model.value && !model.value.accepts.picture && !from) return null;
  if (!from) return <Choice />;
  const cut = Math.abs(from.width / from.height - size.value.width / size.value.height) > 0.02;
  return (
    <fieldset class="start">
      <legend>Start picture</legend>
      <div class="start-row">
        <MaskedPicture from={from} strokes={strokes.value} />
        <div class="start-actions">
          <p class="hint">
            {from.name}, {from.width} × {from.height}
            {cut && "; its edges are cut to the shape of the new picture"}
          </p>
          {model.value?.accepts.mask !== false && (
            <button type="button" onClick={() => (dialog.value = { kind: "mask" })}>
              {hasMask.value ? "Edit mask" : "Paint a mask"}
            </button>
          )}
          {hasMask.value && (
            <button type="button" class="quiet" onClick={() => (strokes.value = [])}>
              Remove mask
            </button>
          )}
          <button type="button" class="quiet" onClick={clearStart}>
            Remove picture
          </button>
        </div>
      </div>
      <NumberField
        name="strength"
        label="Strength"
        usual={hasMask.value ? 1 : 0.8}
        step={0.05}
        slider={[0, 1]}
        hint="How much is drawn anew, from 0 to 1."
      />
      <MaskSettings />
    </fieldset>
  );
}
