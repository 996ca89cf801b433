/** All pictures on the server. Arrow keys move between them. */
import { useEffect, useRef } from "preact/hooks";
import type { Picture } from "../api/types.ts";
import { comparing, open } from "../state/dialogs.ts";
import { more, pictures, readMore } from "../state/gallery.ts";
import { attempt } from "../state/notices.ts";
import { DRAGGED } from "./StartPicture.tsx";

const THUMBNAIL = 256;

function Tile({ picture }: { picture: Picture }) {
  return (
    <li>
      <button
        type="button"
        class="tile"
        draggable
        onDragStart={(event) => event.dataTransfer?.setData(DRAGGED, picture.id)}
        onClick={() => open(picture)}
        aria-label={`${picture.prompt || "Without a prompt"}, seed ${picture.seed}`}
      >
        <img
          src={`${picture.url}?thumbnail=${THUMBNAIL}`}
          width={picture.width}
          height={picture.height}
          loading="lazy"
          decoding="async"
          alt=""
          draggable={false}
        />
      </button>
    </li>
  );
}

/** Moves the focus to the tile beside, above or below. */
function move(event: KeyboardEvent): void {
  const list = event.currentTarget as HTMLElement;
  const tiles = [...list.querySelectorAll<HTMLElement>(".tile")];
  const at = tiles.indexOf(document.activeElement as HTMLElement);
  if (at < 0) return;
  const columns = getComputedStyle(list).gridTemplateColumns.split(" ").length;
  const targets: Record<string, number> = {
    ArrowRight: at + 1,
    ArrowLeft: at - 1,
    ArrowDown: at + columns,
    ArrowUp: at - columns,
    Home: 0,
    End: tiles.length - 1,
  };
  const target = targets[event.key];
  if (target === undefined || event.ctrlKey) return;
  event.preventDefault();
  tiles[target]?.focus();
}

/** Reads older pictures when the end of the list comes near. */
function End() {
  const mark = useRef<HTMLDivElement>(null);
  const known = pictures.value.length;
  useEffect(() => {
    const observer = new IntersectionObserver(
      (entries) => {
        if (entries.some((entry) => entry.isIntersecting)) void attempt(readMore);
      },
      { rootMargin: "600px" },
    );
    if (mark.current) observer.observe(mark.current);
    return () => observer.disconnect();
    // Observed anew after each page: the mark may still be in view.
  }, [known]);
  return more.value && known > 0 ? <div ref={mark} class="end" /> : null;
}

export function Gallery() {
  return (
    <section class="gallery" aria-labelledby="gallery-title">
      <h2 id="gallery-title">Gallery</h2>
      {comparing.value && (
        <p class="choosing" role="status">
          Choose the picture to compare with.
          <button type="button" class="quiet" onClick={() => (comparing.value = null)}>
            Never mind
          </button>
        </p>
      )}
      {pictures.value.length === 0 && (
        <p class="hint">Finished pictures appear here. They stay on the server's disk.</p>
      )}
      <ul class="tiles" onKeyDown={move}>
        {pictures.value.map((picture) => (
          <Tile key={picture.id} picture={picture} />
        ))}
      </ul>
      <End />
    </section>
  );
}
