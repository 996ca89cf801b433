//! The built-in schedulers: names, when to use them, and their options.

use crate::entry::{Preset, SchedulerEntry, SchedulerOption};
use crate::{
    ddim, ddpm, deis, dpm_multistep, dpm_sde, dpm_singlestep, dpmpp_2s_ancestral, dpmpp_3m_sde, euler,
    euler_ancestral, heun, kdpm2, kdpm2_ancestral, lcm, lms, pndm, tcd, unipc,
};

const fn option(key: &'static str, values: &'static str) -> SchedulerOption {
    SchedulerOption { key, values }
}

const fn preset(name: &'static str, config: &'static [(&'static str, &'static str)]) -> Preset {
    Preset { name, config }
}

/// Options of all schedulers that use [`NoiseSchedule`](crate::NoiseSchedule).
const TRAINING: &[SchedulerOption] = &[
    option("prediction_type", "epsilon, v_prediction, sample; default: the model's"),
    option("beta_schedule", "linear, scaled_linear, squaredcos_cap_v2; default: the model's"),
    option("beta_start", "0 to 1; default: the model's"),
    option("beta_end", "0 to 1; default: the model's"),
];

const ZERO_SNR: &[SchedulerOption] = &[option("rescale_betas_zero_snr", "true, false; default: the model's")];

const SPACING: &[SchedulerOption] = &[
    option("timestep_spacing", "leading, trailing, linspace; default: the model's"),
    option("steps_offset", "whole number; default: the model's"),
];

const CLIPPING: &[SchedulerOption] = &[
    option("clip_sample", "true, false; default: the model's"),
    option("clip_sample_range", "above 0; default 1"),
];

const THRESHOLDING: &[SchedulerOption] = &[
    option("thresholding", "true, false; default: the model's; for models of pixels"),
    option("dynamic_thresholding_ratio", "0 to 1; default 0.995"),
    option("sample_max_value", "above 0; default 1"),
];

const ALIGNED: &[SchedulerOption] = &[option(
    "use_align_your_steps",
    "sd1, sdxl, auto: levels made for ten steps of that model, or of this one; default none",
)];

const SPACED: &[SchedulerOption] = &[option(
    "sigma_spacing",
    "normal, karras, exponential, beta, beta_timesteps, sgm_uniform, simple, ddim_uniform, kl_optimal; default none",
)];

const SIGMAS: &[SchedulerOption] = &[
    option("use_karras_sigmas", "true, false; default: the model's"),
    option("use_exponential_sigmas", "true, false; default: the model's"),
    option("use_beta_sigmas", "true, false; default: the model's"),
];

const SIGMA_ENDS: &[SchedulerOption] = &[
    option("sigma_min", "above 0: where the schedules above end; default: the model's"),
    option("sigma_max", "above 0: where the schedules above start; default: the model's"),
];

const FINAL_SIGMA: &[SchedulerOption] = &[option("final_sigmas_type", "zero, sigma_min; default zero")];

const SOLVER: &[SchedulerOption] = &[
    option("algorithm_type", "dpmsolver++, dpmsolver, sde-dpmsolver++, sde-dpmsolver; default dpmsolver++"),
    option("solver_order", "1, 2, 3; default 2"),
    option("solver_type", "midpoint, heun; default midpoint"),
    option("lambda_min_clipped", "number; default none; -5.1 for cosine betas"),
];

const LOWER_ORDER: &[SchedulerOption] =
    &[option("lower_order_final", "true, false: lower order in the last steps; default: the model's")];

const DISTILLED: &[SchedulerOption] = &[option("original_inference_steps", "whole number; default 50")];

/// UniPC in ComfyUI, and in AUTOMATIC1111's web UI with its default settings.
const UNI_PC_BH1: [(&str, &str); 2] = [("solver_type", "bh1"), ("solver_order", "3")];
const UNI_PC_BH2: [(&str, &str); 2] = [("solver_type", "bh2"), ("solver_order", "3")];

const SECOND_ORDER: (&str, &str) = ("solver_order", "2");
const PLUS_PLUS: (&str, &str) = ("algorithm_type", "dpmsolver++");
const PLUS_PLUS_SDE: (&str, &str) = ("algorithm_type", "sde-dpmsolver++");

pub(crate) const BUILT_IN: [SchedulerEntry; 18] = [
    SchedulerEntry {
        name: "ddim",
        aliases: &["ddim-v3"],
        presets: &[preset("ddim-trailing", &[("timestep_spacing", "trailing")])],
        summary: "deterministic, with eta = 1 as noisy as DDPM; suits any model; 20 to 50 steps (Song et al. 2020)",
        options: &[
            &[
                option("eta", "0 to 1; default 0"),
                option("set_alpha_to_one", "true, false; default: the model's"),
            ],
            CLIPPING,
            THRESHOLDING,
            ALIGNED,
            SPACING,
            ZERO_SNR,
            TRAINING,
        ],
        classes: &["DDIMScheduler", "DDIMParallelScheduler"],
        build: ddim::build,
    },
    SchedulerEntry {
        name: "ddpm",
        aliases: &[],
        presets: &[],
        summary: "the original sampler, with new noise in each step; hundreds of steps (Ho et al. 2020)",
        options: &[
            &[option("variance_type", "fixed_small, fixed_large; default: the model's")],
            CLIPPING,
            THRESHOLDING,
            SPACING,
            ZERO_SNR,
            TRAINING,
        ],
        classes: &["DDPMScheduler", "DDPMParallelScheduler"],
        build: ddpm::build,
    },
    SchedulerEntry {
        name: "pndm",
        aliases: &["pndm-discrete"],
        presets: &[preset("plms", &[("skip_prk_steps", "true")])],
        summary: "linear multistep, the default of Stable Diffusion 1; 30 to 50 steps (Liu et al. 2022)",
        options: &[
            &[
                option("skip_prk_steps", "true, false: no Runge-Kutta start; default: the model's"),
                option("set_alpha_to_one", "true, false; default: the model's"),
            ],
            SPACING,
            TRAINING,
        ],
        classes: &["PNDMScheduler"],
        build: pndm::build,
    },
    SchedulerEntry {
        name: "euler",
        aliases: &["k-euler", "euler-discrete"],
        presets: &[],
        summary: "first order, deterministic, the default of SDXL; 20 to 30 steps (Karras et al. 2022)",
        options: &[FINAL_SIGMA, SIGMAS, SIGMA_ENDS, ALIGNED, SPACED, SPACING, ZERO_SNR, TRAINING],
        classes: &["EulerDiscreteScheduler"],
        build: euler::build,
    },
    SchedulerEntry {
        name: "euler-ancestral",
        aliases: &["euler-a", "k-euler-a", "k-euler-ancestral", "euler-ancestral-discrete"],
        presets: &[],
        summary: "Euler with new noise in each step: other pictures for other step counts; 20 to 30 steps (Crowson 2022)",
        options: &[ALIGNED, SPACED, SPACING, ZERO_SNR, TRAINING],
        classes: &["EulerAncestralDiscreteScheduler"],
        build: euler_ancestral::build,
    },
    SchedulerEntry {
        name: "heun",
        aliases: &["k-heun", "heun-discrete"],
        presets: &[],
        summary: "second order, accurate; two evaluations a step (Karras et al. 2022)",
        options: &[SIGMAS, SIGMA_ENDS, ALIGNED, SPACED, CLIPPING, SPACING, TRAINING],
        classes: &["HeunDiscreteScheduler"],
        build: heun::build,
    },
    SchedulerEntry {
        name: "lms",
        aliases: &["k-lms", "lms-discrete"],
        presets: &[],
        summary: "linear multistep on sigmas, smoother than Euler; 30 steps and more (Crowson 2022)",
        options: &[SIGMAS, SIGMA_ENDS, ALIGNED, SPACED, SPACING, TRAINING],
        classes: &["LMSDiscreteScheduler"],
        build: lms::build,
    },
    SchedulerEntry {
        name: "kdpm2",
        aliases: &["dpm2", "kdpm2-discrete"],
        presets: &[],
        summary: "second order with a sigma between two steps; two evaluations a step (Crowson 2022)",
        options: &[SIGMAS, SIGMA_ENDS, ALIGNED, SPACED, SPACING, TRAINING],
        classes: &["KDPM2DiscreteScheduler"],
        build: kdpm2::build,
    },
    SchedulerEntry {
        name: "kdpm2-ancestral",
        aliases: &["dpm2-a", "dpm2-ancestral"],
        presets: &[],
        summary: "KDPM2 with new noise in each step; two evaluations a step (Crowson 2022)",
        options: &[SIGMAS, SIGMA_ENDS, ALIGNED, SPACED, SPACING, TRAINING],
        classes: &["KDPM2AncestralDiscreteScheduler"],
        build: kdpm2_ancestral::build,
    },
    SchedulerEntry {
        name: "dpm-multistep",
        aliases: &["dpm-solver", "dpm-solver-multistep"],
        presets: &[
            preset("dpmpp-2m", &[PLUS_PLUS, SECOND_ORDER]),
            preset("dpmpp-2m-sde", &[PLUS_PLUS_SDE, SECOND_ORDER]),
            preset("dpmpp-3m", &[PLUS_PLUS, ("solver_order", "3")]),
            preset("dpmpp-2m-sde-heun", &[PLUS_PLUS_SDE, SECOND_ORDER, ("solver_type", "heun")]),
        ],
        summary: "DPM-Solver++ (2M, 2M SDE), a good choice with Karras sigmas; 15 to 30 steps (Lu et al. 2022)",
        options: &[
            SOLVER,
            LOWER_ORDER,
            &[
                option("euler_at_final", "true, false; default false; steadies the SDE"),
                option("use_lu_lambdas", "true, false; default: the model's"),
            ],
            FINAL_SIGMA,
            SIGMAS,
            SIGMA_ENDS,
            ALIGNED,
            SPACED,
            THRESHOLDING,
            SPACING,
            ZERO_SNR,
            TRAINING,
        ],
        classes: &["DPMSolverMultistepScheduler"],
        build: dpm_multistep::build,
    },
    SchedulerEntry {
        name: "dpm-singlestep",
        aliases: &["dpm-solver-singlestep"],
        presets: &[preset("dpmpp-2s", &[PLUS_PLUS, SECOND_ORDER])],
        summary: "DPM-Solver++ in blocks of steps (2S); 20 steps (Lu et al. 2022)",
        options: &[
            SOLVER,
            LOWER_ORDER,
            FINAL_SIGMA,
            SIGMAS,
            SIGMA_ENDS,
            ALIGNED,
            SPACED,
            THRESHOLDING,
            TRAINING,
        ],
        classes: &["DPMSolverSinglestepScheduler"],
        build: dpm_singlestep::build,
    },
    SchedulerEntry {
        name: "dpm-sde",
        aliases: &["dpmpp-sde", "k-dpmpp-sde", "dpm-solver-sde"],
        presets: &[],
        summary: "DPM-Solver++ for the SDE, much detail; 10 to 15 steps, two evaluations a step (Crowson 2022)",
        options: &[SIGMAS, SIGMA_ENDS, ALIGNED, SPACED, SPACING, TRAINING],
        classes: &["DPMSolverSDEScheduler"],
        build: dpm_sde::build,
    },
    SchedulerEntry {
        name: "dpmpp-2s-ancestral",
        aliases: &["dpmpp-2s-a"],
        presets: &[],
        summary: "DPM-Solver++ 2S with new noise in each step; two evaluations a step (Crowson 2022)",
        options: &[SIGMAS, SIGMA_ENDS, ALIGNED, SPACED, SPACING, ZERO_SNR, TRAINING],
        classes: &[],
        build: dpmpp_2s_ancestral::build,
    },
    SchedulerEntry {
        name: "dpmpp-3m-sde",
        aliases: &[],
        presets: &[],
        summary: "DPM-Solver++ of third order for the SDE, with exponential sigmas; 20 to 30 steps (Crowson 2023)",
        options: &[SIGMAS, SIGMA_ENDS, ALIGNED, SPACED, SPACING, ZERO_SNR, TRAINING],
        classes: &[],
        build: dpmpp_3m_sde::build,
    },
    SchedulerEntry {
        name: "unipc",
        aliases: &["unipc-multistep"],
        presets: &[preset("uni-pc-bh1", &UNI_PC_BH1), preset("uni-pc-bh2", &UNI_PC_BH2)],
        summary: "predictor and corrector in one evaluation; 5 to 15 steps (Zhao et al. 2023)",
        options: &[
            &[
                option("solver_order", "1 to 4; default 2"),
                option("solver_type", "bh1, bh2; default bh2"),
                option("predict_x0", "true, false; default true"),
                option("disable_corrector", "list of steps, such as [0, 1]; default none"),
            ],
            LOWER_ORDER,
            FINAL_SIGMA,
            SIGMAS,
            SIGMA_ENDS,
            ALIGNED,
            SPACED,
            THRESHOLDING,
            SPACING,
            ZERO_SNR,
            TRAINING,
        ],
        classes: &["UniPCMultistepScheduler"],
        build: unipc::build,
    },
    SchedulerEntry {
        name: "deis",
        aliases: &["deis-multistep"],
        presets: &[],
        summary: "exponential integrator of predicted noise; 10 to 20 steps (Zhang & Chen 2022)",
        options: &[
            &[option("solver_order", "1, 2, 3; default 2")],
            LOWER_ORDER,
            SIGMAS,
            SIGMA_ENDS,
            ALIGNED,
            SPACED,
            THRESHOLDING,
            SPACING,
            TRAINING,
        ],
        classes: &["DEISMultistepScheduler"],
        build: deis::build,
    },
    SchedulerEntry {
        name: "lcm",
        aliases: &[],
        presets: &[],
        summary: "latent consistency models and LCM LoRAs only, low guidance; 2 to 8 steps (Luo et al. 2023)",
        options: &[
            DISTILLED,
            &[option("timestep_scaling", "number; default 10")],
            SPACED,
            CLIPPING,
            THRESHOLDING,
            ZERO_SNR,
            TRAINING,
        ],
        classes: &["LCMScheduler"],
        build: lcm::build,
    },
    SchedulerEntry {
        name: "tcd",
        aliases: &[],
        presets: &[],
        summary: "TCD and Hyper-SD models only, eta sets the amount of noise; 2 to 8 steps (Zheng et al. 2024)",
        options: &[
            DISTILLED,
            &[option("eta", "0 to 1; default 0; its authors advise 0.3")],
            ZERO_SNR,
            TRAINING,
        ],
        classes: &["TCDScheduler"],
        build: tcd::build,
    },
];
