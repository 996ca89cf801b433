/** A contact sheet: the pictures of one run with their seeds, which can be saved as one picture. */
import type { Picture } from "../api/types.ts";
import { loadImage, pngOf, surface } from "../mask/canvas.ts";
import { close, open } from "../state/dialogs.ts";
import { attempt } from "../state/notices.ts";
import { Dialog } from "./Dialog.tsx";

const CAPTION_HEIGHT = 22;
const GAP = 8;
const MIN_SIDE = 160;

/** All pictures in a grid, each with its seed below it. */
async function compose(pictures: Picture[]): Promise<Blob> {
  const [first] = pictures;
  if (!first) throw new Error("There are no pictures.");
  const scale = Math.max(1, Math.ceil(MIN_SIDE / first.width));
  const [width, height] = [first.width * scale, first.height * scale];
  const columns = Math.ceil(Math.sqrt(pictures.length));
  const rows = Math.ceil(pictures.length / columns);
  const across = width + GAP;
  const down = height + CAPTION_HEIGHT + GAP;
  const { canvas, context } = surface({ width: columns * across + GAP, height: rows * down + GAP });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.fillStyle = "#222";
  context.font = "14px sans-serif";
  context.textBaseline = "middle";
  for (const [index, picture] of pictures.entries()) {
    const x = GAP + (index % columns) * across;
    const y = GAP + Math.floor(index / columns) * down;
    context.drawImage(await loadImage(picture.url), x, y, width, height);
    context.fillText(`seed ${picture.seed}`, x, y + height + CAPTION_HEIGHT / 2, width);
  }
  return pngOf(canvas);
}

async function saveSheet(pictures: Picture[]): Promise<void> {
  const url = URL.createObjectURL(await compose(pictures));
  const link = document.createElement("a");
  link.href = url;
  link.download = `contact-sheet-${pictures[0]?.seed ?? ""}.png`;
  link.click();
  URL.revokeObjectURL(url);
}

export function Sheet({ pictures }: { pictures: Picture[] }) {
  const columns = Math.ceil(Math.sqrt(pictures.length));
  return (
    <Dialog title="Contact sheet" kind="sheet" onClose={close}>
      <ul class="sheet" style={{ "--columns": String(columns) }}>
        {pictures.map((picture) => (
          <li key={picture.id}>
            <button
              type="button"
              class="tile"
              onClick={() => open(picture)}
              aria-label={`Open seed ${picture.seed}`}
            >
              <img src={picture.url} alt={picture.prompt} />
            </button>
            <span>{picture.seed}</span>
          </li>
        ))}
      </ul>
      <div class="dialog-foot">
        <button type="button" onClick={() => void attempt(() => saveSheet(pictures))}>
          Save as one picture
        </button>
      </div>
    </Dialog>
  );
}
