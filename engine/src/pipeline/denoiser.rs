//! Latents and a step → predicted noise: the U-Net with everything that does not change over the steps done once.

use super::{Pipeline, Settings};
use crate::{
    Error, Tensor,
    backend::Executable,
    models::unet::{self, UNetGraphs, UNetShape},
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

/// How the branches' predictions become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Guidance {
    /// How strongly the prompt pulls.
    pub(super) scale: f32,
    /// How much of the contrast that guidance adds is taken back.
    pub(super) rescale: f32,
}

/// The U-Net for one prompt, one list of timesteps and one size.
pub(super) struct Denoiser<'w> {
    executable: Box<dyn Executable + 'w>,
    /// Per residual block: its name and a row of biases for each step.
    time_biases: Vec<(String, Vec<f32>)>,
    /// Per evaluation of a step: names and values of what the prompt graph computed for its branches.
    text_projections: Vec<Vec<(String, Vec<f32>)>>,
    guidance: Guidance,
    steps: usize,
    batching: Batching,
    /// Rows of the text states: 2 with guidance, the unconditional one first.
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
    /// `text_states [branches, tokens, width]`: with guidance the unconditional one first. `size` is height and width
    /// of the latents.
    pub(super) fn new(
        pipeline: &'w Pipeline,
        text_states: &Tensor,
        guidance: Guidance,
        timesteps: &[f64],
        (height, width): (usize, usize),
        batching: Batching,
    ) -> Result<Denoiser<'w>, Error> {
        let [branches, tokens, _] = *text_states.shape() else {
            return Err(Error::Request {
                field: "text states",
                found: format!("{:?}", text_states.shape()),
                expected: "[branches, tokens, width]".to_owned(),
            });
        };
        let config = &pipeline.model.unet;
        let component = pipeline.component("unet")?;
        let steps = timesteps.len();
        let groups = if batching.split_guidance { branches } else { 1 };
        let batch = batching.pictures * branches / groups;
        let UNetGraphs { time, prompt, denoise } =
            unet::graphs(config, &UNetShape { batch, height, width, tokens, steps });

        let mut time = pipeline.backend.compile(time, &component)?;
        let embeddings = timesteps.iter().map(|&timestep| unet::timestep_embedding(config, timestep as f32));
        time.set_input(unet::TIMESTEP_EMBEDDING, &embeddings.collect::<Vec<_>>().concat());
        time.run();
        let time_biases = outputs(&*time);
        drop(time);

        let mut prompt = pipeline.backend.compile(prompt, &component)?;
        let rows = text_states.values().chunks_exact(text_states.values().len() / branches);
        let repeated: Vec<f32> = rows.flat_map(|row| row.repeat(batching.pictures)).collect();
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
            steps,
            batching,
            branches,
            latent_channels: pipeline.model.vae.latent_channels,
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

    /// Predicted noise for `latents [pictures, channels, h, w]` at `step`, guided where the text states have two
    /// branches.
    pub(super) fn predict(&mut self, latents: &[f32], step: usize) -> Result<Vec<f32>, Error> {
        let model_input = self.with_extra_channels(latents);
        let mut noise_pred = Vec::new();
        match self.batching.split_guidance && self.branches > 1 {
            true => {
                for branch in 0..self.branches {
                    set_inputs(&mut *self.executable, &self.text_projections[branch]);
                    noise_pred.extend(self.evaluate(&model_input, step)?);
                }
            }
            false => noise_pred = self.evaluate(&model_input.repeat(self.branches), step)?,
        }
        if self.branches == 1 {
            return Ok(noise_pred);
        }
        let picture = self.out_channels * self.size.0 * self.size.1;
        let (uncond, cond) = noise_pred.split_at(noise_pred.len() / 2);
        let pictures = uncond.chunks_exact(picture).zip(cond.chunks_exact(picture));
        Ok(pictures.flat_map(|(uncond, cond)| self.guidance.apply(uncond, cond)).collect())
    }

    /// `latents [pictures, channels, h, w]` with the extra channels behind each picture's own.
    fn with_extra_channels(&self, latents: &[f32]) -> Vec<f32> {
        let pixels = self.size.0 * self.size.1;
        let own = latents.chunks_exact(self.latent_channels * pixels);
        let extra = (self.in_channels - self.latent_channels) * pixels;
        if extra == 0 {
            return latents.to_vec();
        }
        own.zip(self.extra_channels.chunks_exact(extra))
            .flat_map(|(own, extra)| [own, extra].concat())
            .collect()
    }

    /// The network itself: `latents [batch, channels, h, w]` → predicted noise, likewise.
    fn evaluate(&mut self, latents: &[f32], step: usize) -> Result<Vec<f32>, Error> {
        let pixels = self.size.0 * self.size.1;
        let mut latents = channels_last(latents, self.in_channels, pixels);
        if self.center_input_sample {
            latents.iter_mut().for_each(|value| *value = 2.0 * *value - 1.0);
        }
        self.executable.set_input(unet::LATENTS, &latents);
        for (name, biases) in &self.time_biases {
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

impl Guidance {
    /// One picture's branches → its predicted noise: `uncond + scale * (cond - uncond)`. Ho & Salimans 2022,
    /// arXiv:2207.12598, eq. 6, in the form where a scale of 1 is no guidance.
    fn apply(self, uncond: &[f32], cond: &[f32]) -> Vec<f32> {
        let guided = uncond.iter().zip(cond).map(|(uncond, cond)| uncond + self.scale * (cond - uncond));
        let mut guided: Vec<f32> = guided.collect();
        if self.rescale > 0.0 {
            // Lin et al. 2023, arXiv:2305.08891, eq. 15 and 16.
            let contrast = (deviation(cond) / deviation(&guided)) as f32;
            let factor = self.rescale * contrast + (1.0 - self.rescale);
            guided.iter_mut().for_each(|value| *value *= factor);
        }
        guided
    }
}

/// Standard deviation of a sample.
fn deviation(values: &[f32]) -> f64 {
    let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64;
    let squares = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>();
    (squares / (values.len() as f64 - 1.0)).sqrt()
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
        text_states: &Tensor,
        timesteps: &[f64],
    ) -> Result<Denoiser<'_>, Error> {
        let size = settings.latent_size(&self.model.vae);
        Denoiser::new(self, text_states, settings.guidance(), timesteps, size, Batching::ONE)
    }

    /// One evaluation of the U-Net: `latents [batch, channels, h, w]`, `timestep` on the training clock,
    /// `text_states [batch, tokens, width]` → predicted noise, shaped like the latents.
    ///
    /// # Errors
    /// When the shapes do not fit the model or each other, or memory runs out.
    pub fn predict_noise(
        &self,
        latents: &Tensor,
        timestep: f64,
        text_states: &Tensor,
    ) -> Result<Tensor, Error> {
        let [batch, _, height, width] = latents.picture_shape("latents", self.model.unet.in_channels)?;
        let (expected, found) = ([batch, self.model.unet.cross_attention_dim], text_states.shape());
        if found.len() != 3 || [found[0], found[2]] != expected || found[1] == 0 {
            return Err(Error::Request {
                field: "text states",
                found: format!("{found:?}"),
                expected: format!("[{}, tokens, {}]", expected[0], expected[1]),
            });
        }
        let guidance = Guidance { scale: 1.0, rescale: 0.0 };
        let size = (height, width);
        let mut denoiser = Denoiser::new(self, text_states, guidance, &[timestep], size, Batching::ONE)?;
        let noise_pred = denoiser.evaluate(latents.values(), 0)?;
        Tensor::new(vec![batch, self.model.unet.out_channels, height, width], noise_pred)
    }
}
