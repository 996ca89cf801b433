"""Draws the pictures of the model card: `python demo/card.py --run DIR`.

  card/loss.png      the three stages' loss curves
  card/samples.png   prompts from demo/prompts.json, one per thing
  card/vae.png       compositions above their way through the VAE
"""

import argparse
import csv
import json
import math
from pathlib import Path

import numpy as np
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

import common
from data import DEFAULT_FONT, Composer
from evaluate import draw
from judge import HERE, PROMPTS
from things import DEFAULT_COUNT
from vae import decode_latents, encode_pictures, load_vae

CARD = HERE / "card"


def grid(pictures, columns):
    """[n, h, w, 3] -> one picture; n must be a multiple of `columns`."""
    rows = [np.concatenate(pictures[i : i + columns], 1) for i in range(0, len(pictures), columns)]
    return Image.fromarray(np.concatenate(rows, 0))


def curve(path, width=260, height=150):
    """A small plot of a stage's loss, logarithmic upwards."""
    with path.open() as file:
        rows = [(int(row["step"]), math.log10(float(row["loss"]))) for row in csv.DictReader(file)]
    steps, losses = zip(*rows)
    low, high = min(losses), max(losses)
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    left, top, right, bottom = 44, 22, width - 10, height - 20
    pen.rectangle((left, top, right, bottom), outline="#999999")

    def place(step, loss):
        x = left + (right - left) * step / steps[-1]
        return x, bottom - (bottom - top) * (loss - low) / (high - low)

    pen.line([place(*row) for row in rows], fill="#2060c0", width=2)
    pen.text((left, 6), f"{path.parent.name}: loss", fill="black")
    pen.text((4, top), f"{10**high:.3g}", fill="black")
    pen.text((4, bottom - 10), f"{10**low:.3g}", fill="black")
    pen.text((right - 60, bottom + 4), f"{steps[-1]} steps", fill="black")
    return image


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder given to train.py as --out")
    parser.add_argument("--model", type=Path, default=HERE / "model")
    parser.add_argument("--things", type=int, default=DEFAULT_COUNT)
    parser.add_argument("--font", default=DEFAULT_FONT)
    args = parser.parse_args()
    common.start(0, 2)
    CARD.mkdir(exist_ok=True)

    curves = [curve(args.run / stage / "loss.csv") for stage in ("clip", "vae", "unet")]
    plot = Image.new("RGB", (sum(image.width for image in curves), curves[0].height))
    for i, image in enumerate(curves):
        plot.paste(image, (i * image.width, 0))
    plot.save(CARD / "loss.png", optimize=True)

    vae = load_vae(args.run / "vae")
    originals = Composer(args.things, (0, 9), args.font).batch(12).pixels
    copies = common.to_pixels(decode_latents(vae, encode_pictures(vae, originals)))
    grid(np.concatenate([originals, copies]), 12).save(CARD / "vae.png", optimize=True)

    pipeline = StableDiffusionPipeline.from_pretrained(args.model)
    pipeline.set_progress_bar_config(disable=True)
    guidance = json.loads((args.model / "sdq.json").read_text())["guidance_scale"]
    prompts = json.loads(PROMPTS.read_text())[: 2 * args.things : 2]
    grid(draw(pipeline, prompts, 20, guidance), 10).save(CARD / "samples.png", optimize=True)


if __name__ == "__main__":
    main()
