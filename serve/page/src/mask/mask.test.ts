import assert from "node:assert/strict";
import { test } from "node:test";
import { cover, shapeOf, within } from "./fit.ts";
import { draw, paints, type Brush } from "./strokes.ts";

const brush = (erase: boolean, points = [1, 2]): Brush => ({ kind: "brush", erase, size: 8, points });

test("the middle of a picture covers the target", () => {
  assert.deepEqual(cover({ width: 200, height: 100 }, { width: 64, height: 64 }), {
    x: 50,
    y: 0,
    width: 100,
    height: 100,
  });
  assert.deepEqual(cover({ width: 64, height: 64 }, { width: 64, height: 64 }), {
    x: 0,
    y: 0,
    width: 64,
    height: 64,
  });
  assert.deepEqual(cover({ width: 10, height: 10 }, { width: 40, height: 20 }), {
    x: 0,
    y: 2.5,
    width: 10,
    height: 5,
  });
});

test("a shape keeps its proportions and the usual number of pixels", () => {
  assert.deepEqual(shapeOf({ width: 4000, height: 3000 }, { width: 512, height: 512 }), {
    width: 592,
    height: 440,
  });
  assert.deepEqual(shapeOf({ width: 1, height: 1000 }, { width: 64, height: 64 }), {
    width: 8,
    height: 2024,
  });
});

test("large pictures become smaller, small ones stay", () => {
  assert.deepEqual(within({ width: 4096, height: 1024 }, 2048), { width: 2048, height: 512 });
  assert.deepEqual(within({ width: 64, height: 32 }, 2048), { width: 64, height: 32 });
});

test("a mask is empty until something is painted", () => {
  assert.equal(paints([]), false);
  assert.equal(paints([brush(true)]), false);
  assert.equal(paints([brush(false)]), true);
  assert.equal(paints([brush(false), { kind: "clear" }]), false);
  assert.equal(paints([{ kind: "invert" }]), true);
});

test("strokes follow their points, and erasing removes", () => {
  const calls: string[] = [];
  const context = new Proxy({} as CanvasRenderingContext2D, {
    get:
      (_, name) =>
      (...values: unknown[]) =>
        calls.push(`${String(name)} ${values.join(" ")}`.trim()),
    set: (_, name, value) => calls.push(`${String(name)}=${value}`) > 0,
  });
  draw(context, brush(true, [1, 2, 3, 4]), 10, 10, "red");
  assert.ok(calls.includes("globalCompositeOperation=destination-out"));
  assert.ok(calls.includes("lineWidth=8"));
  assert.deepEqual(
    calls.filter((call) => call.startsWith("moveTo") || call.startsWith("lineTo")),
    ["moveTo 1 2", "lineTo 1 2", "lineTo 3 4"],
  );
  calls.length = 0;
  draw(context, { kind: "clear" }, 10, 20, "red");
  assert.deepEqual(calls, ["save", "clearRect 0 0 10 20", "restore"]);
});
