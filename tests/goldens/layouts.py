"""Lists every tensor of Stable Diffusion 1.5, 2.1 and XL as single files have it, with its name in diffusers.

Rows of the files are name, shape, and the names in diffusers: several where several weights are one tensor, none for what
is no weight.

    python tests/goldens/layouts.py DIFFUSERS_CHECKOUT

The networks are built from their published configs without memory for weights, and named by the scripts with which
diffusers writes single files (`scripts/convert_diffusers_to_original_*.py` of the checkout). What these scripts leave
out and published files have is added here: see `EXTRAS`.
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

HERE = Path(__file__).parent

CLIP_L = dict(
    vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
    max_position_embeddings=77, hidden_act="quick_gelu", projection_dim=768, bos_token_id=49406, eos_token_id=49407,
)
OPEN_CLIP_H = dict(
    vocab_size=49408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23, num_attention_heads=16,
    max_position_embeddings=77, hidden_act="gelu", projection_dim=512, bos_token_id=49406, eos_token_id=49407,
)
OPEN_CLIP_G = dict(
    vocab_size=49408, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20,
    max_position_embeddings=77, hidden_act="gelu", projection_dim=1280, bos_token_id=49406, eos_token_id=49407,
)
SD_BLOCKS = dict(
    down_block_types=["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    up_block_types=["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    block_out_channels=[320, 640, 1280, 1280],
)
UNETS = {
    "sd15": SD_BLOCKS | dict(sample_size=64, attention_head_dim=8, cross_attention_dim=768),
    "sd21": SD_BLOCKS
    | dict(sample_size=96, attention_head_dim=[5, 10, 20, 20], cross_attention_dim=1024, use_linear_projection=True),
    "sdxl": dict(
        sample_size=128, down_block_types=["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
        up_block_types=["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"], block_out_channels=[320, 640, 1280],
        attention_head_dim=[5, 10, 20], cross_attention_dim=2048, use_linear_projection=True,
        transformer_layers_per_block=[1, 2, 10], addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ),
}
VAE = dict(
    down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
    block_out_channels=[128, 256, 512, 512], layers_per_block=2, latent_channels=4,
)
# What the published files have beside the weights.
SCHEDULE = [
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod",
    "posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "logvar",
]
EXTRAS = {
    "sd15": {name: [1000] for name in SCHEDULE}
    | {
        "cond_stage_model.transformer.text_model.embeddings.position_ids": [1, 77],
        "model_ema.decay": [],
        "model_ema.num_updates": [],
        "model_ema.diffusion_modelinput_blocks00weight": [320, 4, 3, 3],
    },
    "sd21": {name: [1000] for name in SCHEDULE}
    | {
        "cond_stage_model.model.attn_mask": [77, 77],
        "cond_stage_model.model.logit_scale": [],
        "cond_stage_model.model.text_projection": [1024, 1024],
    },
    "sdxl": {
        "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": [1, 77],
        "conditioner.embedders.1.model.logit_scale": [],
        "denoiser.sigmas": [1000],
    },
}


def load_script(folder: Path, name: str):
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text_model_names(tensors: dict) -> dict:
    """With the prefix that transformers wrote before version 5."""
    inner = ("embeddings.", "encoder.", "final_layer_norm.")
    return {f"text_model.{name}" if name.startswith(inner) else name: tensor for name, tensor in tensors.items()}


def single_file(name: str, scripts: Path, unet: dict, vae: dict, text_encoders: list[dict]) -> dict:
    """The tensors of a model under the names of a single file."""
    xl = load_script(scripts, "convert_diffusers_to_original_sdxl")
    sd = load_script(scripts, "convert_diffusers_to_original_stable_diffusion")
    script = xl if name == "sdxl" else sd
    tensors = {f"model.diffusion_model.{key}": value for key, value in script.convert_unet_state_dict(unet).items()}
    tensors |= {f"first_stage_model.{key}": value for key, value in script.convert_vae_state_dict(vae).items()}
    first = text_model_names(text_encoders[0])
    if name == "sd21":
        named = sd.convert_text_enc_state_dict_v20({f"transformer.{key}": value for key, value in first.items()})
        tensors |= {f"cond_stage_model.model.{key}": value for key, value in named.items()}
    else:
        prefix = "conditioner.embedders.0.transformer." if name == "sdxl" else "cond_stage_model.transformer."
        tensors |= {f"{prefix}{key}": value for key, value in first.items()}
    if name == "sdxl":
        named = xl.convert_openclip_text_enc_state_dict(text_model_names(text_encoders[1]))
        tensors |= {f"conditioner.embedders.1.model.{key}": value for key, value in named.items()}
        projection = "conditioner.embedders.1.model.text_projection"
        weight = tensors.pop(f"{projection}.weight")
        tensors[projection] = weight.T.contiguous() if weight.dim() == 2 else weight
    return tensors


def state_dicts(name: str) -> tuple[dict, dict, list[dict]]:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[name]).state_dict()
        vae = AutoencoderKL(**VAE).state_dict()
        text_encoders = {
            "sd15": [CLIPTextModel(CLIPTextConfig(**CLIP_L))],
            "sd21": [CLIPTextModel(CLIPTextConfig(**OPEN_CLIP_H))],
            "sdxl": [
                CLIPTextModel(CLIPTextConfig(**CLIP_L)),
                CLIPTextModelWithProjection(CLIPTextConfig(**OPEN_CLIP_G)),
            ],
        }[name]
        text_encoders = [encoder.state_dict() for encoder in text_encoders]
    for encoder in text_encoders:
        for buffer in [key for key in encoder if key.endswith("position_ids")]:
            del encoder[buffer]
    return unet, vae, text_encoders


def layout(name: str, scripts: Path) -> list[dict]:
    unet, vae, text_encoders = state_dicts(name)
    shapes = single_file(name, scripts, unet, vae, text_encoders)
    # The same once more, each tensor a single number that tells which it is: the scripts join some.
    names = [f"unet.{key}" for key in unet] + [f"vae.{key}" for key in vae]
    parts = [unet, vae]
    for index, encoder in enumerate(text_encoders):
        component = "text_encoder" if index == 0 else "text_encoder_2"
        names += [f"{component}.{key}" for key in text_model_names(encoder)]
        parts.append(encoder)
    numbers = iter(range(len(names)))
    tagged = [{key: torch.tensor([next(numbers)]) for key in part} for part in parts]
    tagged = single_file(name, scripts, tagged[0], tagged[1], tagged[2:])
    rows = []
    for key, tensor in shapes.items():
        diffusers = [names[index] for index in tagged[key].flatten().tolist()]
        rows.append({"name": key, "shape": list(tensor.shape), "diffusers": diffusers})
    if name == "sd21":
        # The block that the model never runs, which diffusers does not keep.
        last = "cond_stage_model.model.transformer.resblocks.22."
        for row in [row for row in rows if row["name"].startswith(last)]:
            rows.append({"name": row["name"].replace(".22.", ".23."), "shape": row["shape"], "diffusers": []})
    rows += [{"name": key, "shape": shape, "diffusers": []} for key, shape in EXTRAS[name].items()]
    return rows


def main() -> None:
    scripts = Path(sys.argv[1]) / "scripts"
    folder = HERE / "layouts"
    folder.mkdir(exist_ok=True)
    for name in UNETS:
        rows = layout(name, scripts)
        lines = ",\n".join(json.dumps(list(row.values()), separators=(",", ":")) for row in rows)
        (folder / f"{name}.json").write_text(f"[\n{lines}\n]\n")
        print(name, len(rows))


if __name__ == "__main__":
    main()
