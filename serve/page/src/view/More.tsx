/** Settings that are rarely changed. */
import { fields, set } from "../state/form.ts";
import { model, schedulers, status } from "../state/server.ts";
import { describedBy, Field, FlagField, NumberField, SelectField } from "./Field.tsx";

const CACHES = [
  ["", "None"],
  ["deepcache:2", "DeepCache, every 2nd step"],
  ["deepcache:3", "DeepCache, every 3rd step"],
  ["guidance:2", "Guidance, every 2nd step"],
  ["guidance:3", "Guidance, every 3rd step"],
] as const;

function Cache() {
  const { cache } = fields.value;
  const known = CACHES.some(([value]) => value === cache);
  return (
    <SelectField name="cache" label="Step cache" hint="Faster, and not quite the same picture.">
      {CACHES.map(([value, title]) => (
        <option value={value}>{title}</option>
      ))}
      {!known && <option value={cache}>{cache}</option>}
    </SelectField>
  );
}

function Options() {
  return (
    <Field name="scheduler_options" label="Scheduler options" hint="One on each line, such as eta = 0.5">
      <textarea
        id="scheduler_options"
        rows={2}
        spellcheck={false}
        value={fields.value.scheduler_options}
        onInput={(event) => set({ scheduler_options: event.currentTarget.value })}
        {...describedBy("scheduler_options", true)}
      />
    </Field>
  );
}

export function More() {
  const formats = status.value?.formats ?? ["png"];
  const { variation_strength } = fields.value;
  return (
    <details class="more">
      <summary>More settings</summary>
      <div class="pair">
        <SelectField name="sigma_schedule" label="Sigma schedule">
          <option value="">Default</option>
          {schedulers.value.sigma_schedules.map((entry) => (
            <option value={entry.name}>{entry.title}</option>
          ))}
        </SelectField>
        <NumberField name="clip_skip" label="Clip skip" usual="model's" />
      </div>
      <div class="pair">
        <NumberField name="guidance_rescale" label="Guidance rescale" usual={0} step={0.05} />
        <SelectField name="format" label="File format">
          {formats.map((format) => (
            <option value={format}>{format.toUpperCase()}</option>
          ))}
        </SelectField>
      </div>
      <div class="pair">
        <NumberField name="variation_strength" label="Variation strength" usual={0} step={0.05} />
        <Field name="variation_seed" label="Variation seed">
          <input
            id="variation_seed"
            type="text"
            inputMode="numeric"
            autocomplete="off"
            placeholder="1"
            disabled={!variation_strength}
            value={fields.value.variation_seed}
            onInput={(event) => set({ variation_seed: event.currentTarget.value })}
            {...describedBy("variation_seed")}
          />
        </Field>
      </div>
      <Cache />
      <Options />
      {model.value?.accepts.picture && (
        <NumberField name="image_guidance_scale" label="Image guidance scale" usual="model's" step={0.1} />
      )}
      <FlagField
        name="plain_prompt"
        label="Plain prompt"
        hint="Brackets weigh no words, and LoRAs are not looked for."
      />
    </details>
  );
}
