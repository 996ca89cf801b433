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
def randomise(model: nn.Module, generator: torch.Generator, gains: list = ()) -> None:
    """Draws every parameter of `model` anew; `gains` go before `GAINS`."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.GroupNorm, nn.LayerNorm)):
            module.weight.copy_(1 + 0.2 * normal(module.weight.shape, generator))
            module.bias.copy_(0.2 * normal(module.bias.shape, generator))
        elif isinstance(module, nn.Embedding):
            module.weight.copy_(0.7 * normal(module.weight.shape, generator))
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            gain = next((gain for pattern, gain in [*gains, *GAINS] if re.search(pattern, name)), 1.0)
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


def with_extra(unet, latents: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """`latents` and behind them random values in all other channels that the U-Net reads."""
    extra = unet.config.in_channels - latents.shape[1]
    return torch.cat([latents, normal((len(latents), extra, *latents.shape[2:]), generator)], dim=1)


@torch.no_grad()
def fit_last_convolution(
    unet, scheduler, text_states, generator: torch.Generator, condition=None, random_share: float = RANDOM_SHARE
) -> None:
    """Fits `unet.conv_out` by ridge regression to denoise, then adds a random part of its own.

    `condition` gives what the U-Net reads beside latents and timesteps, for rows of given indices.
    """
    condition = condition or (lambda rows: {"encoder_hidden_states": text_states[rows]})
    latents, timesteps, target = noisy_latents(scheduler, generator, 96)
    latents = with_extra(unet, latents, generator)
    captured = []
    hook = unet.conv_out.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    unet(latents, timesteps, **condition(torch.arange(len(latents)) % len(text_states)))
    hook.remove()
    patches = F.unfold(captured[0], 3, padding=1).transpose(1, 2).flatten(0, 1).double()
    patches = torch.cat([patches, torch.ones(len(patches), 1)], dim=1)
    wanted = target.flatten(2).transpose(1, 2).flatten(0, 1).double()
    ridge = 1e-3 * len(patches) * torch.eye(patches.shape[1])
    solution = torch.linalg.solve(patches.T @ patches + ridge, patches.T @ wanted).float()
    conv = unet.conv_out
    random_part = normal(conv.weight.shape, generator)
    random_part *= random_share / (patches[:, :-1] @ random_part.flatten(1).T.double()).std()
    # Rounded so that another machine's rounding does not make other weights.
    conv.weight.copy_(torch.round((solution[:-1].T.reshape(conv.weight.shape) + random_part) * 4096) / 4096)
    conv.bias.copy_(torch.round(solution[-1] * 4096) / 4096)


def relative_change(changed: torch.Tensor, original: torch.Tensor) -> float:
    return ((changed - original).norm() / original.norm()).item()


@torch.no_grad()
def assert_lively(pipe, generator: torch.Generator, conditions=None) -> str:
    """Fails unless prompt, timestep and every skip each change the U-Net's output by more than 10 %.

    `conditions` is what the U-Net reads beside latents and timestep: of a prompt, of another one, and by what else could
    change it.
    """
    unet = pipe.unet
    if conditions is None:
        prompts = {"first": "a red apple", "prompt": "the quick brown fox", "empty prompt": ""}
        states = {what: pipe.encode_prompt(p, "cpu", 1, False)[0] for what, p in prompts.items()}
        conditions = {what: {"encoder_hidden_states": state} for what, state in states.items()}
    latents, _, _ = noisy_latents(pipe.scheduler, generator, 1)
    latents = with_extra(unet, latents, generator)
    first, *others = conditions

    def predict(timestep=500, condition=conditions[first]):
        return unet(latents, timestep, **condition).sample

    original = predict()
    changes = {
        **{what: relative_change(predict(condition=conditions[what]), original) for what in others},
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
