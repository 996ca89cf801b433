//! Latents and a step → predicted noise: the U-Net with everything that does not change over the steps done once.

use super::Pipeline;
use crate::{
    Error, Tensor,
    backend::Executable,
    models::unet::{self, UNetGraphs, UNetShape},
    tensor::{channels_first, channels_last},
};

/// The U-Net for one prompt, one list of timesteps and one size.
pub(super) struct Denoiser<'w> {
    executable: Box<dyn Executable + 'w>,
    /// Per residual block: its name and a row of biases for each step.
    time_biases: Vec<(String, Vec<f32>)>,
    steps: usize,
    batch: usize,
    in_channels: usize,
    out_channels: usize,
    /// Height and width of the latents.
    size: (usize, usize),
    center_input_sample: bool,
}

impl<'w> Denoiser<'w> {
    /// `text_states [batch, tokens, width]`: with guidance the unconditional half first. `size` is height and width
    /// of the latents.
    pub(super) fn new(
        pipeline: &'w Pipeline,
        text_states: &Tensor,
        timesteps: &[f64],
        (height, width): (usize, usize),
    ) -> Result<Denoiser<'w>, Error> {
        let [batch, tokens, _] = *text_states.shape() else {
            return Err(Error::Request {
                field: "text states",
                found: format!("{:?}", text_states.shape()),
                expected: "[batch, tokens, width]".to_owned(),
            });
        };
        let config = &pipeline.model.unet;
        let component = pipeline.component("unet")?;
        let steps = timesteps.len();
        let UNetGraphs { time, prompt, denoise } =
            unet::graphs(config, &UNetShape { batch, height, width, tokens, steps });

        let mut time = pipeline.backend.compile(time, &component)?;
        let embeddings = timesteps.iter().map(|&timestep| unet::timestep_embedding(config, timestep as f32));
        time.set_input(unet::TIMESTEP_EMBEDDING, &embeddings.collect::<Vec<_>>().concat());
        time.run();
        let time_biases =
            time.output_names().into_iter().map(|name| (name.clone(), time.output(&name).to_vec())).collect();

        let mut executable = pipeline.backend.compile(denoise, &component)?;
        let mut prompt = pipeline.backend.compile(prompt, &component)?;
        prompt.set_input(unet::TEXT_STATES, text_states.values());
        prompt.run();
        for name in prompt.output_names() {
            executable.set_input(&name, prompt.output(&name));
        }
        Ok(Denoiser {
            executable,
            time_biases,
            steps,
            batch,
            in_channels: config.in_channels,
            out_channels: config.out_channels,
            size: (height, width),
            center_input_sample: config.center_input_sample,
        })
    }

    /// Shape of one picture's latents.
    pub(super) fn latents_shape(&self) -> [usize; 4] {
        [1, self.in_channels, self.size.0, self.size.1]
    }

    /// Predicted noise for one picture's `latents [channels, h, w]` at `step`, guided where the text states have two
    /// halves: `uncond + guidance_scale * (cond - uncond)`. Ho & Salimans 2022, arXiv:2207.12598, eq. 6, in the
    /// form where a scale of 1 is no guidance.
    pub(super) fn predict(
        &mut self,
        latents: &[f32],
        step: usize,
        guidance_scale: f32,
    ) -> Result<Vec<f32>, Error> {
        let noise_pred = self.evaluate(&latents.repeat(self.batch), step)?;
        if self.batch == 1 {
            return Ok(noise_pred);
        }
        let (uncond, cond) = noise_pred.split_at(noise_pred.len() / 2);
        Ok(uncond.iter().zip(cond).map(|(uncond, cond)| uncond + guidance_scale * (cond - uncond)).collect())
    }

    /// The network itself: `latents [batch, channels, h, w]` → predicted noise, likewise.
    pub(super) fn evaluate(&mut self, latents: &[f32], step: usize) -> Result<Vec<f32>, Error> {
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

impl Pipeline {
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
        let mut denoiser = Denoiser::new(self, text_states, &[timestep], (height, width))?;
        let noise_pred = denoiser.evaluate(latents.values(), 0)?;
        Tensor::new(vec![batch, self.model.unet.out_channels, height, width], noise_pred)
    }
}
