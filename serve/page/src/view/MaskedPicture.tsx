/** A small view of the start picture with its mask. */
import { useEffect, useRef } from "preact/hooks";
import { painted } from "../mask/canvas.ts";
import type { Stroke } from "../mask/strokes.ts";
import type { Start } from "../state/start.ts";

export function MaskedPicture({ from, strokes }: { from: Start; strokes: Stroke[] }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const context = canvas.current?.getContext("2d");
    if (!context) return;
    context.clearRect(0, 0, from.width, from.height);
    const colour = getComputedStyle(context.canvas).getPropertyValue("color");
    context.drawImage(painted(strokes, from, colour), 0, 0);
  }, [from, strokes]);
  return (
    <div class="masked">
      <img src={from.url} alt="Start picture" />
      <canvas ref={canvas} width={from.width} height={from.height} aria-hidden />
    </div>
  );
}
