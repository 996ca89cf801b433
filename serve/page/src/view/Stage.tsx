/** The picture that is being drawn, as it forms. */
import { useRef } from "preact/hooks";
import type { Job, Picture, Preview } from "../api/types.ts";
import { open } from "../state/dialogs.ts";
import { set } from "../state/form.ts";
import { onStage, resume } from "../state/jobs.ts";
import { isActive, share, type Live } from "../state/live.ts";
import { attempt } from "../state/notices.ts";
import { model } from "../state/server.ts";
import { counted, duration, sentence } from "../text/format.ts";

const EXAMPLES = [
  "a red apple on a blue background",
  "a cat on a green background",
  "rocket, black background",
];

function Empty() {
  const builtIn = model.value?.built_in;
  return (
    <div class="empty">
      <p>Write what the picture should show, and press Draw.</p>
      {builtIn && (
        <>
          <p class="hint">
            The built-in model draws one thing on a plain background, 64 pixels wide. Larger models are files
            that sdq is started with.
          </p>
          <div class="examples">
            {EXAMPLES.map((prompt) => (
              <button type="button" class="chip" onClick={() => set({ prompt })}>
                {prompt}
              </button>
            ))}
          </div>
        </>
      )}
    </div>
  );
}

/** The newest preview over the one before it, so that one melts into the other. */
function Forming({ preview }: { preview: Preview }) {
  const shown = useRef<{ now: Preview; before: Preview | null }>({ now: preview, before: null });
  if (shown.current.now !== preview) shown.current = { now: preview, before: shown.current.now };
  const { now, before } = shown.current;
  const style = { "--pixels": String(now.width) };
  return (
    <>
      {/* The lowest is not blurred, so that the edges do not fade into the ground. */}
      <img src={now.data} alt="" />
      {before && <img key={before.step} class="blurred" style={style} src={before.data} alt="" />}
      <img
        key={now.step}
        class="blurred forming"
        style={style}
        src={now.data}
        alt="The picture so far"
        data-step={now.step}
      />
    </>
  );
}

function Cell({
  picture,
  preview,
  sheet,
}: {
  picture?: Picture | undefined;
  preview: Preview | null;
  sheet: boolean;
}) {
  if (picture) {
    return (
      <button
        type="button"
        class="cell"
        onClick={() => open(picture)}
        aria-label={`Open the picture with seed ${picture.seed}`}
      >
        <img src={picture.url} alt={picture.prompt} />
        {sheet && <span class="caption">{picture.seed}</span>}
      </button>
    );
  }
  return <div class={preview ? "cell" : "cell bare"}>{preview && <Forming preview={preview} />}</div>;
}

/** Width by height of the job's pictures, as far as it is known. */
function shapeOf({ job, preview }: Live): [number, number] {
  const known = job.pictures[0] ?? preview ?? model.value?.defaults;
  const { width, height } = job.request ?? {};
  return [width ?? known?.width ?? 1, height ?? known?.height ?? 1];
}

function Frame({ live }: { live: Live }) {
  const { job, preview } = live;
  const count = Math.max(job.request?.count ?? 1, job.pictures.length);
  const [width, height] = shapeOf(live);
  const columns = Math.ceil(Math.sqrt(count));
  const style = {
    "--columns": String(columns),
    "--shape": String(width / height),
    "--rows": String(Math.ceil(count / columns)),
  };
  return (
    <div class="frame" style={style}>
      {Array.from({ length: count }, (_, index) => (
        <Cell
          key={index}
          picture={job.pictures[index]}
          preview={preview?.image === index ? preview : null}
          sheet={count > 1}
        />
      ))}
    </div>
  );
}

/** How long an ended job ran. */
function time(job: Job): string {
  const seconds = (Date.parse(job.ended ?? "") - Date.parse(job.started ?? "")) / 1000;
  return Number.isFinite(seconds) ? ` in ${duration(seconds)}` : "";
}

/** One line about a job. */
export function describeState(job: Job): string {
  const { state, place, progress, pictures } = job;
  if (state === "waiting") return place ? `waiting, ${counted(place, "run")} before it` : "waiting, next";
  if (state === "running" && progress) {
    const { steps, step, image, seconds_left } = progress;
    const count = job.request?.count ?? 1;
    const parts = [steps ? `step ${step} of ${steps}` : `${progress.done} of ${progress.total}`];
    if (count > 1) parts.push(`picture ${Math.min(image + 1, count)} of ${count}`);
    if (seconds_left !== null) parts.push(`${duration(seconds_left)} left`);
    return parts.join(", ");
  }
  if (state === "running") return "starting";
  if (state === "done")
    return `${job.kind === "convert" ? "converted" : counted(pictures.length, "picture")}${time(job)}`;
  if (state === "cancelled")
    return pictures.length ? `cancelled after ${counted(pictures.length, "picture")}` : "cancelled";
  return state;
}

export function Bar({ job }: { job: Job }) {
  const percent = Math.round(share(job) * 100);
  return <progress max={100} value={percent} aria-label="Progress of the run" />;
}

/** What is below the pictures: the state, and what went wrong. */
function Under({ job }: { job: Job }) {
  return (
    <>
      <div class="under">
        <p class="state">{describeState(job)}</p>
        {isActive(job) && <Bar job={job} />}
        {job.resumable && !isActive(job) && (
          <button type="button" onClick={() => void attempt(() => resume(job.id))}>
            Go on
          </button>
        )}
      </div>
      {job.error && <p class="problem">{sentence(job.error.message)}</p>}
      {job.notes.map((note) => (
        <p class="hint">{sentence(note)}</p>
      ))}
    </>
  );
}

export function Stage() {
  const live = onStage.value;
  const job = live?.job;
  const hasPictures = live && (isActive(live.job) || live.job.pictures.length > 0 || live.preview !== null);
  return (
    <section
      id="stage"
      class="stage"
      aria-label="Picture being drawn"
      data-state={job?.state}
      aria-busy={job && isActive(job)}
    >
      {hasPictures ? <Frame live={live} /> : <Empty />}
      {job && <Under job={job} />}
    </section>
  );
}
