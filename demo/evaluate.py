"""Draws demo/prompts.json with diffusers and lets the judge count what is right.

    python demo/evaluate.py                         the shipped model, all prompts
    python demo/evaluate.py --write-prompts         writes demo/prompts.json anew
    python demo/evaluate.py --run DIR --limit 100   a checkpoint of a run in progress
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

import common
from judge import HERE, PROMPTS, load_judge, show, verdict
from things import BACKGROUNDS, DEFAULT_COUNT, article, load_things

PHRASES = [
    "{a}{thing} on {b}{colour} background",
    "{thing}, {colour} background",
    "a picture of {a}{thing}, {colour} background",
    "{a}small {thing} on {b}{colour} background",
    "{a}big {thing} on {colour}",
]


def write_prompts(count, rounds=3):
    """`rounds` prompts for every thing, two seeds each, phrasings and colours in turn."""
    prompts = []
    colours = list(BACKGROUNDS)
    for turn in range(rounds):
        for i, thing in enumerate(load_things(count)):
            name = thing.names[turn % len(thing.names)]
            phrase = PHRASES[(i + turn) % len(PHRASES)]
            colour = colours[(3 * i + 4 * turn + i // len(colours)) % len(colours)]
            a = article(name)
            if a and ("{a}small" in phrase or "{a}big" in phrase):
                a = "a "
            text = phrase.format(a=a, thing=name, b=article(colour), colour=colour)
            for seed in (1, 2):
                prompts.append({"prompt": text, "thing": thing.name, "background": colour, "seed": 100 * turn + seed})
    PROMPTS.write_text("[\n" + ",\n".join(json.dumps(prompt) for prompt in prompts) + "\n]\n")
    print(f"{len(prompts)} prompts written")


def draw(pipeline, prompts, steps, guidance, chunk=16):
    """One picture per prompt, each from its own seed: [n, 64, 64, 3] uint8."""
    pictures = []
    for start in range(0, len(prompts), chunk):
        part = prompts[start : start + chunk]
        generators = [torch.Generator().manual_seed(prompt["seed"]) for prompt in part]
        texts = [prompt["prompt"] for prompt in part]
        images = pipeline(
            texts, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np"
        ).images
        pictures.append((images * 255).round().astype(np.uint8))
    return np.concatenate(pictures)


def save_pictures(folder, pixels, prompts):
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{i:03}.png")
    (folder / "prompts.json").write_text(json.dumps(prompts, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=HERE / "model")
    parser.add_argument("--run", type=Path, help="judge the averaged weights of this run's last checkpoint instead")
    parser.add_argument("--guidance", type=float, nargs="+", help="default: what the model's sdq.json says")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--limit", type=int, help="only this many prompts, spread over the list")
    parser.add_argument("--save", type=Path, help="folder for the pictures, named as judge.py expects")
    parser.add_argument("--write-prompts", action="store_true")
    parser.add_argument("--things", type=int, default=DEFAULT_COUNT)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    common.start(0, args.threads)
    if args.write_prompts:
        return write_prompts(args.things)

    prompts = json.loads(PROMPTS.read_text())
    if args.limit:
        picks = np.linspace(0, len(prompts) - 1, args.limit).round().astype(int)
        prompts = [prompts[i] for i in picks]
    if args.run:
        from train import load_run  # only here: a user with a model needs no training code

        pipeline, guidance = load_run(args.run), [3.0]
    else:
        pipeline = StableDiffusionPipeline.from_pretrained(args.model)
        pipeline.set_progress_bar_config(disable=True)
        guidance = [json.loads((args.model / "sdq.json").read_text())["guidance_scale"]]
    judge = load_judge()
    for scale in args.guidance or guidance:
        pixels = draw(pipeline, prompts, args.steps, scale)
        print(f"guidance {scale}, {args.steps} steps:", flush=True)
        show(verdict(judge, pixels, prompts))
        if args.save:
            save_pictures(args.save, pixels, prompts)


if __name__ == "__main__":
    main()
