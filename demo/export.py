"""Writes the trained parts as an ordinary diffusers directory in half precision."""

import copy
import json
import shutil
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from things import BACKGROUNDS, load_things

HERE = Path(__file__).parent


def new_pipeline(vae, text, tokenizer, unet, scheduler):
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def edit_settings(path, **changes):
    """Changes a JSON file, and drops the key that says where it was made."""
    settings = json.loads(path.read_text())
    settings.pop("_name_or_path", None)
    settings.update(changes)
    path.write_text(json.dumps(settings, indent=2) + "\n")


def export(folder, pipeline, tokenizer_folder, count, guidance):
    """Replaces `folder` with the model, its licence and the defaults that suit it."""
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    half = copy.deepcopy(pipeline).to(torch.float16)
    half.save_pretrained(folder)
    # Exactly CLIP's classic tokenizer files, whatever the installed version writes.
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(tokenizer_folder, folder / "tokenizer")
    edit_settings(folder / "model_index.json")
    edit_settings(folder / "vae" / "config.json")
    edit_settings(folder / "unet" / "config.json")
    # Stored in half precision, computed in single unless the caller asks otherwise:
    # transformers 5 takes this key as the default, diffusers defaults to single.
    edit_settings(folder / "text_encoder" / "config.json", dtype="float32")

    for path in folder.rglob("*.safetensors"):
        path.chmod(0o644)  # safetensors files come out readable by their owner only

    weights = sum(p.numel() for part in (half.vae, half.text_encoder, half.unet) for p in part.parameters())
    settings = {
        "name": "sdq-demo-emoji-64",
        "description": f"One of {count} things, drawn as an emoji, on one of {len(BACKGROUNDS)} plain backgrounds. "
        'Try "a red apple on a blue background".',
        "license": "weights: MIT OR Apache-2.0; learned from Noto Color Emoji (SIL OFL 1.1)",
        "width": 64,
        "height": 64,
        "steps": 20,
        "scheduler": "ddim",
        "guidance_scale": guidance,
        "parameters": weights,
        "things": [thing.name for thing in load_things(count)],
        "backgrounds": list(BACKGROUNDS),
    }
    (folder / "sdq.json").write_text(json.dumps(settings, indent=2) + "\n")
    shutil.copy(HERE / "MODEL_LICENSE.txt", folder / "LICENSE.txt")
    return weights
