"""Stage 2: the autoencoder between 64x64 pixels and 4x16x16 latents."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from common import Ema, Stage, autocast, learning_rate, psnr, to_tensor
from data import SIDE

LATENT_SIDE = SIDE // 4


def new_vae():
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        act_fn="silu",
        sample_size=SIDE,
    )
    # The fused attention of PyTorch is slow to differentiate on a CPU.
    vae.set_attn_processor(AttnProcessor())
    return vae


def edges(images):
    """Differences between neighbouring pixels, which a plain L1 loss blurs."""
    return images.diff(dim=2), images.diff(dim=3)


def reconstruction_loss(output, target, tower):
    """Pixels, edges and the CLIP image tower's first two levels."""
    loss = F.l1_loss(output, target) + F.mse_loss(output, target)
    for a, b in zip(edges(output), edges(target)):
        loss = loss + 0.5 * F.l1_loss(a, b)
    if tower is not None:
        n = len(output)
        first = tower.levels[0](torch.cat([output, target]))
        second = tower.levels[1](first)
        for maps in (first, second):
            loss = loss + 0.1 * F.l1_loss(maps[:n].float(), maps[n:].float())
    return loss


def vae_loss(vae, tower, images, noise):
    """Loss on [n, 3, 64, 64] images; noise is what samples the latents, [n, 4, 16, 16]."""
    with autocast():
        latents = vae.encode(images).latent_dist
        output = vae.decode(latents.mean + latents.std * noise).sample.float()
        # The mean over latent values; small, it only keeps them near a unit ball.
        kl = latents.kl().mean() / noise[0].numel()
        loss = reconstruction_loss(output, images, tower) + 5e-4 * kl
    return loss, {"loss": loss.detach(), "kl": kl.detach(), "psnr": psnr(output.detach(), images).mean()}


def train_vae(folder, composer, tower, workers, steps, batch=32, rate=1.5e-3):
    """Trains the autoencoder and returns its averaged weights.

    Sets scaling_factor so that the latents have deviation 1.
    """
    vae = new_vae()
    ema = Ema(vae, 0.998)
    optimizer = torch.optim.AdamW(vae.parameters(), rate, weight_decay=0.0, betas=(0.9, 0.99))
    stage = Stage(folder, {"vae": vae, "ema": ema, "optimizer": optimizer})
    composer.reseed(stage.step)
    parameters = list(vae.parameters())
    while stage.step < steps:
        for group in optimizer.param_groups:
            group["lr"] = rate * learning_rate(stage.step, steps, warmup=100, decay=steps // 2)
        images = to_tensor(composer.batch(batch).pixels)
        noise = torch.randn(batch, 4, LATENT_SIDE, LATENT_SIDE)
        values = workers.gradients(lambda *share: vae_loss(vae, tower, *share), parameters, images, noise)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        ema.update(vae)
        stage.tick(**values)
    stage.save()
    scale = Path(folder) / "scale.json"
    if not scale.exists():  # once a U-Net trains on these latents it must not change
        scale.write_text(json.dumps(latent_scale(ema.module, composer)))
    return load_vae(folder)


def load_vae(folder):
    """The averaged weights of a training run, once that stage has finished."""
    vae = new_vae()
    state = torch.load(Path(folder) / "checkpoint.pt", weights_only=False)
    vae.load_state_dict(state["parts"]["ema"]["module"])
    vae.register_to_config(scaling_factor=json.loads((Path(folder) / "scale.json").read_text()))
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def encode_pictures(vae, pixels):
    """[n, h, w, 3] uint8 -> scaled latents [n, 4, 16, 16]."""
    with autocast():
        return vae.encode(to_tensor(pixels)).latent_dist.mean.float() * vae.config.scaling_factor


@torch.no_grad()
def decode_latents(vae, latents):
    """Scaled latents -> [n, 3, h, w] in about -1..1."""
    with autocast():
        return vae.decode(latents / vae.config.scaling_factor).sample.float()


@torch.no_grad()
def latent_scale(vae, composer, n=512):
    with autocast():
        mean = vae.encode(to_tensor(composer.batch(n).pixels)).latent_dist.mean.float()
    return round(1 / mean.std().item(), 5)


@torch.no_grad()
def measure_vae(vae, composer, n=256):
    """Mean PSNR over fresh pictures, in float32."""
    images = to_tensor(composer.batch(n).pixels)
    return psnr(vae.decode(vae.encode(images).latent_dist.mean).sample, images).mean().item()
