/** Keys, and where things are. */
import { close } from "../state/dialogs.ts";
import { status } from "../state/server.ts";
import { Dialog } from "./Dialog.tsx";

const KEYS: [string, string][] = [
  ["Ctrl Enter", "Draw, or add to the queue"],
  ["Esc", "Cancel the run; close what is open"],
  ["Ctrl ↑, Ctrl ↓", "In a prompt: the words at the cursor weigh more or less, (word:1.1)"],
  ["< or two letters", "In a prompt: LoRAs and embeddings to choose from; Tab takes one"],
  ["/", "Go to the prompt"],
  ["← ↑ ↓ →", "Move between pictures"],
  ["?", "This list"],
];

export function HelpDialog() {
  return (
    <Dialog title="Keys" kind="help" onClose={close}>
      <dl class="keys">
        {KEYS.map(([keys, meaning]) => (
          <div>
            <dt>
              <kbd>{keys}</kbd>
            </dt>
            <dd>{meaning}</dd>
          </div>
        ))}
      </dl>
      <p class="hint">
        Drop or paste a picture anywhere to start from it or to get its recipe back. sdq{" "}
        {status.value?.version}
        {status.value && `, ${status.value.device}`}. <a href="/assets/licences.txt">Licences</a> of what this
        page is made of.
      </p>
    </Dialog>
  );
}
