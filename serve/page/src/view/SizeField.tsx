/** Width and height, with the usual shapes of the model. */
import { shapeOf } from "../mask/fit.ts";
import { set } from "../state/form.ts";
import { size } from "../state/request.ts";
import { model } from "../state/server.ts";
import { NumberField } from "./Field.tsx";

const SHAPES = [
  [1, 1],
  [3, 2],
  [2, 3],
  [16, 9],
  [9, 16],
] as const;

export function SizeField() {
  const usual = model.value?.defaults;
  const { width, height } = size.value;
  const swap = () => set({ width: String(height), height: String(width) });
  return (
    <fieldset class="size">
      <legend>Size</legend>
      {usual && (
        <div class="shapes">
          {SHAPES.map(([across, down]) => {
            const shape = across === down ? usual : shapeOf({ width: across, height: down }, usual);
            const pressed = shape.width === width && shape.height === height;
            return (
              <button
                type="button"
                class="chip"
                aria-pressed={pressed}
                title={`${shape.width} × ${shape.height}`}
                onClick={() => set({ width: String(shape.width), height: String(shape.height) })}
              >
                {across}:{down}
              </button>
            );
          })}
        </div>
      )}
      <div class="sides">
        <NumberField name="width" label="Width" usual={usual?.width} step={8} />
        <button type="button" class="quiet" onClick={swap} aria-label="Swap width and height" title="Swap">
          ⇄
        </button>
        <NumberField name="height" label="Height" usual={usual?.height} step={8} />
      </div>
    </fieldset>
  );
}
