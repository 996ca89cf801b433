"""Random weights with which everything matters.

PyTorch's default initialisation makes a small U-Net nearly deaf to its text, its timestep and its deeper skips: an
engine could leave them out and still pass. The weights made here are scaled so that each has its say, and the last
convolution is fitted so that the net still denoises a little: latents then stay of order one over a whole run.
"""

import re

import torch
from torch import nn
from torch.nn import functional as F

# Gain of the weights whose name matches, over 1/sqrt(fan in). The first match counts.
GAINS = [
    (r"to_[qk]$|[qk]_proj$", 1.8),  # attention that picks, not one that averages 77 tokens
    (r"attn2\.to_out\.0$", 0.6),  # guidance of 7.5 multiplies what the prompt changes
    (r"time_emb", 2.0),
    (r"mid_block\.attentions\.0\.to_out\.0$|mid_block\.attentions\.0\.proj_attn$", 1.5),
]
# What the hidden states and the skip keep of their amplitude where the U-Net joins them.
HIDDEN_GAIN, SKIP_GAIN = 1.2, 1.2
# Share of the U-Net's last convolution that is random, relative to the share that denoises.
RANDOM_SHARE = 0.4


def normal(shape, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator)


@torch.no_grad()
def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Draws every parameter of `model` anew."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            module.weight.copy_(1 + 0.2 * normal(module.weight.shape, generator))
            module.bias.copy_(0.2 * normal(module.bias.shape, generator))
        elif isinstance(module, nn.Embedding):
            module.weight.copy_(0.7 * normal(module.weight.shape, generator))
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            gain = next((gain for pattern, gain in GAINS if re.search(pattern, name)), 1.0)
            fan_in = module.weight[0].numel()
            module.weight.copy_(gain * fan_in**-0.5 * normal(module.weight.shape, generator))
            if module.bias is not None:
                module.bias.copy_(0.1 * normal(module.bias.shape, generator))


@torch.no_grad()
def strengthen_deep_levels(unet) -> None:
    """Lets the hidden states outweigh the skip at each joint: the deepest signal passes all joints after it."""
    widths = list(unet.config.block_out_channels)
    hidden_channels = widths[-1]
    for block in unet.up_blocks:
        for resnet in block.resnets:
            for conv in (resnet.conv1, resnet.conv_shortcut):
                conv.weight[:, :hidden_channels] *= HIDDEN_GAIN
                conv.weight[:, hidden_channels:] *= SKIP_GAIN
            hidden_channels = resnet.out_channels


def noisy_latents(scheduler, generator: torch.Generator, count: int):
    """`count` smooth random fields at random timesteps: (latents, timesteps, what the U-Net should predict)."""
    fields = F.interpolate(normal((count, 4, 4, 4), generator), size=(16, 16), mode="bilinear")
    noise = normal(fields.shape, generator)
    timesteps = torch.randint(0, 1000, (count,), generator=generator)
    latents = scheduler.add_noise(fields, noise, timesteps)
    if scheduler.config.prediction_type == "v_prediction":
        return latents, timesteps, scheduler.get_velocity(fields, noise, timesteps)
    return latents, timesteps, noise


@torch.no_grad()
def fit_last_convolution(unet, scheduler, text_states: torch.Tensor, generator: torch.Generator) -> None:
    """Fits `unet.conv_out` by ridge regression to denoise, then adds a random part of its own."""
    latents, timesteps, target = noisy_latents(scheduler, generator, 96)
    captured = []
    hook = unet.conv_out.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    states = text_states[torch.arange(len(latents)) % len(text_states)]
    unet(latents, timesteps, encoder_hidden_states=states)
    hook.remove()
    patches = F.unfold(captured[0], 3, padding=1).transpose(1, 2).flatten(0, 1).double()
    patches = torch.cat([patches, torch.ones(len(patches), 1)], dim=1)
    wanted = target.flatten(2).transpose(1, 2).flatten(0, 1).double()
    ridge = 1e-3 * len(patches) * torch.eye(patches.shape[1])
    solution = torch.linalg.solve(patches.T @ patches + ridge, patches.T @ wanted).float()
    conv = unet.conv_out
    random_part = normal(conv.weight.shape, generator)
    random_part *= RANDOM_SHARE / (patches[:, :-1] @ random_part.flatten(1).T.double()).std()
    # Rounded so that another machine's rounding does not make other weights.
    conv.weight.copy_(torch.round((solution[:-1].T.reshape(conv.weight.shape) + random_part) * 4096) / 4096)
    conv.bias.copy_(torch.round(solution[-1] * 4096) / 4096)


def relative_change(changed: torch.Tensor, original: torch.Tensor) -> float:
    return ((changed - original).norm() / original.norm()).item()


@torch.no_grad()
def assert_lively(pipe, generator: torch.Generator) -> str:
    """Fails unless prompt, timestep and every skip each change the U-Net's output by more than 10 %."""
    unet = pipe.unet
    states = [pipe.encode_prompt(p, "cpu", 1, False)[0] for p in ("a red apple", "the quick brown fox", "")]
    latents, _, _ = noisy_latents(pipe.scheduler, generator, 1)

    def predict(timestep=500, text_states=states[0]):
        return unet(latents, timestep, encoder_hidden_states=text_states).sample

    original = predict()
    changes = {
        "prompt": relative_change(predict(text_states=states[1]), original),
        "empty prompt": relative_change(predict(text_states=states[2]), original),
        "timestep": relative_change(predict(timestep=700), original),
    }
    for level, block in enumerate(unet.up_blocks):
        for joint in range(len(block.resnets)):

            def without_skip(_module, args, kwargs, joint=joint):
                skips = list(kwargs["res_hidden_states_tuple"])
                skips[-1 - joint] = torch.zeros_like(skips[-1 - joint])
                return args, {**kwargs, "res_hidden_states_tuple": tuple(skips)}

            hook = block.register_forward_pre_hook(without_skip, with_kwargs=True)
            changes[f"skip {level}.{joint}"] = relative_change(predict(), original)
            hook.remove()
    report = ", ".join(f"{what} {change:.0%}" for what, change in changes.items())
    assert min(changes.values()) > 0.1, f"something hardly changes the U-Net's output: {report}"
    return report
