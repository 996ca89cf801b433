//! The noise levels of each sigma schedule that has a name, against its formula.

use sdq_schedulers::{AlignedSteps, NoiseSchedule, Scheduler, create};

use crate::config;

/// The sigmas that `settings` ask of the scheduler `name`.
fn levels(name: &str, settings: &str, steps: usize) -> Vec<f64> {
    let scheduler = create(name, &config(settings), steps).unwrap();
    let level = |step_index: usize| sigma_at(&*scheduler, step_index);
    (0..steps).map(|step| level(step * scheduler.order())).collect()
}

/// How much noise is beside a signal of 1.
fn sigma_at(scheduler: &dyn Scheduler, step_index: usize) -> f64 {
    let (mut signal, mut noise) = ([0.0], [0.0]);
    scheduler.add_noise(&[1.0], &[0.0], step_index, &mut signal).unwrap();
    scheduler.add_noise(&[0.0], &[1.0], step_index, &mut noise).unwrap();
    f64::from(noise[0]) / f64::from(signal[0])
}

/// The sigmas of training, the least noisy first.
fn training() -> Vec<f64> {
    let schedule = NoiseSchedule::new(&config("")).unwrap();
    (0..1000).map(|timestep| schedule.sigma(f64::from(timestep))).collect()
}

/// Log-linear between two timesteps, as k-diffusion has it.
fn between(sigmas: &[f64], timestep: f64) -> f64 {
    let (low, high) = (timestep.floor() as usize, timestep.ceil() as usize);
    let share = timestep - timestep.floor();
    ((1.0 - share) * sigmas[low].ln() + share * sigmas[high].ln()).exp()
}

/// The formulas as AUTOMATIC1111's web UI and ComfyUI have them, without the 0 at the end.
fn expected(spacing: &str, steps: usize) -> Vec<f64> {
    let sigmas = training();
    let (least, most) = (sigmas[0], sigmas[999]);
    let count = steps as f64;
    let places = (0..steps).map(|i| i as f64);
    match spacing {
        "normal" => places.map(|i| between(&sigmas, 999.0 * (1.0 - i / (count - 1.0)))).collect(),
        "sgm_uniform" => places.map(|i| between(&sigmas, 999.0 * (1.0 - i / count))).collect(),
        "simple" => (0..steps).map(|i| sigmas[1000 - (1 + (i as f64 * 1000.0 / count) as usize)]).collect(),
        // The quantile of Beta(0.6, 0.6), found by halving where its integral is the share.
        "beta_timesteps" => places.map(|i| between(&sigmas, 999.0 * quantile(1.0 - i / count))).collect(),
        "ddim_uniform" => {
            let mut levels: Vec<f64> = (0..steps).map(|i| sigmas[1 + i * (1000 / steps)]).collect();
            levels.reverse();
            levels
        }
        "kl_optimal" => {
            let share = |i: f64| i / (count - 1.0);
            places.map(|i| (share(i) * least.atan() + (1.0 - share(i)) * most.atan()).tan()).collect()
        }
        "exponential" => places.map(|i| most * (least / most).powf(i / (count - 1.0))).collect(),
        "karras" => {
            let (from, to) = (most.powf(1.0 / 7.0), least.powf(1.0 / 7.0));
            places.map(|i| (from + i / (count - 1.0) * (to - from)).powi(7)).collect()
        }
        _ => panic!("{spacing}"),
    }
}

/// Where the integral of the density of Beta(0.6, 0.6) from 0 is `share`. With x = sin² θ the density is proportional to
/// (sin θ cos θ)^0.2.
fn quantile(share: f64) -> f64 {
    const PARTS: usize = 20_000;
    let width = std::f64::consts::FRAC_PI_2 / PARTS as f64;
    let density = |part: usize| {
        let angle = (part as f64 + 0.5) * width;
        (angle.sin() * angle.cos()).powf(0.2)
    };
    let whole: f64 = (0..PARTS).map(density).sum();
    let mut sum = 0.0;
    let part = (0..PARTS).find(|&part| {
        sum += density(part);
        sum >= share * whole
    });
    let part = part.unwrap_or(PARTS - 1);
    let inside = 1.0 - (sum - share * whole) / density(part);
    ((part as f64 + inside) * width).sin().powi(2)
}

const SPACINGS: [&str; 8] = [
    "normal",
    "sgm_uniform",
    "simple",
    "ddim_uniform",
    "kl_optimal",
    "karras",
    "exponential",
    "beta_timesteps",
];

#[test]
fn each_schedule_has_the_levels_of_its_formula() {
    for spacing in SPACINGS {
        for steps in [2, 5, 20, 30, 250] {
            let expected = expected(spacing, steps);
            for (name, spaced) in [
                ("euler", "leading"),
                ("euler-ancestral", "trailing"),
                ("heun", "linspace"),
                ("dpm-multistep", "leading"),
                ("unipc", "trailing"),
                ("dpmpp-3m-sde", "linspace"),
                ("dpmpp-2s-ancestral", "linspace"),
            ] {
                // The ends of these are the noisiest level that the class would visit without them.
                if spaced != "linspace" && ["karras", "exponential"].contains(&spacing) {
                    continue;
                }
                let settings = format!(r#""sigma_spacing": "{spacing}", "timestep_spacing": "{spaced}""#);
                let found = levels(name, &settings, steps);
                for (found, expected) in found.iter().zip(&expected) {
                    assert!(
                        (found / expected - 1.0).abs() < 1e-4,
                        "{name}, {spacing}, {steps}: {found} {expected}"
                    );
                }
            }
        }
    }
}

/// The model is asked where the levels are, between two timesteps too.
#[test]
fn timesteps_belong_to_the_levels() {
    for name in ["euler", "dpm-multistep", "deis", "dpm-singlestep", "lcm"] {
        let at = |spacing: &str, steps: usize| {
            let config = config(&format!(r#""sigma_spacing": "{spacing}""#));
            create(name, &config, steps).unwrap().timesteps().to_vec()
        };
        for (spacing, steps, expected) in [
            ("sgm_uniform", 4, [999.0, 749.25, 499.5, 249.75]),
            ("simple", 4, [999.0, 749.0, 499.0, 249.0]),
            ("ddim_uniform", 4, [751.0, 501.0, 251.0, 1.0]),
            ("normal", 4, [999.0, 666.0, 333.0, 0.0]),
        ] {
            for (found, expected) in at(spacing, steps).iter().zip(expected) {
                assert!((found - expected).abs() < 1e-3, "{name}, {spacing}: {found} {expected}");
            }
        }
    }
}

/// The last step goes from the last level to none, also in schedules whose last level is far from it.
#[test]
fn a_schedule_starts_in_noise_of_its_first_level() {
    for (spacing, starts_lower) in [
        ("sgm_uniform", false),
        ("simple", false),
        ("normal", false),
        ("kl_optimal", false),
        ("ddim_uniform", true),
    ] {
        for spaced in ["leading", "trailing"] {
            let config = config(&format!(r#""sigma_spacing": "{spacing}", "timestep_spacing": "{spaced}""#));
            let scheduler = create("euler", &config, 10).unwrap();
            let first = sigma_at(&*scheduler, 0);
            let expected = if starts_lower { first.hypot(1.0) } else { first };
            let found = scheduler.init_noise_sigma();
            assert!((found / expected - 1.0).abs() < 1e-6, "{spacing}: {found} {expected}");
        }
    }
}

/// Levels made for one model are those of another only where it is said.
#[test]
fn aligned_steps_are_those_of_the_model() {
    let of = |settings: &str, model| {
        let mut config = config(settings);
        config.aligned_steps = model;
        create("euler", &config, 10).unwrap().timesteps().to_vec()
    };
    let (sd1, sdxl) = (r#""use_align_your_steps": "sd1""#, r#""use_align_your_steps": "sdxl""#);
    let auto = r#""use_align_your_steps": "auto""#;
    assert_eq!(
        (of(auto, AlignedSteps::Sd1), of(auto, AlignedSteps::Sdxl)),
        (of(sd1, AlignedSteps::Sdxl), of(sdxl, AlignedSteps::Sd1))
    );
    assert_ne!(of(sd1, AlignedSteps::Sd1), of(sdxl, AlignedSteps::Sd1));
}

#[test]
fn as_many_steps_as_training_leave_none_to_start_from() {
    let at = |steps| create("euler", &config(r#""sigma_spacing": "ddim_uniform""#), steps).err();
    assert_eq!(at(999), None);
    assert!(at(1000).unwrap().to_string().starts_with("the run has 1000 steps, expected 1 to 999: "));
}
