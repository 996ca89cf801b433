/** One picture with its recipe, and what can be done with it. */
import { useEffect, useState } from "preact/hooks";
import type { Picture, Recipe } from "../api/types.ts";
import { drawAgain, recipeOf, SHEET_COUNT, startFromPicture, useRecipe, vary } from "../state/actions.ts";
import { close, comparing, dialog } from "../state/dialogs.ts";
import { pictures, removePicture } from "../state/gallery.ts";
import { attempt, describe } from "../state/notices.ts";
import { bytes, moment } from "../text/format.ts";
import { Dialog } from "./Dialog.tsx";
import { RecipeTable } from "./RecipeTable.tsx";

/** How long a second click on Delete is waited for. */
const SURE_MS = 4000;

/** The recipe of a picture, or why it cannot be read. */
function useRecipeOf(picture: Picture): { recipe: Recipe | null; problem: string | null } {
  const [state, setState] = useState<{ id: string; recipe: Recipe | null; problem: string | null } | null>(
    null,
  );
  useEffect(() => {
    let current = true;
    recipeOf(picture).then(
      (recipe) => current && setState({ id: picture.id, recipe, problem: null }),
      (reason) => current && setState({ id: picture.id, recipe: null, problem: describe(reason) }),
    );
    return () => {
      current = false;
    };
  }, [picture.id]);
  return state?.id === picture.id ? state : { recipe: null, problem: null };
}

function Vary({ picture }: { picture: Picture }) {
  const [strength, setStrength] = useState(0.2);
  return (
    <div class="vary" role="group" aria-label="Vary">
      <button type="button" onClick={() => void attempt(() => vary(picture, strength))}>
        Vary
      </button>
      <label>
        <span>by {Math.round(strength * 100)} %</span>
        <input
          type="range"
          min={0.05}
          max={1}
          step={0.05}
          value={strength}
          aria-label="How different, in hundredths"
          aria-valuetext={`${Math.round(strength * 100)} %`}
          onInput={(event) => setStrength(Number(event.currentTarget.value))}
        />
      </label>
    </div>
  );
}

function Delete({ picture, onDeleted }: { picture: Picture; onDeleted: () => void }) {
  const [sure, setSure] = useState(false);
  const press = async () => {
    if (!sure) {
      setSure(true);
      setTimeout(() => setSure(false), SURE_MS);
      return;
    }
    await removePicture(picture.id);
    onDeleted();
  };
  return (
    <button type="button" class={sure ? "danger" : "quiet"} onClick={() => void attempt(press)}>
      {sure ? "Really delete?" : "Delete"}
    </button>
  );
}

interface ActionsProps {
  picture: Picture;
  recipe: Recipe | null;
  step: (by: number) => void;
}

function Actions({ picture, recipe, step }: ActionsProps) {
  const compare = () => {
    comparing.value = picture;
    close();
    document.querySelector(".gallery")?.scrollIntoView({ block: "start" });
    document.querySelector<HTMLElement>(".tile")?.focus();
  };
  return (
    <div class="viewer-actions">
      <button
        type="button"
        disabled={!recipe}
        onClick={() => recipe && void attempt(() => useRecipe(recipe))}
      >
        Use settings
      </button>
      <button type="button" disabled={!recipe} onClick={() => void attempt(() => drawAgain(picture))}>
        Again, new seed
      </button>
      <Vary picture={picture} />
      <button type="button" onClick={() => startFromPicture(picture)}>
        Use as start
      </button>
      <button
        type="button"
        disabled={!recipe}
        onClick={() => void attempt(() => drawAgain(picture, SHEET_COUNT))}
      >
        9 seeds
      </button>
      <button type="button" disabled={pictures.value.length < 2} onClick={compare}>
        Compare…
      </button>
      <a class="button" href={picture.url} download={`${picture.id}${ending(picture)}`}>
        Save
      </a>
      <Delete picture={picture} onDeleted={() => step(1)} />
    </div>
  );
}

/** An id may have its ending already. */
function ending(picture: Picture): string {
  return /\.(png|jpe?g|webp)$/.test(picture.id) ? "" : ".png";
}

export function Viewer({ picture }: { picture: Picture }) {
  const { recipe, problem } = useRecipeOf(picture);
  const step = (by: number) => {
    const all = pictures.value;
    const at = all.findIndex((entry) => entry.id === picture.id);
    const next = all[at + by];
    if (next) dialog.value = { kind: "viewer", picture: next };
    else if (!all.includes(picture)) close();
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if ((event.target as HTMLElement).tagName === "INPUT") return;
    if (event.key === "ArrowRight") step(1);
    if (event.key === "ArrowLeft") step(-1);
  };
  return (
    <Dialog title={picture.prompt || "Without a prompt"} kind="viewer" onClose={close} onKeyDown={onKeyDown}>
      <div class="viewer-parts">
        <div class="viewer-picture">
          <img src={picture.url} alt={picture.prompt} width={picture.width} height={picture.height} />
          <div class="viewer-steps">
            <button type="button" class="quiet" onClick={() => step(-1)} aria-label="Newer picture">
              ←
            </button>
            <span class="hint">
              {moment(picture.created)}, {bytes(picture.bytes)}
            </span>
            <button type="button" class="quiet" onClick={() => step(1)} aria-label="Older picture">
              →
            </button>
          </div>
        </div>
        <div class="viewer-side">
          <Actions picture={picture} recipe={recipe} step={step} />
          {problem && <p class="problem">{problem}</p>}
          {recipe && <RecipeTable recipe={recipe} />}
        </div>
      </div>
    </Dialog>
  );
}
