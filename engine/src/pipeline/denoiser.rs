//! Latents and a step → predicted noise: the U-Net with everything that does not change over the steps done once.

use super::{Pipeline, Settings, guidance::Guidance, text::Conditioning};
use crate::{
    Error, Tensor,
    backend::Executable,
    models::{
        config::UNetConfig,
        unet::{self, UNetGraphs, UNetShape},
    },
    tensor::{channels_first, channels_last},
};

/// What the U-Net evaluates at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Pictures that are drawn together.
    pub pictures: usize,
    /// Whether the branches of guidance are evaluated one after the other, which halves the memory and costs time.
    pub split_guidance: bool,
}

impl Batching {
    /// One picture, all branches at once.
    pub(super) const ONE: Batching = Batching { pictures: 1, split_guidance: false };
}

/// The U-Net for one prompt, one list of timesteps and one size.
pub(super) struct Denoiser<'w> {
    executable: Box<dyn Executable + 'w>,
    /// Of every evaluation of a step, or once for all: the name of each residual block and its biases for every step.
    time_biases: Vec<Vec<(String, Vec<f32>)>>,
    /// Of every evaluation of a step: names and values of what the prompt graph computed for its branches.
    text_projections: Vec<Vec<(String, Vec<f32>)>>,
    guidance: Guidance,
    steps: usize,
    batching: Batching,
    /// Rows of the conditioning.
    branches: usize,
    latent_channels: usize,
    in_channels: usize,
    out_channels: usize,
    /// What is read beside the latents, `[pictures, extra channels, h, w]`.
    extra_channels: Vec<f32>,
    /// Height and width of the latents.
    size: (usize, usize),
    center_input_sample: bool,
}

impl<'w> Denoiser<'w> {
    /// `conditioning` has a row for each branch of `guidance`. `size` is height and width of the latents.
    pub(super) fn new(
        pipeline: &'w Pipeline,
        conditioning: &Conditioning,
        guidance: Guidance,
        timesteps: &[f64],
        (height, width): (usize, usize),
        batching: Batching,
    ) -> Result<Denoiser<'w>, Error> {
        let config = &pipeline.model.unet;
        let [branches, tokens] = check(conditioning, config)?;
        let component = pipeline.component("unet")?;
        let groups = if batching.split_guidance { branches } else { 1 };
        let batch = batching.pictures * branches / groups;
        let shape = UNetShape { batch, height, width, tokens, steps: timesteps.len() };
        let UNetGraphs { time, prompt, denoise } = unet::graphs(config, &shape);

        let mut time = pipeline.backend.compile(time, &component)?;
        set_timesteps(&mut *time, config, conditioning, timesteps, shape.time_batch(config));
        let mut time_biases = Vec::with_capacity(groups);
        match &conditioning.added {
            None => {
                time.run();
                time_biases.push(outputs(&*time));
            }
            Some(added) => {
                let repeated = repeat_rows(added, batching.pictures);
                for group in repeated.chunks_exact(repeated.len() / groups) {
                    time.set_input(unet::ADDED_CONDITION, &group.repeat(timesteps.len()));
                    time.run();
                    time_biases.push(outputs(&*time));
                }
            }
        }
        drop(time);

        let mut prompt = pipeline.backend.compile(prompt, &component)?;
        let repeated = repeat_rows(&conditioning.text_states, batching.pictures);
        // Until it runs, it holds no more than its inputs.
        let mut executable = pipeline.backend.compile(denoise, &component)?;
        let mut text_projections = Vec::new();
        for group in repeated.chunks_exact(repeated.len() / groups) {
            prompt.set_input(unet::TEXT_STATES, group);
            prompt.run();
            match groups {
                1 => prompt
                    .output_names()
                    .iter()
                    .for_each(|name| executable.set_input(name, prompt.output(name))),
                _ => text_projections.push(outputs(&*prompt)),
            }
        }
        drop(prompt);
        Ok(Denoiser {
            executable,
            time_biases,
            text_projections,
            guidance,
            steps: timesteps.len(),
            batching,
            branches,
            latent_channels: pipeline.model.vae.latent_channels(),
            in_channels: config.in_channels,
            out_channels: config.out_channels,
            extra_channels: Vec::new(),
            size: (height, width),
            center_input_sample: config.center_input_sample,
        })
    }

    /// What it evaluates at once.
    pub(super) fn batching(&self) -> Batching {
        self.batching
    }

    /// Sets what the model reads beside the latents, `[1, extra channels, h, w]` for each picture, for all later steps.
    pub(super) fn set_extra_channels<'t>(&mut self, pictures: impl IntoIterator<Item = &'t Tensor>) {
        self.extra_channels = pictures.into_iter().flat_map(Tensor::values).copied().collect();
    }

    /// Predicted noise for `latents [pictures, channels, h, w]` at `step`, guided.
    pub(super) fn predict(&mut self, latents: &[f32], step: usize) -> Result<Vec<f32>, Error> {
        let mut noise_pred = Vec::new();
        match self.batching.split_guidance && self.branches > 1 {
            true => {
                for branch in 0..self.branches {
                    set_inputs(&mut *self.executable, &self.text_projections[branch]);
                    let model_input = self.model_input(latents, branch);
                    noise_pred.extend(self.evaluate(&model_input, branch, step)?);
                }
            }
            false => {
                let model_input: Vec<f32> =
                    (0..self.branches).flat_map(|branch| self.model_input(latents, branch)).collect();
                noise_pred = self.evaluate(&model_input, 0, step)?;
            }
        }
        if self.guidance == Guidance::None {
            return Ok(noise_pred);
        }
        let picture = self.out_channels * self.size.0 * self.size.1;
        let all: Vec<&[f32]> = noise_pred.chunks_exact(picture).collect();
        let pictures = self.batching.pictures;
        let guided = (0..pictures).flat_map(|index| {
            let branches: Vec<&[f32]> = all.iter().skip(index).step_by(pictures).copied().collect();
            self.guidance.apply(&branches)
        });
        Ok(guided.collect())
    }

    /// `latents [pictures, channels, h, w]` with what `branch` is shown beside them behind each picture's own.
    fn model_input(&self, latents: &[f32], branch: usize) -> Vec<f32> {
        let pixels = self.size.0 * self.size.1;
        let extra = (self.in_channels - self.latent_channels) * pixels;
        if extra == 0 {
            return latents.to_vec();
        }
        let own = latents.chunks_exact(self.latent_channels * pixels);
        let blank = vec![0.0; extra];
        let shown = self.guidance.shows_picture(branch);
        own.zip(self.extra_channels.chunks_exact(extra))
            .flat_map(|(own, extra)| [own, if shown { extra } else { &blank }].concat())
            .collect()
    }

    /// The network itself: `latents [batch, in_channels, h, w]` → predicted noise, `[batch, out_channels, h, w]`. `group`
    /// is the number of the evaluation in its step.
    fn evaluate(&mut self, latents: &[f32], group: usize, step: usize) -> Result<Vec<f32>, Error> {
        let pixels = self.size.0 * self.size.1;
        let mut latents = channels_last(latents, self.in_channels, pixels);
        if self.center_input_sample {
            latents.iter_mut().for_each(|value| *value = 2.0 * *value - 1.0);
        }
        self.executable.set_input(unet::LATENTS, &latents);
        for (name, biases) in &self.time_biases[group.min(self.time_biases.len() - 1)] {
            let width = biases.len() / self.steps;
            self.executable.set_input(name, &biases[step * width..][..width]);
        }
        self.executable.run();
        let noise_pred = channels_first(self.executable.output(unet::NOISE_PRED), self.out_channels, pixels);
        match noise_pred.iter().all(|value| value.is_finite()) {
            true => Ok(noise_pred),
            false => Err(Error::NotFinite { stage: format!("the U-Net at step {step}") }),
        }
    }
}

/// Rows and tokens of `conditioning`, if it is what the U-Net reads.
fn check(conditioning: &Conditioning, config: &UNetConfig) -> Result<[usize; 2], Error> {
    let error = |field, found: String, expected: String| Error::Request { field, found, expected };
    let shape = conditioning.text_states.shape();
    let sizes = match *shape {
        [rows, tokens, width] if width == config.cross_attention_dim && rows > 0 && tokens > 0 => {
            [rows, tokens]
        }
        _ => {
            let expected = format!("[branches, tokens, {}]", config.cross_attention_dim);
            return Err(error("text states", format!("{shape:?}"), expected));
        }
    };
    let expected = config.addition_embedding.map(|addition| vec![sizes[0], addition.input_dim]);
    let found = conditioning.added.as_ref().map(|added| added.shape().to_vec());
    if found != expected {
        return Err(error("added condition", format!("{found:?}"), format!("{expected:?}")));
    }
    if conditioning.guidance_scale.is_some() != config.time_cond_proj_dim.is_some() {
        let expected = match config.time_cond_proj_dim {
            Some(_) => "a number, which the model is told",
            None => "absent, as the model is not told it",
        };
        return Err(error(
            "guidance scale",
            format!("{:?}", conditioning.guidance_scale),
            expected.to_owned(),
        ));
    }
    Ok(sizes)
}

/// Sets what the time graph reads, but for the added condition.
fn set_timesteps(
    time: &mut dyn Executable,
    config: &UNetConfig,
    conditioning: &Conditioning,
    timesteps: &[f64],
    time_batch: usize,
) {
    let embeddings = timesteps
        .iter()
        .flat_map(|&timestep| unet::timestep_embedding(config, timestep as f32).repeat(time_batch));
    time.set_input(unet::TIMESTEP_EMBEDDING, &embeddings.collect::<Vec<_>>());
    if let (Some(scale), Some(width)) = (conditioning.guidance_scale, config.time_cond_proj_dim) {
        let embedding = unet::guidance_embedding(scale, width);
        time.set_input(unet::GUIDANCE_EMBEDDING, &embedding.repeat(timesteps.len() * time_batch));
    }
}

/// `[rows, ..]` → `[rows, pictures, ..]`.
fn repeat_rows(tensor: &Tensor, pictures: usize) -> Vec<f32> {
    let rows = tensor.values().chunks_exact(tensor.values().len() / tensor.shape()[0]);
    rows.flat_map(|row| row.repeat(pictures)).collect()
}

/// All outputs of a graph that has run, by name.
fn outputs(executable: &dyn Executable) -> Vec<(String, Vec<f32>)> {
    let names = executable.output_names().into_iter();
    names.map(|name| (name.clone(), executable.output(&name).to_vec())).collect()
}

fn set_inputs(executable: &mut dyn Executable, inputs: &[(String, Vec<f32>)]) {
    for (name, values) in inputs {
        executable.set_input(name, values);
    }
}

impl Pipeline {
    /// The U-Net for one picture of `settings`.
    pub(super) fn denoiser(
        &self,
        settings: &Settings,
        conditioning: &Conditioning,
        timesteps: &[f64],
    ) -> Result<Denoiser<'_>, Error> {
        let size = settings.latent_size(&self.model.vae);
        Denoiser::new(self, conditioning, settings.guidance, timesteps, size, Batching::ONE)
    }

    /// One evaluation of the U-Net: `latents [batch, in_channels, h, w]`, what it is shown beside them included, and
    /// `timestep` on the training clock → predicted noise `[batch, out_channels, h, w]`.
    ///
    /// # Errors
    /// When the shapes do not fit the model or each other, or memory runs out.
    pub fn predict_noise(
        &self,
        latents: &Tensor,
        timestep: f64,
        conditioning: &Conditioning,
    ) -> Result<Tensor, Error> {
        let [batch, _, height, width] = latents.picture_shape("latents", self.model.unet.in_channels)?;
        let found = conditioning.text_states.shape();
        if found.first() != Some(&batch) {
            return Err(Error::Request {
                field: "text states",
                found: format!("{found:?}"),
                expected: format!("rows for {batch} latents"),
            });
        }
        let size = (height, width);
        let mut denoiser =
            Denoiser::new(self, conditioning, Guidance::None, &[timestep], size, Batching::ONE)?;
        let noise_pred = denoiser.evaluate(latents.values(), 0, 0)?;
        Tensor::new(vec![batch, self.model.unet.out_channels, height, width], noise_pred)
    }
}
