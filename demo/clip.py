"""Stage 1: a small CLIP.

A text tower and an image tower learn to agree on which caption belongs to which
picture. The text tower becomes the diffusion model's text encoder (which trains
on from there); the image tower serves as the VAE's perceptual loss.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from common import Stage, autocast, learning_rate, to_tensor
from tokenizer import LENGTH, encode

WIDTH = 128  # of the text encoder, and of the space both towers map into


def text_encoder(tokenizer):
    """A CLIP text model; its states (not the pooled one) steer the U-Net."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=LENGTH,
            hidden_act="quick_gelu",
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class ImageTower(nn.Module):
    """A plain convolutional network: 64 -> 32 -> 16 -> 8 -> 4 pixels, then a mean."""

    def __init__(self, widths=(24, 48, 96, 128), outputs=WIDTH):
        super().__init__()
        self.levels = nn.ModuleList()
        before = 3
        for width in widths:
            self.levels.append(
                nn.Sequential(
                    nn.Conv2d(before, width, 3, stride=2, padding=1),
                    nn.GroupNorm(8, width),
                    nn.SiLU(),
                    nn.Conv2d(width, width, 3, padding=1),
                    nn.GroupNorm(8, width),
                    nn.SiLU(),
                )
            )
            before = width
        self.head = nn.Linear(before, outputs)

    def features(self, images):
        """[n, 3, 64, 64] -> one map per level, [n, width, side, side]."""
        maps = []
        for level in self.levels:
            images = level(images)
            maps.append(images)
        return maps

    def forward(self, images):
        return self.head(self.features(images)[-1].mean((2, 3)))  # [n, outputs]


class Clip(nn.Module):
    def __init__(self, tokenizer):
        super().__init__()
        self.text = text_encoder(tokenizer)
        self.text_head = nn.Linear(WIDTH, WIDTH, bias=False)
        self.image = ImageTower()
        self.log_scale = nn.Parameter(torch.tensor(2.6))

    def forward(self, ids, images):
        """Similarities, [n captions, n pictures]."""
        text = F.normalize(self.text_head(self.text(ids).pooler_output).float(), dim=-1)
        image = F.normalize(self.image(images).float(), dim=-1)
        return self.log_scale.clamp(max=4.6).exp() * text @ image.T


def train_clip(folder, tokenizer, composer, steps, batch=192, rate=1e-3):
    """Contrastive training; returns the towers."""
    clip = Clip(tokenizer)
    optimizer = torch.optim.AdamW(clip.parameters(), rate, weight_decay=0.01)
    stage = Stage(folder, {"clip": clip, "optimizer": optimizer})
    composer.reseed(stage.step)
    labels = torch.arange(batch)
    while stage.step < steps:
        for group in optimizer.param_groups:
            group["lr"] = rate * learning_rate(stage.step, steps, warmup=50, decay=steps // 2)
        # No two captions of a batch may fit the same picture.
        data = composer.batch(batch, distinct=True)
        with autocast():
            scores = clip(encode(tokenizer, data.captions), to_tensor(data.pixels))
        loss = (F.cross_entropy(scores, labels) + F.cross_entropy(scores.T, labels)) / 2
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        right = (scores.argmax(1) == labels).float().mean()
        stage.tick(loss=loss.item(), right=right.item())
    stage.save()
    return clip.eval().requires_grad_(False)
