/** A recipe as a list of what was set. */
import type { Recipe, Request } from "../api/types.ts";
import { sentence } from "../text/format.ts";
import { models } from "../state/server.ts";

const NAMES: [keyof Request, string][] = [
  ["negative_prompt", "Negative prompt"],
  ["seed", "Seed"],
  ["steps", "Steps"],
  ["scheduler", "Scheduler"],
  ["guidance_scale", "Guidance scale"],
  ["guidance_rescale", "Guidance rescale"],
  ["image_guidance_scale", "Image guidance scale"],
  ["strength", "Strength"],
  ["mask_blur", "Soft edge"],
  ["variation_seed", "Variation seed"],
  ["variation_strength", "Variation strength"],
  ["clip_skip", "Clip skip"],
  ["cache", "Step cache"],
];

export function RecipeTable({ recipe }: { recipe: Recipe }) {
  const { request, model, program, notes } = recipe;
  const title = models.value.find((entry) => entry.id === model.id)?.title ?? model.name;
  const rows = NAMES.map(([key, name]) => [name, request[key]] as const);
  const options = Object.entries(request.scheduler_options ?? {}).map(([key, value]) => `${key} = ${value}`);
  return (
    <>
      <dl class="recipe">
        {title && <Row name="Model" value={model.known ? title : `${title} (not here)`} />}
        {request.width && <Row name="Size" value={`${request.width} × ${request.height}`} />}
        {rows.map(([name, value]) =>
          value === undefined || value === null || value === "" ? null : (
            <Row name={name} value={String(value)} />
          ),
        )}
        {options.length > 0 && <Row name="Options" value={options.join(", ")} />}
        {program && <Row name="Drawn by" value={program} />}
      </dl>
      {notes.map((note) => (
        <p class="hint">{sentence(note)}</p>
      ))}
    </>
  );
}

function Row({ name, value }: { name: string; value: string }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}
