/** The page as a whole, and what works everywhere on it: keys, dropping and pasting. */
import { useSignalEffect } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";
import { locked } from "../api/session.ts";
import { cancelRunning, drawForm, focusPrompt } from "../state/actions.ts";
import { comparing, dialog, type Dialog } from "../state/dialogs.ts";
import { running } from "../state/jobs.ts";
import { share } from "../state/live.ts";
import { Compare } from "./Compare.tsx";
import { Dropped } from "./Dropped.tsx";
import { Form } from "./Form.tsx";
import { Gallery } from "./Gallery.tsx";
import { Header } from "./Header.tsx";
import { HelpDialog } from "./HelpDialog.tsx";
import { MaskDialog } from "./MaskDialog.tsx";
import { ModelsDialog } from "./ModelsDialog.tsx";
import { Notices } from "./Notices.tsx";
import { Queue } from "./Queue.tsx";
import { Sheet } from "./Sheet.tsx";
import { Stage } from "./Stage.tsx";
import { TokenDialog } from "./TokenDialog.tsx";
import { Viewer } from "./Viewer.tsx";

function Open({ shown }: { shown: Dialog }) {
  switch (shown.kind) {
    case "viewer":
      return <Viewer picture={shown.picture} />;
    case "compare":
      return <Compare left={shown.left} right={shown.right} />;
    case "sheet":
      return <Sheet pictures={shown.pictures} />;
    case "mask":
      return <MaskDialog />;
    case "dropped":
      return <Dropped file={shown.file} />;
    case "models":
      return <ModelsDialog />;
    case "help":
      return <HelpDialog />;
  }
}

const isText = (target: EventTarget | null): boolean =>
  target instanceof HTMLElement && /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);

function onKeyDown(event: KeyboardEvent): void {
  if (dialog.value || locked.value || event.defaultPrevented) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    void drawForm();
  } else if (event.key === "Escape") {
    if (comparing.value) comparing.value = null;
    else cancelRunning();
  } else if (isText(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
  else if (event.key === "/") {
    event.preventDefault();
    focusPrompt();
  } else if (event.key === "?") dialog.value = { kind: "help" };
}

function onPaste(event: ClipboardEvent): void {
  const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
  if (!file || dialog.value) return;
  event.preventDefault();
  dialog.value = { kind: "dropped", file };
}

/** Whether a file is dragged over the page; a drop opens the choice of what to do with it. */
function useDrop(): boolean {
  const [over, setOver] = useState(false);
  useEffect(() => {
    const withFile = (event: DragEvent) => event.dataTransfer?.types.includes("Files") ?? false;
    const onOver = (event: DragEvent) => {
      if (!withFile(event)) return;
      event.preventDefault();
      setOver(true);
    };
    const onLeave = (event: DragEvent) => {
      if (event.relatedTarget === null) setOver(false);
    };
    const onDrop = (event: DragEvent) => {
      setOver(false);
      const file = event.dataTransfer?.files[0];
      if (!file || event.defaultPrevented) return;
      event.preventDefault();
      dialog.value = { kind: "dropped", file };
    };
    const stop = new AbortController();
    document.addEventListener("dragover", onOver, stop);
    document.addEventListener("dragleave", onLeave, stop);
    document.addEventListener("drop", onDrop, stop);
    return () => stop.abort();
  }, []);
  return over;
}

/** The progress of the run, for a tab in the background. */
function useTitle(): void {
  useSignalEffect(() => {
    const live = running.value;
    document.title = live ? `${Math.round(share(live.job) * 100)} % · sdq` : "sdq";
  });
}

export function App() {
  const over = useDrop();
  useTitle();
  useEffect(() => {
    const stop = new AbortController();
    document.addEventListener("keydown", onKeyDown, stop);
    document.addEventListener("paste", onPaste, stop);
    return () => stop.abort();
  }, []);
  return (
    <>
      <Header />
      <main class={over ? "main over" : "main"}>
        <Form />
        <div class="results">
          <Stage />
          <Queue />
          <Gallery />
        </div>
      </main>
      <Notices />
      {locked.value ? <TokenDialog /> : dialog.value && <Open key={dialog.value.kind} shown={dialog.value} />}
    </>
  );
}
