"""Goldens of step caching: DeepCache by its authors' package, guidance caching by its formula.

    python tests/goldens/caching.py

Runs pipelines that `pipelines.py` and `families.py` made; writes `caching/manifest.json` and
`caching/goldens.safetensors`.
"""

from pathlib import Path

import torch
from DeepCache import DeepCacheSDHelper
from diffusers import DiffusionPipeline

from record import Recorder, case, quiet

HERE = Path(__file__).parent
APPLE, FOX, BAD = "a red apple on a blue background", "The quick brown fox, it's 4k!", "blurry, low quality"


def cached(model: str, cache: str, *settings, **options) -> dict:
    return {"model": model, "cache": cache, **case(*settings, **options)}


CASES = [
    cached("sd1", "deepcache:3", APPLE, "ddim", 10, 64, 64, 1),
    # A whole level and a layer of the next on top; a number of steps that the interval does not divide.
    cached("sd1", "deepcache:2:4", FOX, "euler", 9, 96, 64, 2, negative_prompt=BAD),
    # The first skip of a level: what the level below hands up through its upsampler is cached.
    cached("sd1", "deepcache:5:2", APPLE, "dpm_multistep", 12, 64, 72, 3),
    # All but the middle and the coarsest level's first layer.
    cached("sd1", "deepcache:4:11", FOX, "euler_ancestral", 10, 64, 64, 4, guidance_scale=1.0),
    cached("sdxl", "deepcache:3:1", APPLE, "euler", 10, 32, 32, 5, negative_prompt=BAD, guidance_scale=5.0),
    cached("sd1", "guidance:2", APPLE, "ddim", 9, 64, 64, 6),
    cached("sd1", "guidance:3", FOX, "dpm_multistep", 10, 64, 72, 7, negative_prompt=BAD),
    cached("sdxl", "guidance:2", APPLE, "euler", 10, 32, 32, 8, negative_prompt=BAD, guidance_scale=5.0),
]


def cache_depths(pipe, every: int, skip: int = 0) -> None:
    # The package counts three skips a level, which only two layers have.
    block, layer = divmod(skip, pipe.unet.config.layers_per_block + 1)
    helper = DeepCacheSDHelper(pipe=pipe)
    helper.set_params(cache_interval=every, cache_branch_id=3 * block + layer)
    helper.enable()


def cache_guidance(pipe, every: int) -> None:
    """Lets the pipeline see, in place of the unconditional half, the one that gives the cached difference."""
    forward = pipe.unet.forward
    state = {"evaluation": 0}

    def cached_forward(*args, **kwargs):
        uncond, cond = forward(*args, **kwargs)[0].chunk(2)
        if state["evaluation"] % every == 0:
            state["difference"] = cond - uncond
        state["evaluation"] += 1
        return (torch.cat([cond - state["difference"], cond]),)

    pipe.unet.forward = cached_forward


CACHES = {"deepcache": cache_depths, "guidance": cache_guidance}


def main() -> None:
    torch.set_num_threads(1)
    quiet()
    recorder = Recorder(None, "caching")
    for settings in CASES:
        recorder.pipe = DiffusionPipeline.from_pretrained(
            HERE / settings["model"] / "model", dtype=torch.float32, safety_checker=None
        )
        recorder.pipe.set_progress_bar_config(disable=True)
        recorder.scheduler_config = recorder.pipe.scheduler.config
        kind, *numbers = settings["cache"].split(":")
        CACHES[kind](recorder.pipe, *map(int, numbers))
        recorder.end_to_end(settings)
    recorder.write(HERE / "caching")


if __name__ == "__main__":
    main()
