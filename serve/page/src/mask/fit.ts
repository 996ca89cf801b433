/** How a start picture covers the picture to be drawn. */

export interface Size {
  width: number;
  height: number;
}

export interface Rectangle extends Size {
  x: number;
  y: number;
}

/** The part of `source`, in its middle, that has the shape of `target`. */
export function cover(source: Size, target: Size): Rectangle {
  const scale = Math.max(target.width / source.width, target.height / source.height);
  const width = target.width / scale;
  const height = target.height / scale;
  return { x: (source.width - width) / 2, y: (source.height - height) / 2, width, height };
}

const MULTIPLE = 8;
const rounded = (pixels: number) => Math.max(MULTIPLE, Math.round(pixels / MULTIPLE) * MULTIPLE);

/** The shape of `source` with about as many pixels as `usual`; sides are multiples of 8. */
export function shapeOf(source: Size, usual: Size): Size {
  const scale = Math.sqrt((usual.width * usual.height) / (source.width * source.height));
  return { width: rounded(source.width * scale), height: rounded(source.height * scale) };
}

/** `source` made smaller, if needed, so that no side is longer than `longest`. */
export function within(source: Size, longest: number): Size {
  const scale = Math.min(1, longest / Math.max(source.width, source.height));
  const side = (pixels: number) => Math.max(1, Math.round(pixels * scale));
  return { width: side(source.width), height: side(source.height) };
}
