/** The seed: empty for another one with every run. */
import { lastSeed } from "../state/actions.ts";
import { fields, set } from "../state/form.ts";
import { describedBy, Field } from "./Field.tsx";

export function SeedField() {
  const seed = fields.value.seed;
  return (
    <Field name="seed" label="Seed">
      <div class="with-button">
        <input
          id="seed"
          type="text"
          inputMode="numeric"
          autocomplete="off"
          placeholder="random"
          value={seed}
          onInput={(event) => set({ seed: event.currentTarget.value })}
          {...describedBy("seed")}
        />
        {seed ? (
          <button type="button" class="quiet" onClick={() => set({ seed: "" })}>
            Random
          </button>
        ) : (
          <button
            type="button"
            class="quiet"
            disabled={lastSeed.value === null}
            title={
              lastSeed.value === null ? "No picture has been drawn yet" : `The last one: ${lastSeed.value}`
            }
            onClick={() => set({ seed: lastSeed.value ?? "" })}
          >
            Reuse
          </button>
        )}
      </div>
    </Field>
  );
}
