/** Pictures and masks on canvases. */
import { cover, type Size } from "./fit.ts";
import { draw, type Stroke } from "./strokes.ts";

export interface Surface {
  canvas: HTMLCanvasElement;
  context: CanvasRenderingContext2D;
}

export function surface({ width, height }: Size): Surface {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  if (!context) throw new Error("The browser cannot draw on a canvas of this size.");
  context.imageSmoothingQuality = "high";
  return { canvas, context };
}

export function loadImage(url: string): Promise<HTMLImageElement> {
  const image = new Image();
  image.src = url;
  return image.decode().then(
    () => image,
    () => Promise.reject(new Error("The browser cannot read this picture.")),
  );
}

/** The part of `image` that covers `size`. */
export function fitted(image: CanvasImageSource & Size, size: Size): HTMLCanvasElement {
  const { canvas, context } = surface(size);
  const part = cover(image, size);
  context.drawImage(image, part.x, part.y, part.width, part.height, 0, 0, size.width, size.height);
  return canvas;
}

/** The mask in the size of its picture: `colour` where it is painted, else transparent. */
export function painted(strokes: Stroke[], of: Size, colour: string): HTMLCanvasElement {
  const { canvas, context } = surface(of);
  for (const stroke of strokes) draw(context, stroke, of.width, of.height, colour);
  return canvas;
}

/** The mask as the server reads it: white is drawn, black is kept. */
export function fittedMask(strokes: Stroke[], of: Size, size: Size): HTMLCanvasElement {
  const { canvas, context } = surface(size);
  context.fillStyle = "#000";
  context.fillRect(0, 0, size.width, size.height);
  context.drawImage(fitted(painted(strokes, of, "#fff"), size), 0, 0);
  return canvas;
}

/** A PNG in base64, without the beginning of a data URL. */
export function base64(canvas: HTMLCanvasElement): string {
  const url = canvas.toDataURL("image/png");
  return url.slice(url.indexOf(",") + 1);
}

export function pngOf(canvas: HTMLCanvasElement): Promise<Blob> {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) =>
      blob ? resolve(blob) : reject(new Error("The picture is too large to be written.")),
    );
  });
}
