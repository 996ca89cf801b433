"""Goldens of image to image and of inpainting, from picture and seed alone.

    python tests/goldens/jobs.py

Runs the pipelines that `pipelines.py` made and the trained model; writes `jobs/manifest.json` and
`jobs/goldens.safetensors`.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline
from PIL import Image

from record import SCHEDULERS, Recorder, case, quiet

HERE = Path(__file__).parent
FOLDERS = {"trained": HERE.parent.parent / "demo/model"}
APPLE, FOX, BAD = "a red apple on a blue background", "The quick brown fox, it's 4k!", "blurry, low quality"

IMAGE_TO_IMAGE, INPAINTING = "image_to_image", "inpainting"
PIPELINES = {IMAGE_TO_IMAGE: StableDiffusionImg2ImgPipeline, INPAINTING: StableDiffusionInpaintPipeline}


def job_case(model, job, strength, *settings, **options):
    return {"model": model, "job": job, "strength": strength, **case(*settings, **options)}


CASES = [
    job_case("sd1", IMAGE_TO_IMAGE, 0.6, APPLE, "ddim", 20, 64, 64, 1),
    # 7 = 10 * 0.7 only where the strength has not been through f32.
    job_case("sd1", IMAGE_TO_IMAGE, 0.7, FOX, "euler", 10, 96, 64, 2, negative_prompt=BAD),
    job_case("sd1", IMAGE_TO_IMAGE, 1.0, APPLE, "euler_ancestral", 10, 64, 72, 3),
    job_case("sd1", IMAGE_TO_IMAGE, 0.35, APPLE, "ddpm", 20, 64, 64, 4, guidance_scale=1.0),
    job_case("fp16", IMAGE_TO_IMAGE, 0.5, FOX, "ddim", 20, 40, 56, 5, eta=0.5),
    job_case("old", IMAGE_TO_IMAGE, 0.8, APPLE, "euler", 12, 32, 40, 6),
    job_case("trained", IMAGE_TO_IMAGE, 0.6, APPLE, "ddim", 20, 64, 64, 7),
    job_case("sd1", INPAINTING, 1.0, APPLE, "ddim", 10, 64, 64, 8),
    job_case("sd1", INPAINTING, 0.7, FOX, "euler", 10, 96, 64, 9, negative_prompt=BAD),
    job_case("sd1", INPAINTING, 1.0, FOX, "euler_ancestral", 10, 64, 72, 10),
    job_case("fp16", INPAINTING, 0.8, APPLE, "ddpm", 20, 40, 56, 11),
    # Not DDIM: `StableDiffusionInpaintPipeline`, alone of the three, obeys a config that says to clip latents.
    job_case("old", INPAINTING, 1.0, APPLE, "euler", 10, 32, 40, 12),
    job_case("trained", INPAINTING, 1.0, "a cat on a green background", "euler", 20, 64, 64, 13),
]


def picture(width: int, height: int) -> np.ndarray:
    """A disc on a gradient, with a little texture."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    gradient = np.stack([x / width, y / height, 1 - x / width], axis=-1) * 200 + 20
    disc = ((x - width * 0.4) ** 2 + (y - height * 0.5) ** 2) < (min(width, height) * 0.3) ** 2
    gradient[disc] = (220, 60, 40)
    return (gradient + 12 * np.sin(x * 0.9 + y * 0.7)[..., None]).clip(0, 255).astype(np.uint8)


def mask(width: int, height: int) -> np.ndarray:
    """A slanted half, with values on both sides of the threshold at its edge."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    return ((x + 0.4 * y - 0.5 * width) * 12 + 127.5).clip(0, 255).astype(np.uint8)


def record(recorder: Recorder, settings: dict) -> None:
    pipe = PIPELINES[settings["job"]].from_pretrained(
        FOLDERS.get(settings["model"], HERE / settings["model"] / "model"),
        variant="fp16" if settings["model"] == "fp16" else None,
        dtype=torch.float32,
        safety_checker=None,
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = SCHEDULERS[settings["scheduler"]].from_config(pipe.scheduler.config)
    steps = []

    def keep_latents(_pipe, _step, _timestep, tensors):
        steps.append(tensors["latents"])
        return tensors

    size = settings["width"], settings["height"]
    inputs = {"init_image": picture(*size)}
    arguments = {"image": Image.fromarray(inputs["init_image"])}
    if settings["job"] == INPAINTING:
        inputs["mask"] = mask(*size)
        arguments |= {"mask_image": Image.fromarray(inputs["mask"]), "width": size[0], "height": size[1]}
    pictures = pipe(
        settings["prompt"],
        negative_prompt=settings["negative_prompt"],
        strength=settings["strength"],
        num_inference_steps=settings["steps"],
        guidance_scale=settings["guidance_scale"],
        eta=settings["eta"],
        generator=torch.Generator("cpu").manual_seed(settings["seed"]),
        callback_on_step_end=keep_latents,
        output_type="np",
        **arguments,
    ).images
    drawn = torch.from_numpy((pictures[0] * 255).round().astype("uint8"))
    name = f"job.{len(recorder.manifest.get('jobs', []))}"
    inputs = {key: torch.from_numpy(value) for key, value in inputs.items()}
    recorder.add(name, "jobs", settings, latents=steps[-1], picture=drawn, **inputs)


def main() -> None:
    torch.set_num_threads(1)
    quiet()
    recorder = Recorder(None, "jobs")
    for settings in CASES:
        record(recorder, settings)
    recorder.write(HERE / "jobs")


if __name__ == "__main__":
    main()
