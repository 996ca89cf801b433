"""Writes schedulers/*.json: what diffusers' schedulers do with a model that is a formula.

    python schedulers.py [name …]       # diffusers 0.42.1, torch 2.15.0, scipy, torchsde

Model, start and noise are formulas that `tests/schedulers_golden.rs` computes too, so only results are stored, and of
the 24 latents every third. A scheduler is a row of SCHEDULERS.

diffusers chooses levels and timesteps as it always does. Then its tables are widened to double precision, and so are
latents, noise and model; what passes from step to step and to and from the model is rounded to single precision once.
So what is compared is the arithmetic.
"""

import contextlib
import itertools
import json
import math
import sys
from pathlib import Path

import diffusers
import numpy
import torch
from diffusers.schedulers import scheduling_dpmsolver_sde
from diffusers.schedulers.scheduling_utils import AysSchedules

OUT = Path(__file__).parent / "schedulers"
SHAPE = (1, 4, 2, 3)
COUNT = math.prod(SHAPE)

ALL = ("epsilon", "v_prediction", "sample")
NO_SAMPLE = ALL[:2]
TRAINING = ({},)
SIGMAS = ({}, *({f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta")))
ALIGNED = ({"use_align_your_steps": "sd1"}, {"use_align_your_steps": "sdxl"})
PUBLISHED = {"sd1": "StableDiffusionSigmas", "sdxl": "StableDiffusionXLSigmas"}

# Our name: the class, the prediction types and the sigma schedules that it knows.
SCHEDULERS = {
    "ddpm": (diffusers.DDPMScheduler, ALL, TRAINING),
    "ddim": (diffusers.DDIMScheduler, ALL, TRAINING),
    "pndm": (diffusers.PNDMScheduler, NO_SAMPLE, TRAINING),
    "euler": (diffusers.EulerDiscreteScheduler, ALL, SIGMAS + ALIGNED),
    "euler-ancestral": (diffusers.EulerAncestralDiscreteScheduler, NO_SAMPLE, TRAINING),
    "heun": (diffusers.HeunDiscreteScheduler, ALL, SIGMAS + ALIGNED),
    "lms": (diffusers.LMSDiscreteScheduler, ALL, SIGMAS + ALIGNED),
    "kdpm2": (diffusers.KDPM2DiscreteScheduler, NO_SAMPLE, SIGMAS + ALIGNED),
    "kdpm2-ancestral": (diffusers.KDPM2AncestralDiscreteScheduler, NO_SAMPLE, SIGMAS + ALIGNED),
    "dpm-multistep": (diffusers.DPMSolverMultistepScheduler, ALL, (*SIGMAS, {"use_lu_lambdas": True}) + ALIGNED),
    "dpm-singlestep": (diffusers.DPMSolverSinglestepScheduler, ALL, SIGMAS + ALIGNED),
    "dpm-sde": (diffusers.DPMSolverSDEScheduler, NO_SAMPLE, SIGMAS + ALIGNED),
    "unipc": (diffusers.UniPCMultistepScheduler, ALL, SIGMAS + ALIGNED),
    "deis": (diffusers.DEISMultistepScheduler, ALL, SIGMAS + ALIGNED),
    "lcm": (diffusers.LCMScheduler, ALL, TRAINING),
    "tcd": (diffusers.TCDScheduler, ALL, TRAINING),
}
SPACINGS = ("leading", "trailing", "linspace")
BETAS = (
    {"beta_schedule": "linear"},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
)
STABLE_DIFFUSION = BETAS[1] | {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
# As published with Stable Diffusion 1: written for one class, and silent about the spacing.
PNDM = STABLE_DIFFUSION | {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "trained_betas": None}
ZERO_SNR = STABLE_DIFFUSION | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
KNOWS_ZERO_SNR = ("ddpm", "ddim", "euler", "euler-ancestral", "dpm-multistep", "unipc")
THRESHOLDING = {"thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1.2}

# Our name: what else it can be told, as (config, steps).
OPTIONS = {
    "ddpm": [
        ({"variance_type": "fixed_small_log", "steps_offset": 0}, 7),
        ({"variance_type": "fixed_large", "steps_offset": 0}, 7),
        (THRESHOLDING, 7),
    ],
    "ddim": [({"clip_sample": True, "clip_sample_range": 0.4}, 7), (THRESHOLDING, 7)],
    "pndm": [
        *(({"skip_prk_steps": True, "timestep_spacing": spacing}, 7) for spacing in SPACINGS),
        ({"skip_prk_steps": True, "set_alpha_to_one": True, "prediction_type": "v_prediction"}, 7),
        *(({"skip_prk_steps": True}, steps) for steps in (1, 2, 3, 20)),
        ({"skip_prk_steps": False}, 4),
    ],
    "euler": [
        ({"final_sigmas_type": "sigma_min"}, 7),
        ({"use_karras_sigmas": True, "sigma_min": 0.05, "sigma_max": 9.0}, 7),
    ],
    "heun": [({"clip_sample": True, "clip_sample_range": 0.7}, 7)],
    "dpm-multistep": [
        *(
            (
                {
                    "algorithm_type": algorithm,
                    "solver_type": solver,
                    "solver_order": order,
                    "final_sigmas_type": "sigma_min" if "++" not in algorithm else "zero",
                },
                steps,
            )
            for algorithm in ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver")
            for solver, order in (("midpoint", 1), ("midpoint", 2), ("heun", 2), ("midpoint", 3))
            for steps in (7, 16)
            if order < 3 or algorithm != "sde-dpmsolver"
        ),
        ({"solver_order": 3, "lower_order_final": False}, 7),
        ({"solver_order": 3, "final_sigmas_type": "sigma_min", "lower_order_final": False}, 7),
        ({"solver_order": 3, "final_sigmas_type": "sigma_min", "euler_at_final": True}, 16),
        (BETAS[2] | {"lambda_min_clipped": -5.1}, 7),
        (BETAS[2] | {"lambda_min_clipped": -5.1, "timestep_spacing": "trailing"}, 7),
        (BETAS[2] | {"lambda_min_clipped": -5.1, "timestep_spacing": "leading"}, 7),
        (THRESHOLDING, 7),
        (THRESHOLDING | {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}, 7),
        ({"algorithm_type": "deis", "solver_type": "logrho", "final_sigmas_type": "sigma_min"}, 7),
        *(
            ({"algorithm_type": "dpmsolver", "prediction_type": kind, "final_sigmas_type": "sigma_min"}, 7)
            for kind in ALL
        ),
    ],
    "dpm-singlestep": [
        *(
            (
                {
                    "algorithm_type": algorithm,
                    "solver_type": solver,
                    "solver_order": order,
                    "final_sigmas_type": "sigma_min" if "++" not in algorithm else "zero",
                },
                steps,
            )
            for algorithm in ("dpmsolver++", "dpmsolver", "sde-dpmsolver++")
            for solver, order in (("midpoint", 1), ("midpoint", 2), ("heun", 2), ("midpoint", 3), ("heun", 3))
            for steps in (6, 7, 8)
        ),
        ({"solver_order": 3, "final_sigmas_type": "sigma_min", "lower_order_final": True}, 9),
        ({"solver_order": 3, "final_sigmas_type": "sigma_min"}, 9),
        (THRESHOLDING, 7),
    ],
    "unipc": [
        *(
            ({"solver_type": solver, "solver_order": order, "predict_x0": x0, "final_sigmas_type": "sigma_min"}, 7)
            for solver in ("bh1", "bh2")
            for order in (1, 2, 3, 4)
            for x0 in (True, False)
        ),
        ({"solver_order": 3}, 12),
        ({"disable_corrector": [0, 1, 4]}, 7),
        ({"lower_order_final": False, "final_sigmas_type": "sigma_min"}, 7),
        (THRESHOLDING, 7),
        ({"prediction_type": "v_prediction", "predict_x0": False, "final_sigmas_type": "sigma_min"}, 7),
    ],
    "deis": [
        *(({"solver_order": order}, steps) for order in (1, 2, 3) for steps in (7, 16)),
        ({"solver_order": 3, "lower_order_final": False}, 7),
        ({"algorithm_type": "dpmsolver++", "solver_type": "bh2"}, 7),
        (THRESHOLDING, 7),
    ],
    "lcm": [
        ({"original_inference_steps": 100, "timestep_scaling": 0.01}, 4),
        ({"clip_sample": True, "clip_sample_range": 0.7}, 4),
        (THRESHOLDING, 4),
    ],
    "tcd": [({"original_inference_steps": 100}, 4)],
}


def formula_noise(draw):
    noise = [math.sin(0.7 + 1.3 * draw + 2.1 * i) * math.sqrt(2) for i in range(COUNT)]
    return torch.tensor(noise, dtype=torch.float32).double().reshape(SHAPE)


def formula_model(latents, timestep):
    return torch.sin(latents.double() + float(timestep) / 1000)


class NoiseCounter:
    """Stands in for `randn_tensor`: draw 0 is the start, the schedulers' draws follow."""

    def __init__(self):
        self.draws = 0

    def __call__(self, *args, **kwargs):
        self.draws += 1
        return formula_noise(self.draws)

    def brownian(self, *args, **kwargs):
        """Stands in for `BrownianTreeNoiseSampler`: one path, new on each first half of a step."""
        half = []

        def sample(sigma, sigma_next):
            if half and half[0] == sigma:
                _, middle, first = half
                share = (sigma - middle) / (sigma - sigma_next)
                half.clear()
                return share.sqrt() * first + (1 - share).sqrt() * self()
            half[:] = [sigma, sigma_next, self()]
            return half[2]

        return sample


def single(tensor):
    return tensor.float().double()


def numbers(tensor):
    return [float(f"{value:.9g}") for value in tensor.flatten().tolist()]


@contextlib.contextmanager
def double_tables():
    """Tables that come from numpy in single precision become double, with the same values, and stay so."""
    from_numpy, to = torch.from_numpy, torch.Tensor.to

    def stay(tensor, *args, **kwargs):
        return tensor if args == (torch.float32,) else to(tensor, *args, **kwargs)

    torch.from_numpy = lambda array: from_numpy(array).double() if array.dtype.kind == "f" else from_numpy(array)
    torch.Tensor.to = stay
    try:
        yield
    finally:
        torch.from_numpy, torch.Tensor.to = from_numpy, to


@contextlib.contextmanager
def exact_roots():
    """Square roots in single precision are rounded rightly. Those of MKL are not, and depend on the processor."""
    power, from_numpy = torch.Tensor.__pow__, torch.from_numpy

    def root(tensor, exponent):
        if exponent == 0.5 and tensor.dtype == torch.float32:
            return from_numpy(numpy.asarray(numpy.sqrt(tensor.numpy())))
        return power(tensor, exponent)

    torch.Tensor.__pow__ = root
    try:
        yield
    finally:
        torch.Tensor.__pow__ = power


def aligned_sigmas(scheduler, model, steps):
    """Log-linear through the published levels and the least of training, as in the paper's own code."""
    least = ((1 - scheduler.alphas_cumprod[0]) / scheduler.alphas_cumprod[0]).sqrt().item()
    levels = numpy.log([*AysSchedules[PUBLISHED[model]][:-1], least])
    return numpy.exp(numpy.interp(numpy.linspace(0, len(levels) - 1, steps + 1), range(len(levels)), levels))


def prepared(cls, config, steps):
    """The scheduler with its timesteps, in double precision."""
    config = dict(config)
    model = config.pop("use_align_your_steps", None)
    with exact_roots():
        scheduler = cls.from_config(config | ({"use_karras_sigmas": True} if model else {}))
    if model:
        sigmas = aligned_sigmas(scheduler, model, steps)
        scheduler._convert_to_karras = lambda *args, **kwargs: sigmas[:-1]
    with exact_roots(), double_tables():
        scheduler.set_timesteps(steps)
    for table in ("sigmas", "alphas_cumprod", "final_alpha_cumprod", "one"):
        if hasattr(scheduler, table):
            setattr(scheduler, table, getattr(scheduler, table).double())
    if model and cls is diffusers.DEISMultistepScheduler:
        scheduler.sigmas[-1] = numpy.float32(sigmas[-1]).item()
    return scheduler


def trajectory(cls, config, steps, eta=None, begin=0):
    scheduler = prepared(cls, config, steps)
    noise = NoiseCounter()
    module = sys.modules[cls.__module__]
    if hasattr(module, "randn_tensor"):
        module.randn_tensor = noise
    scheduling_dpmsolver_sde.BrownianTreeNoiseSampler = noise.brownian
    kwargs = {} if eta is None else {"eta": eta}
    begin *= scheduler.order

    latents = single(formula_noise(0) * float(scheduler.init_noise_sigma))
    # Asked before the first step: some classes answer differently afterwards.
    middle = begin or steps // 2 * scheduler.order
    # Without it, a scheduler whose first two timesteps are the same starts with the second, and runs past its end.
    start_at = getattr(scheduler, "set_begin_index", lambda index: None)
    start_at(middle)
    added = scheduler.add_noise(formula_noise(-1), formula_noise(-2), scheduler.timesteps[middle : middle + 1])
    start_at(begin)
    if begin:
        latents = single(added)
    recorded, draws = [], []
    for timestep in scheduler.timesteps[begin:]:
        before = noise.draws
        model_input = single(scheduler.scale_model_input(latents, timestep))
        noise_pred = single(formula_model(model_input, float(torch.tensor(float(timestep)).float())))
        with double_tables():
            latents = scheduler.step(noise_pred, timestep, latents, **kwargs).prev_sample
        latents = single(latents)
        recorded.append(numbers(latents.flatten()[::3]))
        draws.append(noise.draws - before)
    assert all(math.isfinite(value) for row in recorded for value in row), (cls, config, steps)
    # Of a long run every fourth step and the last.
    kept = [i for i in range(len(recorded)) if len(recorded) <= 14 or i % 4 == 3 or i + 1 == len(recorded)]
    return {
        "config": config,
        "steps": steps,
        "eta": eta,
        "begin": begin,
        "timesteps": numbers(scheduler.timesteps.float()),
        "init_noise_sigma": float(scheduler.init_noise_sigma),
        "added_noise": numbers(added.flatten()[::3]),
        "noise_draws": draws,
        "latents": [recorded[i] if i in kept else None for i in range(len(recorded))],
    }


def cases(name, prediction_types, schedules):
    """(config, steps, eta, begin) for one scheduler: each pair of choices, then step counts, then the corners."""
    betas = itertools.cycle(BETAS)
    distilled = name in ("lcm", "tcd")
    spacings = SPACINGS[2:] if distilled or name == "dpm-singlestep" else SPACINGS
    for spacing, kind, schedule in itertools.product(spacings, prediction_types, schedules):
        choice = {"timestep_spacing": spacing, "prediction_type": kind} | schedule
        # Published levels are for the model's own betas.
        own = schedule in ALIGNED
        for beta in BETAS if len(schedules) == 1 else [BETAS[1] if own else next(betas)]:
            yield STABLE_DIFFUSION | beta | choice, 10 if own else 7, None, 0
    steps = (1, 2, 4, 8, 50) if distilled else (1, 2, 20, 48, 50)
    for spacing, count in itertools.product(spacings, steps):
        if name != "pndm" or count > 3:
            yield STABLE_DIFFUSION | {"timestep_spacing": spacing}, count, None, 0
    for count in (1, 7, 20):
        yield PNDM, count, None, 0
    for begin in range(1, 7):
        yield PNDM, 7, None, begin
        if len(schedules) > 1:
            yield PNDM | SIGMAS[1], 7, None, begin
    trained = {"num_train_timesteps": 50, "trained_betas": [0.001 * (i + 1) for i in range(50)]}
    yield trained, 7, None, 0
    yield {}, 7, None, 0
    if name in KNOWS_ZERO_SNR:
        yield ZERO_SNR | {"prediction_type": "v_prediction"}, 7, None, 0
        yield ZERO_SNR | {"timestep_spacing": "leading"}, 7, None, 0
    if distilled:
        yield ZERO_SNR | {"prediction_type": "v_prediction"}, 4, None, 0
    if name == "ddim":
        for spacing, eta in itertools.product(SPACINGS, (0.3, 1.0)):
            yield STABLE_DIFFUSION | {"timestep_spacing": spacing}, 7, eta, 0
        yield STABLE_DIFFUSION | {"set_alpha_to_one": True}, 7, 1.0, 0
        yield STABLE_DIFFUSION | {"clip_sample": True, "clip_sample_range": 0.4}, 7, 0.5, 0
    if name == "tcd":
        for eta in (0.0, 0.3, 0.5, 1.0):
            yield STABLE_DIFFUSION, 4, eta, 0
    for config, count in OPTIONS.get(name, ()):
        yield STABLE_DIFFUSION | config, count, None, 0


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
    names = sys.argv[1:] or ["noise_schedules", *SCHEDULERS]
    for name in names:
        if name == "noise_schedules":
            write(name, noise_schedules())
        else:
            cls, prediction_types, schedules = SCHEDULERS[name]
            write(name, (trajectory(cls, *case) for case in cases(name, prediction_types, schedules)))


if __name__ == "__main__":
    main()
