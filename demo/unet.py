"""Stage 3: the diffusion model on latents, conditioned on the text encoder.

The training is algorithm 1 of DDPM (Ho et al. 2020): draw a picture, a time and
noise; mix them; regress. The network predicts the velocity v (Salimans and Ho
2022), which stays well posed at the noisiest times, where the background colour
is decided. Losses are weighted by min-SNR-5 (Hang et al. 2023).
"""

import time

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from torch import nn

from clip import WIDTH as TEXT_WIDTH
from common import Ema, Stage, autocast, learning_rate
from export import new_pipeline
from tokenizer import LENGTH, encode
from vae import LATENT_SIDE, encode_pictures

SAMPLE_PROMPTS = [
    "a red apple on a blue background",
    "a cat on a green background",
    "a small dog on a pink background",
    "rocket, black background",
    "a big house on a yellow background",
    "a picture of a tree on a white background",
    "a car on purple",
    "a yellow star on a red background",
    "a banana on a gray background",
    "a panda on an orange background",
    "a penguin on brown",
    "grapes on a white background",
    "a bicycle on a green background",
    "a unicorn on a blue background",
    "a ghost on a black background",
    "a large pizza on a purple background",
]


def new_unet():
    """About 6 M weights. No attention at 16x16, where it is dear and pays least."""
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 96, 144),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=3,  # as in SD 1: the number of heads, despite its name
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=16,
        act_fn="silu",
    )
    # The fused attention of PyTorch is slow to differentiate on a CPU.
    unet.set_attn_processor(AttnProcessor())
    return unet


def new_scheduler():
    """SD 1's scheduler with a larger last beta: at t = 999 the signal is nearly
    gone, so sampling from pure noise can reach flat black and flat white."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.02,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
    )


class LatentPool:
    """Encoded pictures to draw batches from, a few replaced at every step.

    Encoding is a good part of a training step's work; the noise is fresh each
    time, so a picture may well be used several times.
    """

    def __init__(self, vae, tokenizer, composer, size=4096, chunk=128):
        self.vae, self.tokenizer, self.composer = vae, tokenizer, composer
        self.latents = torch.empty(size, 4, LATENT_SIDE, LATENT_SIDE)
        self.ids = torch.empty(size, LENGTH, dtype=torch.long)
        self.oldest = 0
        for _ in range(size // chunk):
            self.refresh(chunk)

    def refresh(self, n):
        """Replaces the n oldest pictures (n must divide the size)."""
        data = self.composer.batch(n)
        where = slice(self.oldest, self.oldest + n)
        self.latents[where] = encode_pictures(self.vae, data.pixels)
        self.ids[where] = encode(self.tokenizer, data.captions)
        self.oldest = (self.oldest + n) % len(self.latents)

    def draw(self, n):
        picks = torch.randint(len(self.latents), (n,))
        return self.latents[picks], self.ids[picks]


class Denoiser(nn.Module):
    """The two networks trained in this stage."""

    def __init__(self, unet, text):
        super().__init__()
        self.unet, self.text = unet, text

    def forward(self, noisy, times, ids):
        """[n, 4, 16, 16], [n], [n, LENGTH] -> velocity [n, 4, 16, 16]."""
        states = self.text(ids).last_hidden_state  # [n, LENGTH, TEXT_WIDTH]
        return self.unet(noisy, times, states).sample.float()


def diffusion_loss(model, scheduler, latents, ids, times, noise, gamma=5.0):
    """Latents and noise are [n, 4, 16, 16], ids [n, LENGTH], times [n]."""
    noisy = scheduler.add_noise(latents, noise, times)
    target = scheduler.get_velocity(latents, noise, times)
    with autocast():
        guess = model(noisy, times, ids)
    kept = scheduler.alphas_cumprod[times]  # the signal's share of the variance
    snr = kept / (1 - kept)
    weight = snr.clamp(max=gamma) / (snr + 1)
    loss = (weight * (guess - target).square().mean((1, 2, 3))).mean()
    return loss, {"loss": loss.detach()}


def sample_sheet(path, vae, model, tokenizer, guidance=3.0):
    """Draws SAMPLE_PROMPTS, two seeds each, into one picture."""
    pipeline = new_pipeline(vae, model.text, tokenizer, model.unet, new_scheduler())
    generator = torch.Generator().manual_seed(0)
    with autocast():
        images = pipeline(SAMPLE_PROMPTS * 2, num_inference_steps=20, guidance_scale=guidance, generator=generator).images
    tiles = [np.asarray(image) for image in images]
    rows = [np.concatenate(tiles[i : i + 8], 1) for i in range(0, len(tiles), 8)]
    Image.fromarray(np.concatenate(rows, 0)).save(path)


def train_unet(
    folder, vae, text, tokenizer, composer, workers, steps, decay, batch=32, rate=1e-3, text_rate=2e-4, drop=0.1
):
    """Trains the denoiser and returns its averaged weights."""
    text.requires_grad_(True).train()
    text.set_attn_implementation("eager")  # as for the U-Net's attention
    model = Denoiser(new_unet(), text)
    ema = Ema(model, 0.999)
    optimizer = torch.optim.AdamW(
        [
            {"params": model.unet.parameters(), "peak": rate},
            {"params": model.text.parameters(), "peak": text_rate},
        ],
        betas=(0.9, 0.99),
        weight_decay=0.01,
        fused=True,
    )
    stage = Stage(folder, {"model": model, "ema": ema, "optimizer": optimizer})
    if stage.step >= steps:
        return ema.module
    composer.reseed(stage.step)
    parameters = list(model.parameters())
    scheduler = new_scheduler()
    pool = LatentPool(vae, tokenizer, composer)
    empty_ids = encode(tokenizer, [""])
    last_sheet = time.time()
    stage.last_tick = time.time()
    while stage.step < steps:
        factor = learning_rate(stage.step, steps, warmup=200, decay=decay)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        latents, ids = pool.draw(batch)
        # Some captions are emptied: guidance needs a prediction without a prompt.
        ids = torch.where(torch.rand(batch, 1) < drop, empty_ids, ids)
        times = torch.randint(scheduler.config.num_train_timesteps, (batch,))
        noise = torch.randn_like(latents)
        refreshed = workers.pool.submit(pool.refresh, 8)
        values = workers.gradients(
            lambda *share: diffusion_loss(model, scheduler, *share), parameters, latents, ids, times, noise
        )
        norm = nn.utils.clip_grad_norm_(parameters, 1.0).item()
        optimizer.step()
        ema.update(model)
        refreshed.result()
        stage.tick(**values, norm=norm, rate=factor)
        if time.time() - last_sheet > 600:
            sample_sheet(stage.folder / f"samples-{stage.step:06}.png", vae, ema.module, tokenizer)
            last_sheet = time.time()
    stage.save()
    sample_sheet(stage.folder / f"samples-{stage.step:06}.png", vae, ema.module, tokenizer)
    return ema.module
