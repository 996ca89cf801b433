"""A classifier that names the thing and the background of a picture.

Trained on fresh compositions, half of them sent through the VAE and some blurred
or shifted in brightness, so that it judges what is drawn and not how sharply.
Its layers start as CLIP's image tower, which is no part of the model it judges.

    python demo/judge.py train --run DIR            trains and saves demo/judge.safetensors
    python demo/judge.py --pictures DIR             judges 000.png, 001.png, ... by prompts.json
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import common
from clip import ImageTower
from common import Stage, autocast, learning_rate, to_tensor
from data import DEFAULT_FONT, SIDE, Composer
from things import BACKGROUNDS, DEFAULT_COUNT, load_things
from vae import decode_latents, encode_pictures, load_vae

HERE = Path(__file__).parent
WEIGHTS = HERE / "judge.safetensors"
PROMPTS = HERE / "prompts.json"


class Judge(nn.Module):
    """The layout of CLIP's image tower with one output per thing and per colour."""

    def __init__(self, things):
        super().__init__()
        self.things = things
        self.tower = ImageTower(outputs=things + len(BACKGROUNDS))

    def forward(self, images):
        """[n, 3, 64, 64] -> scores [n, things], [n, colours]."""
        scores = 10 * self.tower(images).float()  # a larger scale learns faster
        return scores.split([self.things, len(BACKGROUNDS)], dim=1)


@torch.no_grad()
def spoil(images, vae, rng):
    """What generated pictures may suffer from: the VAE, blur, noise, shading."""
    images = images.clone()
    half = len(images) // 2
    latents = encode_pictures(vae, common.to_pixels(images[:half]))
    latents += 0.15 * torch.randn_like(latents) * torch.rand(half, 1, 1, 1)
    images[:half] = decode_latents(vae, latents)
    blurred = F.avg_pool2d(F.pad(images[::4], (1, 1, 1, 1), mode="replicate"), 3, 1)
    images[::4] = blurred
    images += 0.06 * torch.randn(len(images), 3, 1, 1)
    images += 0.1 * torch.rand(len(images), 1, 1, 1) * torch.randn_like(images)
    return images.clamp(-1, 1)


def train_judge(folder, vae, tower, composer, steps, batch=96, rate=1e-3):
    judge = Judge(len(composer.things))
    judge.tower.levels.load_state_dict(tower.levels.state_dict())
    optimizer = torch.optim.AdamW(judge.parameters(), rate, weight_decay=0.01)
    stage = Stage(folder, {"judge": judge, "optimizer": optimizer})
    composer.reseed(stage.step)
    while stage.step < steps:
        for group in optimizer.param_groups:
            group["lr"] = rate * learning_rate(stage.step, steps, warmup=50, decay=steps // 2)
        data = composer.batch(batch)
        images = spoil(to_tensor(data.pixels), vae, composer.rng)
        with autocast():
            thing, colour = judge(images)
        things, colours = torch.from_numpy(data.things), torch.from_numpy(data.colours)
        loss = F.cross_entropy(thing, things) + F.cross_entropy(colour, colours)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        right = (thing.argmax(1) == things).float().mean()
        right_colour = (colour.argmax(1) == colours).float().mean()
        stage.tick(log_every=20, loss=loss.item(), thing=right.item(), colour=right_colour.item())
    stage.save()
    return judge.eval()


@torch.no_grad()
def names_of(judge, pixels):
    """[n, 64, 64, 3] uint8 -> the names of things and backgrounds seen."""
    things = [thing.name for thing in load_things(judge.things)]
    colours = list(BACKGROUNDS)
    thing, colour = judge(to_tensor(pixels))
    return [things[i] for i in thing.argmax(1)], [colours[i] for i in colour.argmax(1)]


def load_judge(path=WEIGHTS):
    state = load_file(path)
    judge = Judge(len(state["tower.head.bias"]) - len(BACKGROUNDS))
    judge.load_state_dict({name: value.float() for name, value in state.items()})
    return judge.eval()


def verdict(judge, pixels, prompts):
    """Compares what the judge sees with what the prompts asked for."""
    things, colours = names_of(judge, pixels)
    wrong = []
    right_thing = right_colour = right_both = 0
    for i, (prompt, thing, colour) in enumerate(zip(prompts, things, colours)):
        a, b = thing == prompt["thing"], colour == prompt["background"]
        right_thing += a
        right_colour += b
        right_both += a and b
        if not (a and b):
            wrong.append({"index": i, "prompt": prompt["prompt"], "seen": f"{thing} on {colour}"})
    n = len(things)
    return {
        "pictures": n,
        "thing": right_thing / n,
        "colour": right_colour / n,
        "both": right_both / n,
        "wrong": wrong,
    }


def show(result):
    print(f"{result['pictures']} pictures", end=": ")
    print(", ".join(f"{key} {100 * result[key]:.1f} %" for key in ("thing", "colour", "both")))
    for miss in result["wrong"][:40]:
        print(f"  {miss['index']:03}  {miss['prompt']}  ->  {miss['seen']}")


def load_pictures(folder, prompts):
    """The pictures that exist among 000.png, 001.png, ... and their prompts."""
    pixels, kept = [], []
    for i, prompt in enumerate(prompts):
        path = folder / f"{i:03}.png"
        if path.exists():
            image = Image.open(path).convert("RGB")
            if image.size != (SIDE, SIDE):
                raise SystemExit(f"{path} is {image.size}, not {SIDE} x {SIDE}")
            pixels.append(np.asarray(image))
            kept.append(prompt)
    if not kept:
        raise SystemExit(f"no picture named 000.png, 001.png, ... in {folder}")
    return np.stack(pixels), kept


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", nargs="?", choices=["judge", "train"], default="judge")
    parser.add_argument("--pictures", type=Path, help="folder of 000.png, 001.png, ...")
    parser.add_argument("--prompts", type=Path, help="default: the one beside the pictures, else ours")
    parser.add_argument("--json", type=Path, help="write the verdict here too")
    parser.add_argument("--run", type=Path, help="training: folder given to train.py as --out")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--things", type=int, default=DEFAULT_COUNT)
    parser.add_argument("--font", default=DEFAULT_FONT)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    common.start(7, args.threads)

    if args.action == "train":
        if not args.run:
            parser.error("train needs --run")
        vae = load_vae(args.run / "vae")
        tower = ImageTower()
        clip = torch.load(args.run / "clip" / "checkpoint.pt", weights_only=False)["parts"]["clip"]
        tower.load_state_dict({k.removeprefix("image."): v for k, v in clip.items() if k.startswith("image.")})
        judge = train_judge(args.run / "judge", vae, tower, Composer(args.things, (7, 1), args.font), args.steps)
        save_file({name: value.half().contiguous() for name, value in judge.state_dict().items()}, WEIGHTS)
        judge = load_judge()
        data = Composer(args.things, (7, 2), args.font).batch(1100)
        names = [thing.name for thing in load_things(args.things)]
        prompts = [
            {"prompt": text, "thing": names[thing], "background": list(BACKGROUNDS)[colour]}
            for text, thing, colour in zip(data.captions, data.things, data.colours)
        ]
        print("fresh compositions, sent through the VAE:")
        latents = [encode_pictures(vae, part) for part in np.array_split(data.pixels, 10)]
        show(verdict(judge, np.concatenate([common.to_pixels(decode_latents(vae, x)) for x in latents]), prompts))
        return

    if not args.pictures:
        parser.error("--pictures is needed")
    beside = args.pictures / "prompts.json"
    prompts = json.loads((args.prompts or (beside if beside.exists() else PROMPTS)).read_text())
    result = verdict(load_judge(), *load_pictures(args.pictures, prompts))
    show(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
