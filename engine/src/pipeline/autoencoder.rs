//! Latents → picture, and pixels → latents.

use sdq_schedulers::NoiseSource;

use super::{
    Pipeline,
    compiled::{Compiled, GraphKey},
    run_plan,
    stages::{Stager, Stages},
};
use crate::{
    Error, JobProblem, Network, Picture, Tensor,
    backend::Executable,
    graph::Graph,
    pages::Pages,
    picture,
    roles::{Autoencoder, LATENTS, MOMENTS, PIXELS},
    tensor::{channels_first, channels_last},
};

/// The distribution of the latents of a picture, before scaling.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    /// `[batch, latent_channels, h, w]`.
    pub mean: Tensor,
    /// Standard deviations, `[batch, latent_channels, h, w]`; `None` where the encoder returns latents and no
    /// distribution.
    pub std: Option<Tensor>,
}

impl Moments {
    /// The moments after scaling, as the U-Net reads them.
    pub(super) fn scaled(mut self, autoencoder: &dyn Autoencoder) -> Moments {
        let pixels = self.mean.shape()[2..].iter().product();
        autoencoder.scale_latents(self.mean.values_mut(), pixels);
        if let Some(std) = &mut self.std {
            autoencoder.scale_deviations(std.values_mut(), pixels);
        }
        self
    }

    /// A sample of the latents, drawn as in diffusers' `DiagonalGaussianDistribution.sample`; where there is
    /// no distribution, no noise is drawn.
    pub(super) fn sample(&self, noise: &mut dyn NoiseSource) -> Vec<f32> {
        let Some(std) = &self.std else { return self.mean.values().to_vec() };
        let mut latents = vec![0.0; self.mean.values().len()];
        noise.fill_standard_normal(&mut latents);
        for ((latent, mean), std) in latents.iter_mut().zip(self.mean.values()).zip(std.values()) {
            *latent = mean + std * *latent;
        }
        latents
    }

    /// Advances `noise` as [`sample`](Moments::sample) does, without returning a sample.
    pub(super) fn skip_sample(&self, noise: &mut dyn NoiseSource) {
        if let Some(std) = &self.std {
            noise.fill_standard_normal(&mut vec![0.0; std.values().len()]);
        }
    }
}

/// Bounds of the logarithm of the variance, as in diffusers' `DiagonalGaussianDistribution`.
const LOG_VARIANCE: (f32, f32) = (-30.0, 20.0);

/// The VAE's decoder for one size.
pub(super) struct Decoder<'w> {
    autoencoder: &'w dyn Autoencoder,
    network: &'w Network,
    graph: Graph,
    stages: Stages,
    /// The whole decoder in one graph, where memory is sufficient.
    whole: Option<(GraphKey, Box<dyn Executable + 'w>)>,
    /// `[height, width, 3]`, where the decoder runs in stages.
    pixels: Option<Pages>,
    width: usize,
    height: usize,
}

impl<'w> Decoder<'w> {
    /// Returns its graph to `compiled`.
    pub(super) fn finish(self, compiled: &mut Compiled<'w>) {
        self.whole.into_iter().for_each(|graph| compiled.give_back(graph));
    }

    /// `latents [latent_channels, h, w]` from the denoising loop → picture.
    pub(super) fn decode(&mut self, latents: &[f32]) -> Result<Picture, Error> {
        let (width, height) = (self.width, self.height);
        picture::from_pixels("the VAE decoder", self.pixels(latents)?, width, height)
    }

    /// The same before rounding to bytes: `[height, width, 3]`, mostly in -1..=1.
    pub(super) fn pixels(&mut self, latents: &[f32]) -> Result<&[f32], Error> {
        let autoencoder = self.autoencoder;
        let mut unscaled = latents.to_vec();
        let pixels = unscaled.len() / autoencoder.latent_channels();
        autoencoder.unscale_latents(&mut unscaled, pixels);
        let channels_last = channels_last(&unscaled, autoencoder.latent_channels(), pixels);
        drop(unscaled);
        if let Some((_, executable)) = &mut self.whole {
            executable.set_input(LATENTS, &channels_last);
            executable.run()?;
            return Ok(executable.output(PIXELS));
        }
        self.pixels = None;
        let stager = Stager::new(&self.graph, self.network, 0)?;
        let pixels = self.pixels.insert(stager.run(&self.stages, &channels_last)?);
        Ok(&pixels[..self.width * self.height * 3])
    }
}

impl Pipeline {
    /// The decoder for latents of `size` (height, width), in one graph.
    pub(super) fn decoder(&self, size: (usize, usize)) -> Result<Decoder<'_>, Error> {
        let stages = self.decoder_stages(size, 0, |stager| stager.whole())?;
        self.decoder_in_stages(size, stages, &mut Compiled::dropped())
    }

    /// Cuts the decoder as `choose` decides; the backend holds `scratch` bytes of working memory anyway.
    pub(super) fn decoder_stages<T>(
        &self,
        (height, width): (usize, usize),
        scratch: u64,
        choose: impl FnOnce(&Stager<'_>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let autoencoder = &self.model.autoencoder;
        let graph = autoencoder.decoder(1, height, width);
        choose(&Stager::new(&graph, self.network(autoencoder.component())?, scratch)?)
    }

    /// The decoder in stages that were chosen for this size.
    pub(super) fn decoder_in_stages<'w>(
        &'w self,
        (height, width): (usize, usize),
        stages: Stages,
        compiled: &mut Compiled<'w>,
    ) -> Result<Decoder<'w>, Error> {
        let autoencoder = &*self.model.autoencoder;
        let planned = run_plan::decoder(autoencoder, height, width);
        let (network, graph) = (self.network(autoencoder.component())?, planned.graph.clone());
        let whole = match stages.is_whole() {
            true => Some(compiled.take(network, planned)?),
            false => None,
        };
        let factor = self.scale_factor();
        let (width, height) = (width * factor, height * factor);
        Ok(Decoder { autoencoder, network, graph, stages, whole, pixels: None, width, height })
    }

    /// Pictures from `latents [batch, latent_channels, h, w]`, which are still multiplied by the scaling
    /// factor.
    ///
    /// # Errors
    /// When the shape is not that of latents, values are not finite, or memory is insufficient however the
    /// picture is cut.
    pub fn decode_latents(&self, latents: &Tensor) -> Result<Vec<Picture>, Error> {
        let [batch, _, height, width] =
            latents.picture_shape("latents", self.model.autoencoder.latent_channels())?;
        let stages = match self.fitting_stages((height, width), batch) {
            Err(error @ Error::DoesNotFit { .. }) => {
                return self.on_fallback().ok_or(error)?.decode_latents(latents);
            }
            stages => stages?,
        };
        let mut decoder = self.decoder_in_stages((height, width), stages, &mut Compiled::dropped())?;
        latents.values().chunks_exact(latents.values().len() / batch).map(|one| decoder.decode(one)).collect()
    }

    /// Moments of the latents of `pixels [batch, 3, height, width]` in -1..=1.
    ///
    /// # Errors
    /// When the sides are not multiples of the VAE's scale factor, the VAE has no encoder, or memory runs out.
    pub fn encode_pixels(&self, pixels: &Tensor) -> Result<Moments, Error> {
        self.encode_pixels_with(pixels, &mut Compiled::dropped())
    }

    pub(super) fn encode_pixels_with<'w>(
        &'w self,
        pixels: &Tensor,
        compiled: &mut Compiled<'w>,
    ) -> Result<Moments, Error> {
        let [batch, channels, height, width] = pixels.picture_shape("pixels", 3)?;
        let factor = self.scale_factor();
        if !height.is_multiple_of(factor) || !width.is_multiple_of(factor) {
            return Err(Error::Request {
                field: "pixels",
                found: format!("{width}x{height}"),
                expected: format!("a picture with sides divisible by {factor}"),
            });
        }
        let autoencoder = &*self.model.autoencoder;
        if !autoencoder.has_encoder() {
            return Err(Error::Job(JobProblem::NoEncoder));
        }
        let network = self.network(autoencoder.component())?;
        let planned = run_plan::encoder(autoencoder, batch, height, width);
        let (key, mut executable) = compiled.take(network, planned)?;
        executable.set_input(PIXELS, &channels_last(pixels.values(), channels, height * width));
        executable.run()?;

        let (height, width) = (height / factor, width / factor);
        let latent_channels = self.model.autoencoder.latent_channels();
        let shape = vec![batch, latent_channels, height, width];
        let output =
            |name: &str, channels: usize| channels_first(executable.output(name), channels, height * width);
        if !autoencoder.is_distribution() {
            let mean = Tensor::new(shape, output(LATENTS, latent_channels))?;
            compiled.give_back((key, executable));
            return Ok(Moments { mean, std: None });
        }
        let moments = output(MOMENTS, 2 * latent_channels);
        compiled.give_back((key, executable));
        let (mut mean, mut std) = (Vec::new(), Vec::new());
        for image in moments.chunks_exact(moments.len() / batch) {
            let (means, log_variances) = image.split_at(image.len() / 2);
            mean.extend_from_slice(means);
            std.extend(log_variances.iter().map(|v| (0.5 * v.clamp(LOG_VARIANCE.0, LOG_VARIANCE.1)).exp()));
        }
        Ok(Moments { mean: Tensor::new(shape.clone(), mean)?, std: Some(Tensor::new(shape, std)?) })
    }
}
