/** Short messages at the edge of the page, and one line for screen readers. */
import { announcement, dismiss, notices } from "../state/notices.ts";

export function Notices() {
  return (
    <>
      <div class="notices">
        {notices.value.map(({ id, text, error }) => (
          <div key={id} class={error ? "notice error" : "notice"} role={error ? "alert" : "status"}>
            <p>{text}</p>
            <button
              type="button"
              class="quiet close"
              onClick={() => dismiss(id)}
              aria-label="Close this message"
            >
              ✕
            </button>
          </div>
        ))}
      </div>
      <p class="unseen" aria-live="polite" id="announcement">
        {announcement.value}
      </p>
    </>
  );
}
