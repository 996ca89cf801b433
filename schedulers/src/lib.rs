//! Diffusion schedulers: the noise levels of a run, and the step of the latents from one level to the next,
//! given a prediction of the model.
//!
//! Plain arithmetic on slices, independent of tensors, models and files: latents may have any shape as long
//! as every slice of a call has the same length and the same order of elements.
//!
//! ```
//! use sdq_schedulers::{NoiseSource, SchedulerConfig, create};
//!
//! /// Real runs draw from a seeded generator; DDIM with eta = 0 draws nothing after the start.
//! struct NoNoise;
//! impl NoiseSource for NoNoise {
//!     fn fill_standard_normal(&mut self, out: &mut [f32]) {
//!         out.fill(0.0);
//!     }
//! }
//!
//! let config = SchedulerConfig::from_json(r#"{"beta_schedule": "scaled_linear", "clip_sample": false}"#)?;
//! let mut scheduler = create("ddim", &config, 20)?;
//! let mut latents = vec![scheduler.init_noise_sigma() as f32; 16];
//! for step_index in 0..scheduler.timesteps().len() {
//!     let mut model_input = latents.clone();
//!     scheduler.scale_model_input(&mut model_input, step_index)?;
//!     let noise_pred = vec![0.0; 16]; // the model's answer to `model_input` at `timesteps()[step_index]`
//!     scheduler.step(&noise_pred, step_index, &mut latents, &mut NoNoise)?;
//! }
//! # Ok::<(), sdq_schedulers::SchedulerError>(())
//! ```
//!
//! A scheduler whose step is linear in `latents`, `noise_pred` and fresh noise is a table of coefficients:
//! its file computes them from its paper's formulas and [`LinearScheduler`] applies them;
//! [`HistoryScheduler`] does the same for steps that are also linear in values that earlier steps remembered.
//! Others implement [`Scheduler`].
#![forbid(unsafe_code)]

mod beta;
mod choices;
mod classes;
mod config;
mod ddim;
mod ddpm;
mod deis;
mod dpm_multistep;
mod dpm_sde;
mod dpm_singlestep;
mod dpm_solver;
mod dpmpp_2s_ancestral;
mod dpmpp_3m_sde;
mod entry;
mod error;
mod euler;
mod euler_ancestral;
mod heun;
mod history;
mod kdpm2;
mod kdpm2_ancestral;
mod lcm;
mod limit;
mod linear;
mod lms;
mod lookup;
mod names;
mod noise_schedule;
mod pndm;
mod prediction;
#[cfg(test)]
mod properties;
mod registry;
mod scheduler;
mod sigma_schedule;
mod tcd;
mod timesteps;
mod unipc;
mod values;

pub use choices::{BetaSchedule, TimestepSpacing};
pub use classes::check_class;
pub use config::{AlignedSteps, SchedulerConfig};
pub use entry::{BuildScheduler, Preset, SchedulerEntry, SchedulerOption};
pub use error::{SchedulerError, StepLimit};
pub use history::{Combination, Evaluation, HistoryScheduler, HistoryStep, PlanStep};
pub use limit::Limit;
pub use linear::{LinearScheduler, LinearStep};
pub use lookup::{create, default_for_class, find, register, schedulers};
pub use names::{NamedScheduler, ScheduleName, schedules};
pub use noise_schedule::NoiseSchedule;
pub use prediction::PredictionType;
pub use scheduler::{NoiseSource, Scheduler, check_history};
pub use timesteps::{fractional_timesteps, whole_timesteps};
pub use values::value_from_text;
