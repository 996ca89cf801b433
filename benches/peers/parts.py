"""The parts of a model that are timed, as PyTorch modules in f32, and what they are given.

Sizes are those of one guided 512x512 picture: the U-Net gets a batch of two, decoder and text encoder one.
"""

import logging
import os
import warnings

# Weights that the measured part does not read, deprecations of the tracer: nothing that changes a time.
warnings.filterwarnings("ignore")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("NNCF_LOG_LEVEL", "ERROR")

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from diffusers import AutoencoderKL, UNet2DConditionModel  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel  # noqa: E402

logging.disable(logging.WARNING)

PARTS = ("text", "unet", "vae")


def read(module, path, skip=()):
    """Fills `module` from a file, in f32. Published files and ours differ in how 1x1 convolutions are written down."""
    own = module.state_dict()
    stored = {
        # transformers 5 leaves out what every name of the file begins with.
        name.removeprefix("text_model."): value
        for name, value in load_file(path).items()
        if not name.startswith(skip)
    }
    missing = {name for name in own if name not in stored and not name.endswith("position_ids")}
    if missing or not stored.keys() <= own.keys():
        raise SystemExit(f"{path}: missing {sorted(missing)[:3]}, surplus {sorted(stored.keys() - own.keys())[:3]}")
    module.load_state_dict(
        {name: value.to(torch.float32).reshape(own[name].shape) for name, value in stored.items()}, strict=False
    )
    return module


class UNet(torch.nn.Module):
    """`[2, 4, h/8, w/8]` latents, a timestep, `[2, 77, channels]` text states → predicted noise."""

    def __init__(self, directory):
        super().__init__()
        model = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(f"{directory}/unet"))
        self.model = read(model, f"{directory}/unet/diffusion_pytorch_model.safetensors")

    def forward(self, latents, timestep, text_states):
        return self.model(latents, timestep, text_states, return_dict=False)[0]

    def inputs(self, random, side):
        channels = self.model.config.cross_attention_dim
        timestep = torch.randint(1, 1000, (1,), generator=random)
        return (
            torch.randn(2, self.model.config.in_channels, side // 8, side // 8, generator=random),
            timestep,
            torch.randn(2, 77, channels, generator=random),
        )


class Decoder(torch.nn.Module):
    """`[1, 4, h/8, w/8]` latents → `[1, 3, h, w]` pixels."""

    def __init__(self, directory):
        super().__init__()
        model = AutoencoderKL.from_config(AutoencoderKL.load_config(f"{directory}/vae"))
        del model.encoder, model.quant_conv
        file = f"{directory}/vae/diffusion_pytorch_model.safetensors"
        self.model = read(model, file, skip=("encoder.", "quant_conv."))

    def forward(self, latents):
        return self.model.decode(latents, return_dict=False)[0]

    def inputs(self, random, side):
        return (torch.randn(1, self.model.config.latent_channels, side // 8, side // 8, generator=random),)


class TextEncoder(torch.nn.Module):
    """`[1, 77]` token ids → `[1, 77, channels]` text states."""

    def __init__(self, directory):
        super().__init__()
        model = CLIPTextModel(CLIPTextConfig.from_pretrained(f"{directory}/text_encoder"))
        self.model = read(model, f"{directory}/text_encoder/model.safetensors")

    def forward(self, token_ids):
        return self.model(token_ids, return_dict=False)[0]

    def inputs(self, random, _side):
        return (torch.randint(0, self.model.config.vocab_size, (1, 77), generator=random),)


def load(part, directory):
    """The part as a module that is ready to run."""
    kinds = {"unet": UNet, "vae": Decoder, "text": TextEncoder}
    return kinds[part](directory).eval()


def seeded():
    """Where the inputs of every peer come from."""
    return torch.Generator().manual_seed(7)
