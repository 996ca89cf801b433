"""Writes schedulers/*.json: what diffusers' schedulers do with a model that is a formula.

    python schedulers.py        # diffusers 0.42.1, torch 2.15.0

Model, start and noise are formulas that `tests/schedulers_golden.rs` computes too, so only results are stored, and of
the 24 latents every third. A scheduler is a row of SCHEDULERS.
"""

import itertools
import json
import math
from pathlib import Path

import diffusers
import torch
from diffusers.schedulers import scheduling_ddim, scheduling_ddpm, scheduling_euler_ancestral_discrete

OUT = Path(__file__).parent / "schedulers"
SHAPE = (1, 4, 2, 3)
COUNT = math.prod(SHAPE)

# Our name: the class, and the prediction types that it knows.
SCHEDULERS = {
    "ddpm": (diffusers.DDPMScheduler, ("epsilon", "v_prediction", "sample")),
    "ddim": (diffusers.DDIMScheduler, ("epsilon", "v_prediction", "sample")),
    "euler": (diffusers.EulerDiscreteScheduler, ("epsilon", "v_prediction", "sample")),
    "euler-ancestral": (diffusers.EulerAncestralDiscreteScheduler, ("epsilon", "v_prediction")),
}
SPACINGS = ("leading", "trailing", "linspace")
BETAS = (
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
)
STABLE_DIFFUSION = BETAS[1] | {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
# As published with Stable Diffusion 1: written for another class, and silent about the spacing.
PNDM = STABLE_DIFFUSION | {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "trained_betas": None}


def formula_noise(draw):
    return torch.tensor([math.sin(0.7 + 1.3 * draw + 2.1 * i) * math.sqrt(2) for i in range(COUNT)]).reshape(SHAPE)


def formula_model(latents, timestep):
    return torch.sin(latents.double() + float(timestep) / 1000).float()


class NoiseCounter:
    """Stands in for `randn_tensor`: draw 0 is the start, the schedulers' draws follow."""

    def __init__(self):
        self.draws = 0

    def __call__(self, *args, **kwargs):
        self.draws += 1
        return formula_noise(self.draws)


def numbers(tensor):
    return [float(f"{value:.9g}") for value in tensor.flatten().tolist()]


def trajectory(cls, config, steps, eta=None):
    scheduler = cls.from_config(config)
    scheduler.set_timesteps(steps)
    noise = NoiseCounter()
    for module in (scheduling_ddim, scheduling_ddpm, scheduling_euler_ancestral_discrete):
        module.randn_tensor = noise
    kwargs = {} if eta is None else {"eta": eta}

    latents = formula_noise(0) * scheduler.init_noise_sigma
    # Asked before the first step: some classes answer differently afterwards.
    middle = steps // 2
    added = scheduler.add_noise(formula_noise(-1), formula_noise(-2), scheduler.timesteps[middle : middle + 1])
    recorded, draws = [], []
    for timestep in scheduler.timesteps:
        before = noise.draws
        model_input = scheduler.scale_model_input(latents, timestep)
        noise_pred = formula_model(model_input, timestep)
        latents = scheduler.step(noise_pred, timestep, latents, **kwargs).prev_sample
        recorded.append(numbers(latents.flatten()[::3]))
        draws.append(noise.draws - before)
    return {
        "config": config,
        "steps": steps,
        "eta": eta,
        "timesteps": numbers(scheduler.timesteps),
        "init_noise_sigma": float(scheduler.init_noise_sigma),
        "added_noise": numbers(added.flatten()[::3]),
        "noise_draws": draws,
        "latents": recorded,
    }


def cases(name, prediction_types):
    """(config, steps, eta) for one scheduler: each pair of choices, then step counts, then the corners."""
    for spacing, prediction_type, betas in itertools.product(SPACINGS, prediction_types, BETAS):
        yield STABLE_DIFFUSION | betas | {"timestep_spacing": spacing, "prediction_type": prediction_type}, 7, None
    for spacing, steps in itertools.product(SPACINGS, (1, 2, 20, 48, 50)):
        yield STABLE_DIFFUSION | {"timestep_spacing": spacing}, steps, None
    for steps in (1, 7, 20):
        yield PNDM, steps, None
    yield {"num_train_timesteps": 50, "trained_betas": [0.001 * (i + 1) for i in range(50)]}, 7, None
    yield {}, 7, None
    zero_snr = STABLE_DIFFUSION | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    yield zero_snr | {"prediction_type": "v_prediction"}, 7, None
    yield zero_snr | {"timestep_spacing": "leading"}, 7, None
    if name == "ddim":
        for spacing, eta in itertools.product(SPACINGS, (0.3, 1.0)):
            yield STABLE_DIFFUSION | {"timestep_spacing": spacing}, 7, eta
        yield STABLE_DIFFUSION | {"set_alpha_to_one": True}, 7, 1.0
        yield STABLE_DIFFUSION | {"clip_sample": True, "clip_sample_range": 0.4}, 7, 0.5
    if name == "ddpm":
        for variance_type in ("fixed_small_log", "fixed_large"):
            yield STABLE_DIFFUSION | {"variance_type": variance_type, "steps_offset": 0}, 7, None
    if name == "euler":
        yield STABLE_DIFFUSION | {"final_sigmas_type": "sigma_min"}, 7, None


def noise_schedules():
    configs = [*BETAS, BETAS[0] | {"num_train_timesteps": 37}, BETAS[0] | {"num_train_timesteps": 1}]
    for config in configs + [betas | {"rescale_betas_zero_snr": True} for betas in BETAS]:
        alphas_cumprod = diffusers.DDIMScheduler.from_config(config).alphas_cumprod
        count = len(alphas_cumprod)
        # The last ones too: that is where rescaling loses most digits.
        indices = sorted({*range(0, count, max(1, count // 50)), *range(max(0, count - 5), count)})
        yield {"config": config, "indices": indices, "alphas_cumprod": numbers(alphas_cumprod[indices])}


def write(name, rows):
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    (OUT / f"{name}.json").write_text(f"[\n{lines}\n]\n")


def main():
    torch.set_num_threads(1)
    OUT.mkdir(exist_ok=True)
    write("noise_schedules", noise_schedules())
    for name, (cls, prediction_types) in SCHEDULERS.items():
        write(name, (trajectory(cls, *case) for case in cases(name, prediction_types)))


if __name__ == "__main__":
    main()
