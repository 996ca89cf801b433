/** Everything that describes a picture, the plan, and the button that draws. */
import { signal } from "@preact/signals";
import { cancelRunning, drawForm, SHEET_COUNT, sending } from "../state/actions.ts";
import { dialog } from "../state/dialogs.ts";
import { fields } from "../state/form.ts";
import { running } from "../state/jobs.ts";
import { plan, planProblem } from "../state/plan.ts";
import { model, models, schedulers, status } from "../state/server.ts";
import { randomSeed, readable, request } from "../state/request.ts";
import { bytes, duration, sentence } from "../text/format.ts";
import { NumberField, Problem, SelectField } from "./Field.tsx";
import { More } from "./More.tsx";
import { PromptField } from "./PromptField.tsx";
import { SeedField } from "./SeedField.tsx";
import { SizeField } from "./SizeField.tsx";
import { StartPicture } from "./StartPicture.tsx";

/** On a phone the settings are folded away, so that prompt and picture are close together. */
const unfolded = signal(matchMedia("(min-width: 56rem)").matches);

function ModelField() {
  const chosen = model.value;
  const details =
    chosen &&
    [
      chosen.built_in && "built in",
      chosen.family,
      chosen.weight_types.join(" and "),
      chosen.bytes > 0 && bytes(chosen.bytes),
    ]
      .filter(Boolean)
      .join(", ");
  const missing = fields.value.model && chosen?.id !== fields.value.model;
  return (
    <div class="model">
      <SelectField name="model" label="Model" hint={details}>
        {missing && <option value={fields.value.model}>{fields.value.model} (not here)</option>}
        {!fields.value.model && <option value="">{chosen?.title ?? "…"}</option>}
        {models.value
          .filter((entry) => fields.value.model || entry.id !== chosen?.id)
          .map((entry) => (
            <option value={entry.id} disabled={entry.problem !== null}>
              {entry.title}
              {entry.problem !== null && " (unusable)"}
            </option>
          ))}
      </SelectField>
      <button type="button" class="quiet" onClick={() => (dialog.value = { kind: "models" })}>
        Models…
      </button>
    </div>
  );
}

function SchedulerField() {
  const { scheduler } = fields.value;
  const all = schedulers.value.schedulers;
  const usual = model.value?.defaults?.scheduler;
  const found = all.find((entry) => entry.name === (scheduler || usual));
  return (
    <SelectField name="scheduler" label="Scheduler" hint={found?.advice}>
      <option value="">{usual ? `${usual} (the model's)` : "The model's"}</option>
      {all.map((entry) => (
        <option value={entry.name}>{entry.title}</option>
      ))}
      {scheduler && !all.some((entry) => entry.name === scheduler) && (
        <option value={scheduler}>{scheduler}</option>
      )}
    </SelectField>
  );
}

/** What the run will take. */
function PlanLine() {
  if (planProblem.value)
    return (
      <p class="problem" role="alert">
        {planProblem.value}
      </p>
    );
  const found = plan.value;
  if (!readable.value) return <p class="plan" aria-hidden />;
  if (!found) return <p class="plan">Estimating time and memory…</p>;
  const { seconds, memory_bytes, available_bytes, fits, notes } = found;
  return (
    <div class={fits ? "plan" : "plan tight"}>
      <p id="plan">
        {seconds !== null && <span>about {duration(seconds)}</span>}
        <span>
          {bytes(memory_bytes)}
          {available_bytes !== null && ` of ${bytes(available_bytes)}`}
        </span>
        <span>
          {found.width} × {found.height}
        </span>
      </p>
      {!fits && <p>This does not fit into the memory. Fewer pixels need less.</p>}
      {notes.map((note) => (
        <p class="hint">{sentence(note)}</p>
      ))}
    </div>
  );
}

function Buttons() {
  const limit = status.value?.limits.count ?? SHEET_COUNT;
  const sheet = () => drawForm({ count: SHEET_COUNT, seed: request.value.seed ?? randomSeed() });
  return (
    <div class="buttons">
      <button type="submit" class="primary" disabled={sending.value} aria-keyshortcuts="Control+Enter">
        {running.value ? "Add to queue" : "Draw"}
      </button>
      {limit >= SHEET_COUNT && (
        <button
          type="button"
          disabled={sending.value}
          onClick={() => void sheet()}
          title="A contact sheet: nine seeds side by side"
        >
          9 seeds
        </button>
      )}
      {running.value && (
        <button type="button" class="cancel" onClick={cancelRunning} aria-keyshortcuts="Escape">
          Cancel
        </button>
      )}
    </div>
  );
}

export function Form() {
  const usual = model.value?.defaults;
  return (
    <form
      class="form"
      aria-label="Picture"
      noValidate
      onSubmit={(event) => {
        event.preventDefault();
        void drawForm();
      }}
    >
      <div class="scrolled">
        <PromptField name="prompt" label="Prompt" rows={3} placeholder="a red apple on a blue background" />
        <PromptField
          name="negative_prompt"
          label="Negative prompt"
          rows={2}
          placeholder="What the picture should not show"
        />
        <StartPicture />
        <details
          class="settings"
          open={unfolded.value}
          onToggle={(event) => (unfolded.value = event.currentTarget.open)}
        >
          <summary>Settings</summary>
          <ModelField />
          <SizeField />
          <NumberField name="steps" label="Steps" usual={usual?.steps} slider={[1, 60]} />
          <NumberField
            name="guidance_scale"
            label="Guidance scale"
            usual={usual?.guidance_scale}
            step={0.5}
            slider={[1, 20]}
          />
          <SchedulerField />
          <div class="pair">
            <SeedField />
            <NumberField name="count" label="Pictures" usual={1} />
          </div>
          <More />
        </details>
      </div>
      <div class="foot">
        <PlanLine />
        <Problem name="start_picture" />
        <Problem name="mask" />
        <Buttons />
      </div>
    </form>
  );
}
