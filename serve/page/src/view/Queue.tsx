/** Runs that wait or run, those that can go on, and earlier ones. */
import type { Job } from "../api/types.ts";
import { useRequest } from "../state/actions.ts";
import { dialog } from "../state/dialogs.ts";
import { active, cancel, draw, ended, forget, onStage, resume } from "../state/jobs.ts";
import { isActive } from "../state/live.ts";
import { attempt } from "../state/notices.ts";
import { moment, sentence } from "../text/format.ts";
import { Bar, describeState } from "./Stage.tsx";

const EARLIER = 20;

function title(job: Job): string {
  if (job.kind === "convert") return `Conversion of ${job.model}`;
  return job.request?.prompt?.trim() || "Without a prompt";
}

function Actions({ job }: { job: Job }) {
  const { request } = job;
  const model = job.model ?? undefined;
  if (isActive(job)) {
    return (
      <button type="button" class="quiet" onClick={() => void attempt(() => cancel(job.id))}>
        Cancel
      </button>
    );
  }
  return (
    <>
      {job.resumable && (
        <button type="button" onClick={() => void attempt(() => resume(job.id))}>
          Go on
        </button>
      )}
      {request && job.state !== "done" && (
        <button type="button" class="quiet" onClick={() => void attempt(() => draw(model, request))}>
          Start over
        </button>
      )}
      {job.pictures.length > 1 && (
        <button
          type="button"
          class="quiet"
          onClick={() => (dialog.value = { kind: "sheet", pictures: job.pictures })}
        >
          Contact sheet
        </button>
      )}
      {request && (
        <button type="button" class="quiet" onClick={() => void attempt(() => useRequest(request, model))}>
          Use settings
        </button>
      )}
      <button type="button" class="quiet" onClick={() => void attempt(() => forget(job.id))}>
        Remove
      </button>
    </>
  );
}

function Entry({ job }: { job: Job }) {
  return (
    <li data-job={job.id} data-state={job.state}>
      <div class="entry">
        <p class="entry-title">{title(job)}</p>
        <p class="hint">
          {describeState(job)}
          {job.ended && `, ${moment(job.ended)}`}
        </p>
        {job.error && job.state !== "cancelled" && <p class="problem">{sentence(job.error.message)}</p>}
      </div>
      {job.state === "running" && <Bar job={job} />}
      <div class="entry-actions" role="group" aria-label={title(job)}>
        <Actions job={job} />
      </div>
    </li>
  );
}

export function Queue() {
  const unfinished = ended.value.filter(({ job }) => job.state === "interrupted");
  const earlier = ended.value.filter((live) => !unfinished.includes(live));
  // One that is alone on the stage needs no list.
  const isAlone = active.value.length === 1 && active.value[0]?.job.id === onStage.value?.job.id;
  const listed = isAlone ? [] : active.value;
  return (
    <>
      {unfinished.length > 0 && (
        <section class="queue" aria-label="Interrupted runs">
          <h2>Interrupted</h2>
          <ul>
            {unfinished.map(({ job }) => (
              <Entry key={job.id} job={job} />
            ))}
          </ul>
        </section>
      )}
      {listed.length > 0 && (
        <section class="queue" aria-label="Queue">
          <h2>Queue</h2>
          <ol>
            {listed.map(({ job }) => (
              <Entry key={job.id} job={job} />
            ))}
          </ol>
        </section>
      )}
      {earlier.length > 0 && (
        <details class="queue earlier">
          <summary>Earlier runs</summary>
          <ul>
            {earlier.slice(0, EARLIER).map(({ job }) => (
              <Entry key={job.id} job={job} />
            ))}
          </ul>
        </details>
      )}
    </>
  );
}
