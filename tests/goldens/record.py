"""Runs a `StableDiffusionPipeline` and writes down what comes out: `manifest.json` beside `goldens.safetensors`."""

import json
from importlib.metadata import version
from pathlib import Path

import diffusers
import torch
import transformers
from safetensors.torch import save_file

SCHEDULERS = {
    "ddim": diffusers.DDIMScheduler,
    "ddpm": diffusers.DDPMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "pndm": diffusers.PNDMScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "lms": diffusers.LMSDiscreteScheduler,
    "kdpm2": diffusers.KDPM2DiscreteScheduler,
    "kdpm2_ancestral": diffusers.KDPM2AncestralDiscreteScheduler,
    "dpm_multistep": diffusers.DPMSolverMultistepScheduler,
    "dpm_singlestep": diffusers.DPMSolverSinglestepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "deis": diffusers.DEISMultistepScheduler,
    "lcm": diffusers.LCMScheduler,
    "tcd": diffusers.TCDScheduler,
}

ODD_PROMPTS = [
    "",
    " ",
    "a red apple on a blue background",
    "A Red APPLE",
    "it's we've they're I'm don't he'll she'd DON'T",
    "1998 35mm 4k 3.14 10,000",
    "  many   spaces\tand\ttabs  ",
    "two\nlines\r\nthree\n\n",
    "café naïve Ångström ÀÉÎÕÜ straße İstanbul",
    "cafe\u0301 combining, full width ＡＢＣ, no\u00a0break, em\u2003space, zero\u200bwidth",
    "🍎 on a 🟦 background 👩‍🚀🏳️‍🌈",
    "猫と犬 고양이 кошка قطة",
    "(masterpiece:1.2), [blurry]; {a|b} <lora:x> -- \"quoted\" … “curly”",
    "wow!!! ! a!b",
    "under_score x_y __init__",
    "<|endoftext|> in the middle <|startoftext|>",
    "² ½ Ⅷ ① ٣",
    "\u0000control\u0007characters\ufeff",
    "antidisestablishmentarianism" * 4,
    "word " * 300,
    "a!" * 120,
]


def quiet() -> None:
    """Silences progress bars and the warning that prints every prompt too long for the model."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


class Recorder:
    """Collects named tensors and the cases that refer to them."""

    def __init__(self, pipe, name: str):
        self.pipe = pipe
        if pipe is not None:
            pipe.set_progress_bar_config(disable=True)
            self.scheduler_config = pipe.scheduler.config
        self.tensors: dict[str, torch.Tensor] = {}
        self.manifest: dict = {
            "pipeline": name,
            "versions": {p: version(p).split("+")[0] for p in ("torch", "diffusers", "transformers")},
        }

    def add(self, case: str, section: str, settings: dict, **tensors: torch.Tensor) -> None:
        """One case of `section`: its settings in the manifest, its tensors as `case.tensor`."""
        self.manifest.setdefault(section, []).append({"case": case, **settings})
        for tensor_name, tensor in tensors.items():
            assert tensor.dtype == torch.uint8 or tensor.isfinite().all(), f"{case}.{tensor_name} is not finite"
            self.tensors[f"{case}.{tensor_name}"] = tensor.contiguous()

    def tokens(self, prompts: list[str]) -> None:
        """Token ids as `StableDiffusionPipeline.encode_prompt` makes them."""
        tokenizer = self.pipe.tokenizer
        rows = tokenizer(prompts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True)
        self.manifest["tokens"] = [{"prompt": p, "ids": ids} for p, ids in zip(prompts, rows.input_ids)]

    @torch.no_grad()
    def text_states(self, prompts: list[str]) -> None:
        for i, prompt in enumerate(prompts):
            states = self.pipe.encode_prompt(prompt, "cpu", 1, False)[0]
            self.add(f"text_states.{i}", "text_states", {"prompt": prompt}, text_states=states[0])

    @torch.no_grad()
    def noise_pred(self, sizes: list[tuple[int, int]], timesteps: list[int], prompts: list[str]) -> None:
        """The U-Net alone; sizes are (height, width) of the latents, one batch row per prompt."""
        generator = torch.Generator().manual_seed(7)
        text_states = self.pipe.encode_prompt(prompts, "cpu", 1, False)[0]
        for i, (size, timestep) in enumerate(zip(sizes, timesteps)):
            latents = torch.randn((len(prompts), self.pipe.unet.config.in_channels, *size), generator=generator)
            noise_pred = self.pipe.unet(latents, timestep, encoder_hidden_states=text_states).sample
            settings = {"timestep": timestep, "prompts": prompts}
            self.add(f"unet.{i}", "unet", settings, latents=latents, noise_pred=noise_pred)
        self.tensors["unet.text_states"] = text_states

    @torch.no_grad()
    def vae(self, sizes: list[tuple[int, int]]) -> None:
        """Encoder and decoder alone; sizes are (height, width) of the latents.

        `encode`: pixels in [-1, 1] to the mean and standard deviation of the latents before scaling.
        `decode`: latents before scaling to pixels, neither clamped nor rounded.
        """
        generator = torch.Generator().manual_seed(8)
        vae = self.pipe.vae
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        for i, (height, width) in enumerate(sizes):
            pixels = torch.rand((1, 3, height * factor, width * factor), generator=generator) * 2 - 1
            moments = vae.encode(pixels).latent_dist
            self.add(f"encode.{i}", "encode", {}, pixels=pixels, mean=moments.mean, std=moments.std)
            latents = torch.randn((1, 4, height, width), generator=generator)
            self.add(f"decode.{i}", "decode", {}, latents=latents, pixels=vae.decode(latents).sample)

    def end_to_end(self, case: dict) -> None:
        """From the seed alone: the last latents (before the scaling is undone) and the picture, 8-bit [h, w, 3]."""
        self.pipe.scheduler = SCHEDULERS[case["scheduler"]].from_config(self.scheduler_config)
        steps = []

        def keep_latents(_pipe, _step, _timestep, tensors):
            steps.append(tensors["latents"])
            return tensors

        pictures = self.pipe(
            case["prompt"],
            negative_prompt=case["negative_prompt"],
            width=case["width"],
            height=case["height"],
            num_inference_steps=case["steps"],
            guidance_scale=case["guidance_scale"],
            eta=case["eta"],
            generator=torch.Generator("cpu").manual_seed(case["seed"]),
            callback_on_step_end=keep_latents,
            output_type="np",
        ).images
        picture = torch.from_numpy((pictures[0] * 255).round().astype("uint8"))
        name = f"end_to_end.{len(self.manifest.get('end_to_end', []))}"
        self.add(name, "end_to_end", case, latents=steps[-1], picture=picture)

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors, folder / "goldens.safetensors")
        (folder / "manifest.json").write_text(compact_json(self.manifest))


def case(prompt: str, scheduler: str, steps: int, width: int, height: int, seed: int, **options) -> dict:
    """Settings of one end-to-end case, every one of them stated."""
    settings = {
        "prompt": prompt,
        "negative_prompt": "",
        "scheduler": scheduler,
        "eta": 0.0,
        "steps": steps,
        "width": width,
        "height": height,
        "guidance_scale": 7.5,
        "seed": seed,
    }
    known = settings.keys() | {"guidance_rescale", "image_guidance_scale", "strength", "mask"}
    assert options.keys() <= known, f"unknown option among {options.keys()}"
    return {**settings, **options}


def compact_json(manifest: dict) -> str:
    """JSON with one line per case, so that a change shows as the line that changed."""
    sections = []
    for key, value in manifest.items():
        if isinstance(value, list):
            rows = ",\n".join("    " + json.dumps(row, ensure_ascii=True) for row in value)
            sections.append(f"  {json.dumps(key)}: [\n{rows}\n  ]")
        else:
            sections.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(sections) + "\n}\n"
