/** What to do with a picture that was dropped or pasted. */
import { useEffect, useState } from "preact/hooks";
import { readRecipe, startWithFile } from "../state/actions.ts";
import { close } from "../state/dialogs.ts";
import { attempt } from "../state/notices.ts";
import { model } from "../state/server.ts";
import { Dialog } from "./Dialog.tsx";

export function Dropped({ file }: { file: File }) {
  const [url, setUrl] = useState("");
  useEffect(() => {
    const made = URL.createObjectURL(file);
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [file]);
  const start = async () => {
    await startWithFile(file);
    close();
  };
  return (
    <Dialog title="Use this picture" kind="dropped" onClose={close}>
      {url && <img src={url} alt={file.name} />}
      <div class="dialog-foot">
        <button
          type="button"
          class="primary"
          disabled={model.value?.accepts.picture === false}
          onClick={() => void attempt(start)}
        >
          Start from it
        </button>
        <button type="button" onClick={() => void attempt(() => readRecipe(file))}>
          Read its recipe
        </button>
      </div>
    </Dialog>
  );
}
