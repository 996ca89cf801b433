/**
 * A mask as the strokes that painted it, in pixels of the start picture. It can be drawn in any size, taken back
 * stroke by stroke, and kept as JSON.
 */

export interface Brush {
  kind: "brush";
  erase: boolean;
  /** Diameter. */
  size: number;
  /** x and y of each point, one after the other. */
  points: number[];
}

export type Stroke = Brush | { kind: "clear" } | { kind: "invert" };

/** Whether the strokes may have painted anything: inverting a mask without a stroke paints all of it. */
export function paints(strokes: Stroke[]): boolean {
  let painted = false;
  for (const stroke of strokes) {
    if (stroke.kind === "clear") painted = false;
    else if (stroke.kind === "invert" || !stroke.erase) painted = true;
  }
  return painted;
}

/** What a canvas's context needs for drawing a mask. */
type Context = Pick<
  CanvasRenderingContext2D,
  | "save"
  | "restore"
  | "beginPath"
  | "moveTo"
  | "lineTo"
  | "stroke"
  | "fillRect"
  | "clearRect"
  | "globalCompositeOperation"
  | "lineCap"
  | "lineJoin"
  | "lineWidth"
  | "strokeStyle"
  | "fillStyle"
>;

/** Draws one stroke in `colour` on a transparent ground of `width` x `height`. */
export function draw(context: Context, stroke: Stroke, width: number, height: number, colour: string): void {
  context.save();
  if (stroke.kind === "clear") context.clearRect(0, 0, width, height);
  else if (stroke.kind === "invert") {
    context.globalCompositeOperation = "xor";
    context.fillStyle = colour;
    context.fillRect(0, 0, width, height);
  } else {
    context.globalCompositeOperation = stroke.erase ? "destination-out" : "source-over";
    context.strokeStyle = colour;
    context.lineWidth = stroke.size;
    context.lineCap = "round";
    context.lineJoin = "round";
    trace(context, stroke.points);
  }
  context.restore();
}

function trace(context: Context, points: number[]): void {
  const [x = 0, y = 0] = points;
  context.beginPath();
  context.moveTo(x, y);
  // A line of no length is a dot, because its ends are round.
  context.lineTo(x, y);
  for (let at = 2; at + 1 < points.length; at += 2) context.lineTo(points[at] ?? 0, points[at + 1] ?? 0);
  context.stroke();
}
