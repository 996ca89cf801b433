/** Name, state of the connection, and what concerns the whole page. */
import { connected } from "../api/client.ts";
import { dialog } from "../state/dialogs.ts";
import { active, running } from "../state/jobs.ts";
import { status } from "../state/server.ts";
import { theme, THEMES } from "../state/theme.ts";

const TITLES = { system: "System colours", light: "Light", dark: "Dark" };

export function Header() {
  const waiting = active.value.filter(({ job }) => job.state === "waiting").length;
  return (
    <header class="header">
      <h1>sdq</h1>
      <p class="server" role="status">
        {connected.value ? (
          <>
            <span class="device">{status.value?.device}</span>
            {running.value && <span>drawing</span>}
            {waiting > 0 && <span>{waiting} waiting</span>}
          </>
        ) : (
          <span class="lost">No connection; trying again.</span>
        )}
      </p>
      <label class="theme">
        <span class="unseen">Colours</span>
        <select
          value={theme.value}
          onChange={(event) => (theme.value = event.currentTarget.value as typeof theme.value)}
        >
          {THEMES.map((name) => (
            <option value={name}>{TITLES[name]}</option>
          ))}
        </select>
      </label>
      <button
        type="button"
        class="quiet"
        onClick={() => (dialog.value = { kind: "help" })}
        aria-keyshortcuts="?"
      >
        Keys
      </button>
    </header>
  );
}
