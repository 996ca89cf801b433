/** The start picture with a mask over it that is painted by pointer or by keys. */
import type { RefObject } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { draw, type Brush, type Stroke } from "../mask/strokes.ts";
import type { Start } from "../state/start.ts";

/** Pixels of the longer side in which a mask is shown at least; small pictures would show steps. */
const SHOWN = 768;
/** The cursor moves by this share of the brush with each key. */
const KEY_STEP = 0.5;

const MOVES: Record<string, [number, number]> = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

interface Point {
  x: number;
  y: number;
}

interface Props {
  from: Start;
  strokes: Stroke[];
  erase: boolean;
  /** The brush's diameter in pixels of the picture. */
  size: number;
  add: (stroke: Stroke) => void;
}

type Canvas = RefObject<HTMLCanvasElement | null>;

/** The stroke that is being painted. */
function useBrush(canvas: Canvas, { from, strokes, erase, size, add }: Props, scale: number) {
  const stroke = useRef<Brush | null>(null);
  const show = () => {
    const context = canvas.current?.getContext("2d");
    if (!context) return;
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, from.width, from.height);
    const colour = getComputedStyle(context.canvas).color;
    const all = stroke.current ? [...strokes, stroke.current] : strokes;
    for (const each of all) draw(context, each, from.width, from.height, colour);
  };
  useEffect(show, [strokes]);
  return {
    begin: ({ x, y }: Point) => {
      stroke.current = { kind: "brush", erase, size, points: [x, y] };
      show();
    },
    extend: (points: Point[]) => {
      for (const { x, y } of points) stroke.current?.points.push(x, y);
      if (stroke.current) show();
    },
    finish: () => {
      if (stroke.current) add(stroke.current);
      stroke.current = null;
    },
  };
}

/** A point of the screen in pixels of the picture. */
function pointOf(event: PointerEvent, canvas: Canvas, from: Start): Point {
  const box = (canvas.current as HTMLCanvasElement).getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) / box.width) * from.width,
    y: ((event.clientY - box.top) / box.height) * from.height,
  };
}

function moved({ x, y }: Point, [right, down]: [number, number], step: number, from: Start): Point {
  const inside = (value: number, side: number) => Math.min(side, Math.max(0, value));
  return { x: inside(x + right * step, from.width), y: inside(y + down * step, from.height) };
}

const percent = (value: number, side: number) => `${Math.round((value / side) * 100)} %`;

function label(cursor: Point, down: boolean, from: Start): string {
  const place = `${percent(cursor.x, from.width)} across, ${percent(cursor.y, from.height)} down`;
  const state = down ? "painting" : "lifted";
  return `Mask. Arrow keys move the brush, Space puts it down and lifts it. ${place}, ${state}.`;
}

interface RingProps {
  cursor: Point;
  down: boolean;
  from: Start;
  size: number;
}

/** Where the brush is, and how large. */
function Ring({ cursor, down, from, size }: RingProps) {
  const style = {
    "--x": `${(cursor.x / from.width) * 100}%`,
    "--y": `${(cursor.y / from.height) * 100}%`,
    "--ring": `${(size / from.width) * 100}%`,
  };
  return <div class={down ? "ring down" : "ring"} style={style} aria-hidden />;
}

export function MaskCanvas(props: Props) {
  const { from, size } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  const scale = Math.max(1, SHOWN / Math.max(from.width, from.height));
  const brush = useBrush(canvas, props, scale);
  const [cursor, setCursor] = useState<Point>({ x: from.width / 2, y: from.height / 2 });
  /** Whether keys paint. */
  const [down, setDown] = useState(false);

  const lift = () => {
    brush.finish();
    setDown(false);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const move = MOVES[event.key];
    if (move) {
      const next = moved(cursor, move, Math.max(1, size * KEY_STEP), from);
      setCursor(next);
      brush.extend([next]);
    } else if (event.key === " " || event.key === "Enter") {
      if (down) lift();
      else {
        brush.begin(cursor);
        setDown(true);
      }
    } else return;
    event.preventDefault();
  };
  return (
    <div class="mask-area" style={{ "--shape": String(from.width / from.height) }}>
      <img src={from.url} alt="" draggable={false} />
      <canvas
        ref={canvas}
        width={Math.round(from.width * scale)}
        height={Math.round(from.height * scale)}
        tabIndex={0}
        role="application"
        aria-label={label(cursor, down, from)}
        onPointerDown={(event) => {
          if (event.button !== 0) return;
          if (down) lift();
          event.currentTarget.setPointerCapture(event.pointerId);
          brush.begin(pointOf(event, canvas, from));
        }}
        onPointerMove={(event) => {
          setCursor(pointOf(event, canvas, from));
          if (down || !event.buttons) return;
          brush.extend((event.getCoalescedEvents?.() ?? [event]).map((each) => pointOf(each, canvas, from)));
        }}
        onPointerUp={brush.finish}
        onPointerCancel={brush.finish}
        onKeyDown={onKeyDown}
        onBlur={lift}
      />
      <Ring cursor={cursor} down={down} from={from} size={size} />
    </div>
  );
}
