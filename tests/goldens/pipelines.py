"""Makes three tiny Stable Diffusion pipelines and the goldens that diffusers computes with them.

    python tests/goldens/pipelines.py [NAME…]

Each goes to `tests/goldens/NAME/`: `model/` is an ordinary diffusers directory, `manifest.json` lists the cases and
`goldens.safetensors` holds their tensors. The pipelines differ in what can go wrong; see `PIPELINES`.
"""

import json
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import diffusers
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import lively
import vocabulary
from record import ODD_PROMPTS, Recorder, case, quiet

HERE = Path(__file__).parent

# As `scheduler/scheduler_config.json` of Stable Diffusion 1.5 has it: no `timestep_spacing`, no `prediction_type`.
SD1_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


@dataclass
class TinyPipeline:
    """What one pipeline is made of. Configs are those of the diffusers and transformers classes."""

    seed: int
    tokenizer: dict
    text_encoder: dict
    unet: dict
    vae: dict
    scheduler: dict
    # Called with the saved directory, to give it the shape in which such checkpoints are found.
    age: Callable[[Path], None]
    save: dict = field(default_factory=dict)
    types: dict = field(default_factory=dict)
    latent_sizes: list = field(default_factory=list)
    cases: list = field(default_factory=list)


def rewrite(path: Path, change: Callable[[dict], dict]) -> None:
    """Passes the tensors of a safetensors file through `change`."""
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def age_sd1(model: Path) -> None:
    """The text encoder as older transformers saved it: prefixed, and with its position ids."""

    def prefix(tensors):
        positions = {"text_model.embeddings.position_ids": torch.arange(77).unsqueeze(0)}
        return {f"text_model.{name}": tensor for name, tensor in tensors.items()} | positions

    rewrite(model / "text_encoder/model.safetensors", prefix)


def age_fp16(model: Path) -> None:
    """The tokenizer as one `tokenizer.json`, as newer transformers save it."""
    folder = model / "tokenizer"
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    assert (folder / "tokenizer.json").exists()


def age_old(model: Path) -> None:
    """The VAE's attention under its first names and the text encoder's keys with their prefix."""
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", r"to_out\.0": "proj_attn"}

    def rename(tensors):
        renamed = {}
        for name, tensor in tensors.items():
            for new, old in old_names.items():
                name = re.sub(rf"(mid_block\.attentions\.0)\.{new}\.", rf"\1.{old}.", name)
            renamed[name] = tensor
        assert sum(".query." in name for name in renamed) == 4
        return renamed

    rewrite(model / "vae/diffusion_pytorch_model.safetensors", rename)
    rewrite(
        model / "text_encoder/model.safetensors",
        lambda tensors: {f"text_model.{name}": tensor for name, tensor in tensors.items()},
    )


def vae_config(widths: tuple, layers: int, **options) -> dict:
    return {
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ("DownEncoderBlock2D",) * len(widths),
        "up_block_types": ("UpDecoderBlock2D",) * len(widths),
        "latent_channels": 4,
        "norm_num_groups": 8,
        **options,
    }


APPLE, FOX, BAD = "a red apple on a blue background", "The quick brown fox, it's 4k!", "blurry, low quality"

PIPELINES = {
    # Shaped like Stable Diffusion 1.5: four levels, eight heads at every width, prefixed text encoder, PNDM config.
    "sd1": TinyPipeline(
        seed=1,
        tokenizer={"merges": 220, "pad_token": vocabulary.END, "model_max_length": 77},
        text_encoder={
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 77,
            "hidden_act": "quick_gelu",
        },
        unet={
            "sample_size": 8,
            "block_out_channels": (16, 16, 32, 32),
            "layers_per_block": 2,
            "cross_attention_dim": 32,
            "attention_head_dim": 8,
            "norm_num_groups": 8,
        },
        vae=vae_config((8, 16, 16, 24), layers=1, sample_size=64, scaling_factor=0.18215),
        scheduler=SD1_SCHEDULER,
        age=age_sd1,
        latent_sizes=[(8, 8), (8, 12), (9, 13)],
        cases=[
            case(APPLE, "ddim", 20, 64, 64, 42),
            case(APPLE, "ddim", 5, 64, 96, 43, negative_prompt=BAD),
            case(FOX, "ddim", 20, 96, 64, 44, eta=0.5),
            case(FOX, "ddpm", 20, 64, 64, 45, negative_prompt=BAD),
            case(APPLE, "ddpm", 5, 64, 64, 46, guidance_scale=1.0),
            case(APPLE, "euler", 20, 72, 104, 47, negative_prompt=BAD),
            case(FOX, "euler", 1, 64, 64, 48, guidance_scale=1.0),
            case(APPLE, "euler_ancestral", 20, 64, 64, 49),
            case(FOX, "euler_ancestral", 5, 104, 72, 2**32 + 5, negative_prompt=BAD),
        ],
    ),
    # Half-precision variant files, three levels with attention in the lower two, velocity prediction, linear betas,
    # trailing timesteps, text encoder without prefix, tokenizer.json alone and "!" as padding.
    "fp16": TinyPipeline(
        seed=2,
        tokenizer={"merges": 90, "pad_token": "!", "model_max_length": 77},
        text_encoder={
            "hidden_size": 40,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 5,
            "max_position_embeddings": 77,
            "hidden_act": "gelu",
        },
        unet={
            "sample_size": 16,
            "block_out_channels": (24, 32, 56),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            "cross_attention_dim": 40,
            "attention_head_dim": 4,
            "norm_num_groups": 8,
        },
        vae=vae_config((16, 24, 32), layers=1, sample_size=64, scaling_factor=0.13025),
        scheduler={
            "_class_name": "DDIMScheduler",
            "_diffusers_version": "0.8.0",
            "beta_end": 0.02,
            "beta_schedule": "linear",
            "beta_start": 0.0001,
            "clip_sample": False,
            "num_train_timesteps": 1000,
            "prediction_type": "v_prediction",
            "set_alpha_to_one": False,
            "steps_offset": 1,
            "timestep_spacing": "trailing",
            "trained_betas": None,
        },
        age=age_fp16,
        save={"variant": "fp16"},
        types={"text_encoder": torch.float16, "unet": torch.float16, "vae": torch.float16},
        latent_sizes=[(16, 16), (10, 14), (9, 13)],
        cases=[
            case(APPLE, "ddim", 20, 64, 64, 1),
            case(APPLE, "ddim", 5, 40, 56, 2, eta=0.5, negative_prompt=BAD),
            case(FOX, "ddpm", 20, 56, 40, 3),
            case(FOX, "euler", 20, 64, 48, 4),
            case(APPLE, "euler", 5, 40, 56, 5, guidance_scale=1.0),
            case(FOX, "euler_ancestral", 20, 48, 64, 6, negative_prompt=BAD),
        ],
    ),
    # Names and shapes of other days: VAE attention as query/key/value/proj_attn, a sharded bf16 U-Net with linear
    # projections, two transformer layers, a list of head counts, `flip_sin_to_cos` off; short token sequences; and
    # a scheduler config whose `clip_sample` and `steps_offset` diffusers overrides when it builds the pipeline.
    "old": TinyPipeline(
        seed=3,
        tokenizer={"merges": 150, "pad_token": "!", "model_max_length": 40},
        text_encoder={
            "hidden_size": 36,
            "intermediate_size": 80,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "max_position_embeddings": 48,
            "hidden_act": "gelu",
        },
        unet={
            "sample_size": 16,
            "block_out_channels": (24, 40),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            "transformer_layers_per_block": 2,
            "cross_attention_dim": 36,
            "attention_head_dim": (3, 5),
            "use_linear_projection": True,
            "norm_num_groups": 8,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
        },
        vae=vae_config((16, 32), layers=1, sample_size=32, scaling_factor=0.5, norm_num_groups=16),
        scheduler={
            "_class_name": "DDPMScheduler",
            "_diffusers_version": "0.21.0",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "clip_sample": True,
            "clip_sample_range": 1.0,
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "steps_offset": 0,
            "timestep_spacing": "leading",
            "variance_type": "fixed_small",
        },
        age=age_old,
        save={"max_shard_size": "900KB"},
        types={"unet": torch.bfloat16},
        latent_sizes=[(16, 16), (12, 20), (9, 13)],
        cases=[
            case(APPLE, "ddpm", 20, 32, 32, 10),
            case(APPLE, "ddpm", 5, 24, 40, 11, negative_prompt=BAD),
            case(FOX, "ddim", 20, 40, 24, 12, eta=0.5),
            case(FOX, "euler", 20, 32, 24, 13),
            case(APPLE, "euler_ancestral", 20, 24, 32, 14, negative_prompt=BAD),
        ],
    ),
}


def build(tiny: TinyPipeline, model: Path) -> None:
    """Makes the pipeline's diffusers directory."""
    generator = torch.Generator().manual_seed(tiny.seed)
    vocabulary_size = vocabulary.write(model / "tokenizer", **tiny.tokenizer)
    tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
    text_config = CLIPTextConfig(
        vocab_size=vocabulary_size,
        bos_token_id=vocabulary_size - 2,
        eos_token_id=vocabulary_size - 1,
        pad_token_id=tokenizer.pad_token_id,
        **tiny.text_encoder,
    )
    text_encoder = CLIPTextModel(text_config).eval()
    unet = UNet2DConditionModel(**tiny.unet).eval()
    vae = AutoencoderKL(**tiny.vae).eval()
    for component in (text_encoder, unet, vae):
        lively.randomise(component, generator)
    lively.strengthen_deep_levels(unet)
    pipe = StableDiffusionPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        vae=vae,
        scheduler=getattr(diffusers, tiny.scheduler["_class_name"]).from_config(tiny.scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    prompts = [p for p in ODD_PROMPTS if p.strip()]
    with torch.no_grad():
        text_states = pipe.encode_prompt(prompts, "cpu", 1, False)[0]
    training = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    lively.fit_last_convolution(unet, training, text_states, generator)
    for name, dtype in tiny.types.items():
        getattr(pipe, name).to(dtype)
    tokenizer_files = {path.name: path.read_bytes() for path in (model / "tokenizer").iterdir()}
    pipe.save_pretrained(model, **tiny.save)
    for path in (model / "tokenizer").iterdir():
        path.unlink()
    for name, content in tokenizer_files.items():
        (model / "tokenizer" / name).write_bytes(content)
    (model / "scheduler/scheduler_config.json").write_text(json.dumps(tiny.scheduler, indent=2) + "\n")
    tiny.age(model)


def record(name: str, tiny: TinyPipeline, folder: Path) -> None:
    """Loads the directory as a user would and records what it does."""
    pipe = StableDiffusionPipeline.from_pretrained(
        folder / "model", variant=tiny.save.get("variant"), dtype=torch.float32
    )
    report = lively.assert_lively(pipe, torch.Generator().manual_seed(tiny.seed))
    print(f"{name}: change of the U-Net's output by {report}")
    recorder = Recorder(pipe, name)
    recorder.tokens(ODD_PROMPTS)
    recorder.text_states([APPLE, BAD, "", ODD_PROMPTS[10], ODD_PROMPTS[19]])
    recorder.noise_pred(tiny.latent_sizes, [999, 500, 1], [APPLE, FOX])
    recorder.vae(tiny.latent_sizes)
    for settings in tiny.cases:
        recorder.end_to_end(settings)
    recorder.write(folder)


def main() -> None:
    torch.set_num_threads(1)
    quiet()
    for name in sys.argv[1:] or PIPELINES:
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        build(PIPELINES[name], folder / "model")
        record(name, PIPELINES[name], folder)


if __name__ == "__main__":
    main()
