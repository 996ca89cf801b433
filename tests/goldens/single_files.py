"""Makes tiny models as single files, and the goldens that diffusers computes with them.

    python tests/goldens/single_files.py DIFFUSERS_CHECKOUT

Each goes to `tests/goldens/NAME/`: `model.safetensors` is what diffusers' own scripts write (see `layouts.py`), with what
published files have beside (`model.ckpt` and `model.gguf` the same once more), `tokenizer/` the tokenizer, the rest as `families.py` has it. What such a file does not tell,
heads and activation and scheduler, is here what its family does.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import diffusers
import gguf
import torch
from safetensors.torch import load_file, save_file

import families
from families import DDIM, Family, FamilyRecorder, VAE, XL_GAINS, added, scheduler, text_config, unet_config
from layouts import single_file
from pipelines import APPLE, BAD, FOX, SD1_SCHEDULER, vae_config
from record import case, quiet

HERE = Path(__file__).parent

# The scripts count on two layers a level, on four levels in the autoencoder, and on a coarsest level that does not
# attend, but for SDXL's.
FOUR = vae_config((8, 8, 16, 16), layers=1, sample_size=64, scaling_factor=0.18215)
XL_FOUR = {**FOUR, "scaling_factor": 0.13025}

MODELS = {
    "single_sd1": Family(
        pipeline="StableDiffusionPipeline",
        seed=31,
        text_encoder=text_config(64, 2, 1, "quick_gelu"),
        unet=unet_config((16, 32), "x.", 64, 8, layers_per_block=2, norm_num_groups=16),
        vae=FOUR,
        scheduler=SD1_SCHEDULER,
        cases=[case(APPLE, "pndm", 6, 64, 64, 1, negative_prompt=BAD), case(FOX, "ddim", 5, 72, 56, 2)],
    ),
    "single_sd2": Family(
        pipeline="StableDiffusionPipeline",
        seed=32,
        text_encoder=text_config(64, 2, 1, "gelu"),
        tokenizers={"merges": 24, "pad_token": "!"},
        unet=unet_config(
            (16, 32), "x.", 64, 8, layers_per_block=2, norm_num_groups=16, use_linear_projection=True
        ),
        vae=FOUR,
        scheduler=scheduler("DDIMScheduler", **DDIM, prediction_type="v_prediction"),
        cases=[case(APPLE, "ddim", 6, 64, 64, 3, negative_prompt=BAD)],
    ),
    "single_sdxl": Family(
        pipeline="StableDiffusionXLPipeline",
        seed=33,
        random_share=0.5,
        text_encoder=text_config(64, 2, 1, "quick_gelu"),
        text_encoder_2=text_config(64, 2, 1, "gelu", projection_dim=24),
        unet=unet_config(
            (16, 16, 16), ".xx", 128, 8, layers_per_block=2, norm_num_groups=16, use_linear_projection=True,
            transformer_layers_per_block=(1, 1, 2), **added(6, 24),
        ),
        vae=XL_FOUR,
        scheduler=scheduler("EulerDiscreteScheduler", interpolation_type="linear", use_karras_sigmas=False),
        index={"force_zeros_for_empty_prompt": True},
        cases=[case(APPLE, "euler", 6, 64, 64, 4, guidance_scale=5.0)],
    ),
}
# Groups of the autoencoder's norms: as many as divide its widths.
for model in MODELS.values():
    model.vae = {**model.vae, "norm_num_groups": 8}


def original(name: str, model: Path, scripts: Path) -> dict:
    """The directory's weights under the names of the family's original files."""
    family = name.removeprefix("single_").replace("sd1", "sd15").replace("sd2", "sd21")
    weights = {path.parent.name: load_file(path) for path in model.glob("*/*.safetensors")}
    texts = [weights[key] for key in ("text_encoder", "text_encoder_2") if key in weights]
    tensors = single_file(family, scripts, weights["unet"], weights["vae"], texts)
    if family == "sd21":
        # What the original encoder has behind the states that the model reads.
        open_clip = "cond_stage_model.model."
        block = f"{open_clip}transformer.resblocks.1."
        last = {key.replace(block, block.replace(".1.", ".2.")): torch.full_like(value, 9.0)
                for key, value in tensors.items() if key.startswith(block)}
        tensors |= last
        tensors[f"{open_clip}text_projection"] = torch.full((64, 64), 9.0, dtype=torch.float16)
        tensors[f"{open_clip}logit_scale"] = torch.tensor(4.6)
    if family == "sd15":
        positions = "cond_stage_model.transformer.text_model.embeddings.position_ids"
        tensors[positions] = torch.arange(77).unsqueeze(0)
        tensors["model_ema.decay"] = torch.tensor(0.9999)
        tensors["alphas_cumprod"] = torch.linspace(1, 0, 1000)
    return {key: value.contiguous() for key, value in tensors.items()}


def write_others(tensors: dict, folder: Path) -> None:
    """The same tensors as trainers and llama.cpp's family pack them."""
    torch.save({"global_step": 7, "state_dict": tensors}, folder / "model.ckpt")
    writer = gguf.GGUFWriter(folder / "model.gguf", "sd1")
    for name, tensor in tensors.items():
        # Buffers of whole numbers are left out, as stable-diffusion.cpp does.
        if tensor.is_floating_point():
            writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    scripts = Path(sys.argv[1]) / "scripts"
    quiet()
    torch.set_num_threads(1)
    for name, family in MODELS.items():
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory() as temporary:
            model = Path(temporary) / "model"
            families.build(family, model)
            pipe = getattr(diffusers, family.pipeline).from_pretrained(model, dtype=torch.float32)
            recorder = FamilyRecorder(pipe, name)
            for settings in family.cases:
                recorder.run(settings)
            recorder.write(folder)
            tensors = original(name, model, scripts)
            save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
            if name == "single_sd1":
                write_others(tensors, folder)
            shutil.copytree(model / "tokenizer", folder / "tokenizer")
        print(name, (folder / "model.safetensors").stat().st_size)


if __name__ == "__main__":
    main()
