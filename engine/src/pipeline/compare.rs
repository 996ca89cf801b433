//! Compares two versions of a model: the stages at which their pictures begin to differ.

use std::ops::ControlFlow;

use super::{Conditioning, Event, Pipeline, Request, Settings, Teller, denoise};
use crate::{
    Error, Picture, Tensor,
    metrics::{psnr, relative_error, ssim},
};

/// The result of [`compare`] for one prompt and seed. Errors are `‖other - reference‖ / ‖reference‖`; ratios
/// are in decibels and infinite for equal pictures.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// Error of the text states, with guidance including those of the negative prompt.
    pub text_states: f64,
    /// Error of the predicted noise at every step, with guidance: both U-Nets read the reference's latents
    /// and text states.
    pub noise_pred: Vec<f64>,
    /// Peak signal-to-noise ratio of the decoders: both read the reference's final latents.
    pub decoder_psnr: f64,
    /// Peak signal-to-noise ratio of the pictures that each model draws by itself.
    pub psnr: f64,
    /// Structural similarity of these pictures, see [`ssim`].
    pub ssim: f64,
    /// The reference's picture.
    pub reference: Picture,
    /// The other's picture.
    pub other: Picture,
}

/// Draws the first picture of `request` with both models and measures every stage of `other` on the inputs of
/// the reference's stage. For fields that the request leaves open, the reference's defaults and scheduler
/// config apply to both. Every evaluation is full, even if the request asks for caching, because the
/// comparison is of models.
///
/// `observer` receives the events of two runs: `image` 0 is the reference's, each step of which evaluates
/// both U-Nets, and `image` 1 is the other's own.
///
/// # Errors
/// [`Error::Mismatch`] when the models have other weights or tokenize the prompt differently; otherwise as
/// [`Pipeline::generate`].
pub fn compare(
    reference: &Pipeline,
    other: &Pipeline,
    request: &Request,
    observer: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Comparison, Error> {
    check_weights(reference, other)?;
    let settings = reference.settings(&Request { count: 1, ..request.clone() })?;
    check_tokens(reference, other, &settings)?;
    let mut observer = Teller { observer, step: 0, steps: settings.evaluations };
    let expected_condition = reference.condition(&settings)?;
    let condition = other.condition(&settings)?;
    observer.tell(Event::Encoded)?;

    let (expected_latents, noise_pred) =
        follow(reference, other, &settings, &expected_condition, &mut observer)?;
    observer.tell(Event::Denoised { image: 0, latents: &expected_latents })?;
    let latents = run(other, &settings, &condition, &mut observer)?;
    observer.tell(Event::Denoised { image: 1, latents: &latents })?;

    let size = settings.latent_size(reference.scale_factor());
    let expected_picture = reference.decoder(size)?.decode(expected_latents.values())?;
    observer.tell(Event::Decoded { image: 0, picture: &expected_picture })?;
    let mut decoder = other.decoder(size)?;
    let decoded = decoder.decode(expected_latents.values())?;
    let picture = decoder.decode(latents.values())?;
    observer.tell(Event::Decoded { image: 1, picture: &picture })?;
    Ok(Comparison {
        text_states: relative_error(&condition.values(), &expected_condition.values()),
        noise_pred,
        decoder_psnr: psnr(&decoded.rgb, &expected_picture.rgb),
        psnr: psnr(&picture.rgb, &expected_picture.rgb),
        ssim: ssim(&picture, &expected_picture),
        reference: expected_picture,
        other: picture,
    })
}

/// The reference's run: its final latents, and the error of the other's U-Net at each step.
fn follow(
    reference: &Pipeline,
    other: &Pipeline,
    settings: &Settings,
    conditioning: &Conditioning,
    observer: &mut Teller<'_>,
) -> Result<(Tensor, Vec<f64>), Error> {
    let timesteps = settings.new_scheduler()?.timesteps().to_vec();
    let mut drawing = reference.begin(settings)?;
    let mut denoiser = reference.denoiser(settings, conditioning, &timesteps)?;
    let mut beside = other.denoiser(settings, conditioning, &timesteps)?;
    for denoiser in [&mut denoiser, &mut beside] {
        denoiser.set_extra_channels(drawing[0].extra_channels.as_slice());
    }
    let mut errors = Vec::with_capacity(timesteps.len());
    let predict = |latents: &[f32], step: usize, noise_pred: &mut [f32]| {
        let mut found = noise_pred.to_vec();
        denoiser.predict(latents, step, noise_pred)?;
        beside.predict(latents, step, &mut found)?;
        errors.push(relative_error(&found, noise_pred));
        Ok(())
    };
    denoise(&mut drawing, timesteps.len(), predict, |drawing, step| {
        observer.tell_step(reference, &drawing[0], step - settings.first_step)
    })?;
    let [drawing] = drawing;
    Ok((drawing.latents, errors))
}

/// The final latents of a run of `pipeline` alone.
fn run(
    pipeline: &Pipeline,
    settings: &Settings,
    conditioning: &Conditioning,
    observer: &mut Teller<'_>,
) -> Result<Tensor, Error> {
    let timesteps = settings.new_scheduler()?.timesteps().to_vec();
    let mut drawing = pipeline.begin(settings)?;
    drawing[0].image = 1;
    let mut denoiser = pipeline.denoiser(settings, conditioning, &timesteps)?;
    denoiser.set_extra_channels(drawing[0].extra_channels.as_slice());
    let predict =
        |latents: &[f32], step: usize, noise_pred: &mut [f32]| denoiser.predict(latents, step, noise_pred);
    denoise(&mut drawing, timesteps.len(), predict, |drawing, step| {
        observer.tell_step(pipeline, &drawing[0], step - settings.first_step)
    })?;
    let [drawing] = drawing;
    Ok(drawing.latents)
}

/// Checks that both models have the same components and names of weights; their values may differ.
pub(super) fn check_weights(reference: &Pipeline, other: &Pipeline) -> Result<(), Error> {
    let (expected, found) = (reference.model.components(), other.model.components());
    if expected != found {
        let (expected, found) = (expected.join(", "), found.join(", "));
        return Err(Error::Mismatch { what: "the list of components".to_owned(), expected, found });
    }
    let pairs = reference.model.weights().into_iter().zip(other.model.weights());
    for ((component, expected), (_, found)) in pairs {
        let mismatch = |what: String, expected: String, found: String| Error::Mismatch {
            what: format!("{what} of {component}"),
            expected,
            found,
        };
        if let Some((expected, found)) =
            expected.iter().zip(&found).find(|(expected, found)| expected != found)
        {
            let describe = |spec: &sdq_formats::WeightSpec| format!("`{}` {:?}", spec.name, spec.shape);
            return Err(mismatch("a weight".to_owned(), describe(expected), describe(found)));
        }
        if expected.len() != found.len() {
            let (expected, found) = (expected.len().to_string(), found.len().to_string());
            return Err(mismatch("the number of weights".to_owned(), expected, found));
        }
    }
    Ok(())
}

/// Checks that both models tokenize the prompts alike.
fn check_tokens(reference: &Pipeline, other: &Pipeline, settings: &Settings) -> Result<(), Error> {
    for branch in settings.branches() {
        let (expected, found) = (reference.tokenize(branch.prompt)?, other.tokenize(branch.prompt)?);
        let Some(at) = (0..expected.len().max(found.len())).find(|&at| expected.get(at) != found.get(at))
        else {
            continue;
        };
        let describe = |ids: &[u32]| ids.get(at).map_or("none".to_owned(), u32::to_string);
        return Err(Error::Mismatch {
            what: format!("token {at} of the prompt"),
            expected: describe(&expected),
            found: describe(&found),
        });
    }
    Ok(())
}
