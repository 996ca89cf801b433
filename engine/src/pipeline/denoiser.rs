//! Latents and a step → predicted noise: the U-Net, with everything that is the same in all steps computed
//! once.

use super::{
    Pipeline, Settings,
    caching::CacheSchedule,
    compiled::Compiled,
    drawing::Drawing,
    guidance::Guidance,
    run_plan::{DenoiserPlan, StepNetworkPlan},
    step_network::{Setup, StepRun},
    text::Conditioning,
};
use crate::{
    Error, Model, Tensor,
    pages::Pages,
    roles::{DEEP_STATES, DenoiserNetwork, NOISE_PRED, StepNetwork},
    tensor::write_channels_first,
};

/// The pictures and branches of guidance that the U-Net evaluates at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Pictures that are drawn together.
    pub pictures: usize,
    /// Whether the branches of guidance are evaluated one after the other, which halves the memory but takes
    /// more time.
    pub split_guidance: bool,
}

impl Batching {
    /// One picture, all branches at once.
    pub(super) const ONE: Batching = Batching { pictures: 1, split_guidance: false };

    /// The number of evaluations that a step needs for `branches` branches of guidance.
    pub(super) fn groups(self, branches: usize) -> usize {
        if self.split_guidance { branches } else { 1 }
    }
}

/// The denoiser for one prompt, one list of timesteps and one size.
pub(super) struct Denoiser<'w> {
    network: StepRun<'w>,
    /// The networks that run beside it.
    companions: Vec<StepRun<'w>>,
    label: &'static str,
    /// If there are several evaluations in a step, for each of them the kept output of the inner layers.
    deep_states: Vec<Pages>,
    schedule: CacheSchedule,
    guidance: Guidance,
    steps: usize,
    batching: Batching,
    /// The number of rows of the conditioning.
    branches: usize,
    layout: Layout,
    /// Channels that are read beside the latents, `[pictures, extra channels, h, w]`.
    extra_channels: Vec<f32>,
    /// Predictions of the branches, `[branches, pictures, out_channels, h, w]`.
    branch_preds: Vec<f32>,
    /// The difference that guidance last added to the prompt's branch, `[pictures, out_channels, h, w]`.
    guidance_added: Vec<f32>,
}

/// Numbers of channels and pixels of input and output.
#[derive(Clone, Copy)]
struct Layout {
    latent_channels: usize,
    in_channels: usize,
    out_channels: usize,
    /// Pixels of the latents.
    pixels: usize,
}

impl<'w> Denoiser<'w> {
    /// The denoiser for `plan`. The rows of `conditioning` are the branches, `timesteps` is the schedule.
    pub(super) fn new(
        pipeline: &'w Pipeline,
        conditioning: &Conditioning,
        guidance: Guidance,
        timesteps: &[f64],
        plan: DenoiserPlan,
        compiled: &mut Compiled<'w>,
    ) -> Result<Denoiser<'w>, Error> {
        let Model { denoiser, companions, autoencoder, .. } = &*pipeline.model;
        check(conditioning, &**denoiser)?;
        let DenoiserPlan { batching, branches, cache_schedule, shape, .. } = plan;
        let setup = Setup { conditioning, timesteps, shape, batching };
        let mut run = |role: &dyn StepNetwork, plan: StepNetworkPlan| {
            StepRun::new(pipeline.network(role.component())?, role, plan, setup, compiled)
        };
        let companions = companions.iter().zip(plan.companions).map(|(role, plan)| run(&**role, plan));
        let companions = companions.collect::<Result<_, _>>()?;
        let network = run(&**denoiser, plan.denoiser)?;
        let groups = batching.groups(branches);
        let deep_states = match cache_schedule.caching.deep_skip() {
            Some(_) if groups > 1 => {
                let length = network.executable.output(DEEP_STATES).len();
                (0..groups).map(|_| Pages::zeros(length)).collect::<Result<_, _>>()?
            }
            _ => Vec::new(),
        };
        let layout = Layout {
            latent_channels: autoencoder.latent_channels(),
            in_channels: denoiser.in_channels(),
            out_channels: denoiser.out_channels(),
            pixels: shape.height * shape.width,
        };
        let predicted = batching.pictures * layout.out_channels * layout.pixels;
        let added = if cache_schedule.caching.splits_guidance() { predicted } else { 0 };
        Ok(Denoiser {
            network,
            companions,
            label: denoiser.label(),
            deep_states,
            schedule: cache_schedule,
            guidance,
            steps: timesteps.len(),
            batching,
            branches,
            layout,
            extra_channels: Vec::new(),
            branch_preds: vec![0.0; branches * predicted],
            guidance_added: vec![0.0; added],
        })
    }

    /// Returns its graphs to `compiled`.
    pub(super) fn finish(self, compiled: &mut Compiled<'w>) {
        self.companions.into_iter().chain([self.network]).for_each(|network| network.finish(compiled));
    }

    /// The pictures and branches that it evaluates at once.
    pub(super) fn batching(&self) -> Batching {
        self.batching
    }

    /// Sets the channels that the model reads beside the latents, `[1, extra channels, h, w]` for each
    /// picture, for all later steps.
    pub(super) fn set_extra_channels<'t>(&mut self, pictures: impl IntoIterator<Item = &'t Tensor>) {
        self.extra_channels = pictures.into_iter().flat_map(Tensor::values).copied().collect();
    }

    /// Switches to these pictures, all at the same step: after this, [`predict`](Denoiser::predict) continues
    /// at that step.
    pub(super) fn take_up(&mut self, drawings: &[Drawing]) -> Result<(), Error> {
        self.set_extra_channels(drawings.iter().filter_map(|drawing| drawing.extra_channels.as_ref()));
        let step = drawings.first().map_or(0, |drawing| drawing.step);
        let full_inputs = drawings.iter().filter_map(|drawing| drawing.full_input.as_ref());
        let full_inputs: Vec<f32> = full_inputs.flat_map(Tensor::values).copied().collect();
        if step < self.steps && !self.schedule.is_full(step) && !full_inputs.is_empty() {
            // The caches depend only on this input, so they get the values that they had.
            let mut noise_pred = vec![0.0; self.branch_preds.len() / self.branches];
            self.predict(&full_inputs, self.schedule.last_full(step), &mut noise_pred)?;
        }
        Ok(())
    }

    /// Predicted noise for `latents [pictures, channels, h, w]` at `step`, with guidance. Where the cache
    /// schedule says so, parts of it are reused from the last full evaluation.
    pub(super) fn predict(
        &mut self,
        latents: &[f32],
        step: usize,
        noise_pred: &mut [f32],
    ) -> Result<(), Error> {
        let full = self.schedule.is_full(step);
        let cached_guidance = self.schedule.caching.splits_guidance();
        let prompt_branch = self.guidance.prompt_branch();
        let groups = self.batching.groups(self.branches);
        for group in (0..groups).filter(|&group| full || !cached_guidance || group == prompt_branch) {
            self.evaluate_branches(latents, group, step)?;
        }
        let cond = &self.branch_preds[prompt_branch * noise_pred.len()..][..noise_pred.len()];
        match cached_guidance && !full {
            true => {
                for ((value, cond), added) in noise_pred.iter_mut().zip(cond).zip(&self.guidance_added) {
                    *value = cond + added;
                }
            }
            false => {
                let picture = noise_pred.len() / self.batching.pictures;
                for (index, guided) in noise_pred.chunks_exact_mut(picture).enumerate() {
                    let branch = |branch: usize| {
                        &self.branch_preds[(branch * self.batching.pictures + index) * picture..][..picture]
                    };
                    self.guidance.apply(branch, guided);
                }
                for ((added, value), cond) in self.guidance_added.iter_mut().zip(&*noise_pred).zip(cond) {
                    *added = value - cond;
                }
            }
        }
        Ok(())
    }

    /// Evaluates the network for the branches of `group` and each picture of `latents`.
    fn evaluate_branches(&mut self, latents: &[f32], group: usize, step: usize) -> Result<(), Error> {
        let Layout { latent_channels, in_channels, pixels, .. } = self.layout;
        let branches = match self.batching.split_guidance {
            true => group..group + 1,
            false => 0..self.branches,
        };
        let (guidance, extra) = (self.guidance, (in_channels - latent_channels) * pixels);
        let extra_channels = std::mem::take(&mut self.extra_channels);
        let rows = branches.flat_map(|branch| {
            let shown = extra > 0 && guidance.shows_picture(branch);
            latents
                .chunks_exact(latent_channels * pixels)
                .enumerate()
                .map(move |(index, own)| (index, own, shown))
        });
        let rows =
            rows.map(|(index, own, shown)| (own, shown.then(|| &extra_channels[index * extra..][..extra])));
        let result = self.evaluate(rows, group, step);
        self.extra_channels = extra_channels;
        result
    }

    /// Runs the companions and then the network itself on `rows`, see [`StepRun::set_latents`], and writes the
    /// branches' predictions. `group` is the index of the evaluation within its step.
    fn evaluate<'r>(
        &mut self,
        rows: impl Iterator<Item = (&'r [f32], Option<&'r [f32]>)> + Clone,
        group: usize,
        step: usize,
    ) -> Result<(), Error> {
        for companion in &mut self.companions {
            companion.set_latents(rows.clone());
            companion.set_step(group, step);
            companion.executable.run()?;
            for name in companion.executable.output_names() {
                self.network.executable.set_input(&name, companion.executable.output(&name));
            }
        }
        self.network.set_latents(rows);
        self.network.set_step(group, step);
        let Denoiser { network: StepRun { executable, .. }, layout, .. } = self;
        match (self.schedule.is_full(step), self.deep_states.get_mut(group)) {
            (true, None) => executable.run()?,
            (true, Some(deep_states)) => {
                executable.run()?;
                deep_states.copy_from_slice(executable.output(DEEP_STATES));
            }
            (false, deep_states) => {
                if let Some(deep_states) = deep_states {
                    executable.set_input(DEEP_STATES, deep_states);
                }
                executable.run_beside_kept()?;
            }
        }
        let predicted = executable.output(NOISE_PRED);
        let noise_pred = &mut self.branch_preds[group * predicted.len()..][..predicted.len()];
        write_channels_first(predicted, layout.out_channels, layout.pixels, noise_pred);
        match noise_pred.iter().all(|value| value.is_finite()) {
            true => Ok(()),
            false => Err(Error::NotFinite { stage: format!("the {} at step {step}", self.label) }),
        }
    }
}

/// The number of rows and tokens of `conditioning`, after a check that the U-Net can read it.
fn check(conditioning: &Conditioning, denoiser: &dyn DenoiserNetwork) -> Result<(usize, usize), Error> {
    let error = |field, found: String, expected: String| Error::Request { field, found, expected };
    let shape = conditioning.text_states.shape();
    let sizes = match *shape {
        [rows, tokens, width] if width == denoiser.text_width() && rows > 0 && tokens > 0 => (rows, tokens),
        _ => {
            let expected = format!("[branches, tokens, {}]", denoiser.text_width());
            return Err(error("text states", format!("{shape:?}"), expected));
        }
    };
    let expected = denoiser.added_width().map(|width| vec![sizes.0, width]);
    let found = conditioning.added.as_ref().map(|added| added.shape().to_vec());
    if found != expected {
        let describe =
            |shape: Option<Vec<usize>>| shape.map_or("none".to_owned(), |shape| format!("{shape:?}"));
        return Err(error("added condition", describe(found), describe(expected)));
    }
    if conditioning.guidance_scale.is_some() != denoiser.reads_guidance_scale() {
        let expected = match denoiser.reads_guidance_scale() {
            true => "a number",
            false => "none, because the model does not read it",
        };
        return Err(error(
            "guidance scale",
            conditioning.guidance_scale.map_or("none".to_owned(), |scale| scale.to_string()),
            expected.to_owned(),
        ));
    }
    Ok(sizes)
}

impl Pipeline {
    /// The U-Net for one picture of `settings`, with full evaluations only: its callers examine the model.
    pub(super) fn denoiser(
        &self,
        settings: &Settings,
        conditioning: &Conditioning,
        timesteps: &[f64],
    ) -> Result<Denoiser<'_>, Error> {
        let size = settings.latent_size(self.scale_factor());
        self.denoiser_of(conditioning, settings.guidance, timesteps, size)
    }

    /// The U-Net for latents of `size`, the rows of `conditioning` and any timesteps, with full evaluations
    /// only.
    fn denoiser_of(
        &self,
        conditioning: &Conditioning,
        guidance: Guidance,
        timesteps: &[f64],
        size: (usize, usize),
    ) -> Result<Denoiser<'_>, Error> {
        let rows = check(conditioning, &*self.model.denoiser)?;
        let plan =
            DenoiserPlan::new(&self.model, rows, timesteps.len(), size, Batching::ONE, CacheSchedule::NONE);
        Denoiser::new(self, conditioning, guidance, timesteps, plan, &mut Compiled::dropped())
    }

    /// One evaluation of the U-Net: `latents [batch, in_channels, h, w]`, which include the extra channels,
    /// and `timestep` (in training timesteps) → predicted noise `[batch, out_channels, h, w]`.
    ///
    /// # Errors
    /// When the shapes do not fit the model or each other, or memory runs out.
    pub fn predict_noise(
        &self,
        latents: &Tensor,
        timestep: f64,
        conditioning: &Conditioning,
    ) -> Result<Tensor, Error> {
        let [batch, _, height, width] =
            latents.picture_shape("latents", self.model.denoiser.in_channels())?;
        let found = conditioning.text_states.shape();
        if found.first() != Some(&batch) {
            return Err(Error::Request {
                field: "text states",
                found: format!("{found:?}"),
                expected: format!("{batch} rows"),
            });
        }
        let mut denoiser = self.denoiser_of(conditioning, Guidance::None, &[timestep], (height, width))?;
        let rows = latents.values().chunks_exact(latents.values().len() / batch);
        denoiser.evaluate(rows.map(|row| (row, None)), 0, 0)?;
        Tensor::new(vec![batch, self.model.denoiser.out_channels(), height, width], denoiser.branch_preds)
    }
}
