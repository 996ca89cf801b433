/** The models of the server, and files that it can convert. */
import { useState } from "preact/hooks";
import type { Convertible, Model } from "../api/types.ts";
import { close } from "../state/dialogs.ts";
import { set } from "../state/form.ts";
import { convert } from "../state/jobs.ts";
import { attempt } from "../state/notices.ts";
import { convertible, model, models } from "../state/server.ts";
import { bytes, sentence } from "../text/format.ts";
import { Dialog } from "./Dialog.tsx";

const TYPES = ["q8", "mixed", "q4", "f16", "f32"];

function ModelEntry({ entry }: { entry: Model }) {
  const details = [
    entry.built_in && "built in",
    entry.family,
    entry.weight_types.join(" and "),
    entry.bytes > 0 && bytes(entry.bytes),
    entry.open && "open",
  ];
  const chosen = model.value?.id === entry.id;
  const choose = () => {
    set({ model: entry.id });
    close();
  };
  return (
    <li>
      <div class="entry">
        <p class="entry-title">{entry.title}</p>
        <p class="hint">{details.filter(Boolean).join(", ")}</p>
        {entry.problem && <p class="problem">{sentence(entry.problem)}</p>}
      </div>
      <button type="button" disabled={entry.problem !== null || chosen} onClick={choose}>
        {chosen ? "In use" : "Use"}
      </button>
    </li>
  );
}

function ConvertEntry({ entry }: { entry: Convertible }) {
  const [type, setType] = useState("q8");
  const begin = async () => {
    await convert(entry.name, type, "");
    close();
  };
  return (
    <li>
      <div class="entry">
        <p class="entry-title">{entry.name}</p>
        <p class="hint">{entry.bytes > 0 ? bytes(entry.bytes) : "a folder"}</p>
      </div>
      <label>
        <span class="unseen">Type of the weights of {entry.name}</span>
        <select value={type} onChange={(event) => setType(event.currentTarget.value)}>
          {TYPES.map((name) => (
            <option value={name}>{name}</option>
          ))}
        </select>
      </label>
      <button type="button" onClick={() => void attempt(begin)}>
        Convert
      </button>
    </li>
  );
}

export function ModelsDialog() {
  return (
    <Dialog title="Models" kind="models" onClose={close}>
      <ul class="entries">
        {models.value.map((entry) => (
          <ModelEntry key={entry.id} entry={entry} />
        ))}
      </ul>
      {convertible.value.length > 0 && (
        <>
          <h3>Files that can be converted</h3>
          <ul class="entries">
            {convertible.value.map((entry) => (
              <ConvertEntry key={entry.name} entry={entry} />
            ))}
          </ul>
        </>
      )}
    </Dialog>
  );
}
