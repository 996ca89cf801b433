/** Asks for the token of a server that wants one. */
import { useState } from "preact/hooks";
import { openSession } from "../api/client.ts";
import { unlock } from "../api/session.ts";
import { describe } from "../state/notices.ts";
import { Dialog } from "./Dialog.tsx";

export function TokenDialog() {
  const [token, setToken] = useState("");
  const [problem, setProblem] = useState("");
  const send = async () => {
    try {
      if (await openSession(token)) unlock();
      else setProblem("This is not the server's token.");
    } catch (reason) {
      setProblem(describe(reason));
    }
  };
  return (
    <Dialog title="Token" kind="token">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void send();
        }}
      >
        <p>This server was started with a token. It is asked for once in this browser.</p>
        <div class="field">
          <label for="token">Token</label>
          <input
            id="token"
            type="password"
            autocomplete="current-password"
            value={token}
            aria-invalid={problem ? true : undefined}
            aria-describedby={problem ? "token-problem" : undefined}
            onInput={(event) => setToken(event.currentTarget.value)}
          />
          {problem && (
            <p class="problem" id="token-problem" role="alert">
              {problem}
            </p>
          )}
        </div>
        <div class="dialog-foot">
          <button type="submit" class="primary" disabled={!token}>
            Open
          </button>
        </div>
      </form>
    </Dialog>
  );
}
