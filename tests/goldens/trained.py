"""Goldens of the trained model, from the seed alone.

    python tests/goldens/trained.py demo/model tests/goldens/trained

Reads the diffusers directory, writes `manifest.json` and `goldens.safetensors`.
"""

import sys
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from record import ODD_PROMPTS, SCHEDULERS, Recorder, case, quiet


def cases(side: int) -> list[dict]:
    """`side` is the width and height in pixels on which the model was trained."""
    tall = side * 3 // 2 // 8 * 8
    return [
        case("a red apple on a blue background", "ddim", 20, side, side, 1, guidance_scale=3.0),
        case("a cat, yellow background", "ddim", 20, side, side, 2, negative_prompt="dog", guidance_scale=4.0),
        case("a small rocket on a black background", "euler", 10, side, side, 3),
        case("A big Dog on a white background!", "euler_ancestral", 10, side, side, 4, guidance_scale=3.0),
        case("a banana on a green background", "ddpm", 20, side, side, 5),
        case("a house on a purple background", "ddim", 20, side, side, 6, eta=1.0),
        case("a tree on a pink background", "ddim", 10, side, tall, 7),
        case("", "euler", 10, side, side, 8, guidance_scale=1.0),
        *(
            case("a cat on a green background", scheduler, 7, side, side, 8, guidance_scale=3.0)
            for scheduler in sorted(SCHEDULERS.keys() - {"ddim", "ddpm", "euler", "euler_ancestral"})
        ),
    ]


def main() -> None:
    model, folder = map(Path, sys.argv[1:])
    torch.set_num_threads(1)
    quiet()
    variant = "fp16" if any(model.glob("unet/*.fp16.*")) else None
    pipe = StableDiffusionPipeline.from_pretrained(model, variant=variant, dtype=torch.float32)
    pipe.safety_checker = None
    recorder = Recorder(pipe, folder.name)
    recorder.tokens(ODD_PROMPTS)
    recorder.text_states(["a red apple on a blue background"])
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    for settings in cases(side):
        recorder.end_to_end(settings)
    recorder.write(folder)


if __name__ == "__main__":
    main()
