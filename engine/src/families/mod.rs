//! The families of models: the networks and settings of SD1, SD2, SDXL and its refiner, and how they are
//! distinguished.

mod found;
mod marks;
mod model_index;
mod parts;

pub use found::Skipped;
pub use model_index::ModelIndex;
pub use parts::ExtraInput;

pub(crate) use found::{Found, FoundUNet, FoundVae, unet_prefix};
pub(crate) use marks::Marks;
pub(crate) use model_index::is_of_sdxl;
pub(crate) use parts::{REQUIRED, TEXT_ENCODERS, added_numbers, classes_of, tokenizer_of};

use sdq_schedulers::{PredictionType, SchedulerConfig};
use serde_json::{Value, json};

use crate::models::{
    clip::{TextEncoder, TextKind},
    naming::{Component, LayoutProblem, Names, unknown},
};

/// A family of models, which have the same values of properties that are not in their files.
///
/// | | text states | activation | heads | scheduler | latents are scaled by |
/// |---|---|---|---|---|---|
/// | SD1 | last block of CLIP | quick GELU | 8 | PNDM | 0.18215 |
/// | SD2 | last but one of OpenCLIP | GELU | of 64 channels | DDIM | 0.18215 |
/// | SDXL | last but one of both | quick GELU, GELU | of 64 channels | Euler | 0.13025 |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Projections around transformers are 1x1 convolutions.
    Sd1,
    /// Projections around transformers are matrices.
    Sd2,
    /// A pooled prompt and sizes are added to the timestep.
    Sdxl,
    /// As SDXL, with one text encoder and an aesthetic score.
    SdxlRefiner,
}

impl Family {
    /// Its name for display.
    pub fn name(self) -> &'static str {
        match self {
            Family::Sd1 => "SD1",
            Family::Sd2 => "SD2",
            Family::Sdxl => "SDXL",
            Family::SdxlRefiner => "SDXL refiner",
        }
    }

    /// The family of a model by the additional conditioning of its denoiser, the projections of its transformers, and the
    /// number of its text encoders.
    fn of(has_added_inputs: bool, text_encoders: usize, has_linear_projections: bool) -> Family {
        match (has_added_inputs, text_encoders) {
            (true, 0 | 1) => Family::SdxlRefiner,
            (true, _) => Family::Sdxl,
            (false, _) if has_linear_projections => Family::Sd2,
            (false, _) => Family::Sd1,
        }
    }

    /// The same by the `config.json` of the denoiser.
    pub(crate) fn of_config(unet: &Value, text_encoders: usize) -> Family {
        let has_added_inputs = unet.get("addition_embed_type").is_some_and(|kind| !kind.is_null());
        let has_linear_projections = unet.get("use_linear_projection") == Some(&Value::Bool(true));
        Family::of(has_added_inputs, text_encoders, has_linear_projections)
    }

    fn is_sdxl(self) -> bool {
        matches!(self, Family::Sdxl | Family::SdxlRefiner)
    }

    /// Height and width of the latents that the published models were trained with.
    pub(crate) fn latent_size(self, prediction: Prediction) -> usize {
        match self {
            Family::Sd1 => 64,
            Family::Sd2 if prediction == Prediction::V => 96,
            Family::Sd2 => 64,
            Family::Sdxl | Family::SdxlRefiner => 128,
        }
    }

    fn scaling_factor(self) -> f64 {
        if self.is_sdxl() { 0.13025 } else { 0.18215 }
    }
}

/// The quantity that a U-Net predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// Velocity: Salimans and Ho 2022, arXiv:2202.00512, section 2.4.
    V,
    /// The picture without noise.
    Sample,
}

impl Prediction {
    /// Its name in a scheduler's config.
    pub fn name(self) -> &'static str {
        match self {
            Prediction::Epsilon => "epsilon",
            Prediction::V => "v_prediction",
            Prediction::Sample => "sample",
        }
    }

    /// The prediction of this name in a scheduler's config, a file's notes or a settings file.
    pub(crate) fn from_name(name: &str) -> Option<Prediction> {
        match name {
            "epsilon" | "eps" => Some(Prediction::Epsilon),
            "v_prediction" | "v-prediction" | "v_pred" | "v" => Some(Prediction::V),
            "sample" | "x0" => Some(Prediction::Sample),
            _ => None,
        }
    }
}

/// How the prediction is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// The caller chose it.
    Given,
    /// The file contains it: a marker tensor or metadata.
    Marked,
    /// It is the same for all models of the family.
    Family,
    /// It was determined by an evaluation.
    Measured,
    /// The family has both kinds and the file does not say which.
    Guess,
}

/// The prediction of a model, and how it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Training {
    /// The quantity that the U-Net predicts.
    pub prediction: Prediction,
    /// How it is known.
    pub certainty: Certainty,
    /// Whether the last step of the noise schedule is pure noise: Lin et al. 2023, arXiv:2305.08891, section
    /// 3.1.
    pub zero_snr: bool,
}

impl Training {
    /// The prediction that was given, else the marked one, else the family's default. SD2 has both kinds: the
    /// models of 768 pixels predict velocity, those of 512 noise. Some SDXL models were tuned to predict velocity,
    /// and merging loses their marks. A model with zero terminal SNR cannot predict noise.
    pub(crate) fn of(
        unet: &FoundUNet,
        vae: &FoundVae,
        family: Family,
        given: Option<Prediction>,
        marks: Marks,
    ) -> Training {
        let zero_snr = marks.zero_snr;
        let known = |prediction, certainty| Training { prediction, certainty, zero_snr };
        if let Some(prediction) = given {
            return known(prediction, Certainty::Given);
        }
        if let Some(prediction) = marks.prediction {
            return known(prediction, Certainty::Marked);
        }
        let of_latents_alone = unet.unet.in_channels == vae.latent_channels();
        match family {
            _ if zero_snr => known(Prediction::V, Certainty::Guess),
            Family::Sd2 if of_latents_alone => known(Prediction::V, Certainty::Guess),
            Family::Sdxl if of_latents_alone => known(Prediction::Epsilon, Certainty::Guess),
            _ => known(Prediction::Epsilon, Certainty::Family),
        }
    }
}

impl Training {
    /// This training, changed to what `config` says, the text of a scheduler's config. One that cannot be read changes
    /// nothing here; building the model reports it.
    pub(crate) fn with_config(self, config: &str) -> Training {
        let Ok(config) = SchedulerConfig::from_json(config) else { return self };
        let prediction = match config.prediction_type {
            PredictionType::Epsilon => Prediction::Epsilon,
            PredictionType::VPrediction => Prediction::V,
            PredictionType::Sample => Prediction::Sample,
        };
        let zero_snr = config.rescale_betas_zero_snr;
        match self.certainty {
            Certainty::Given => Training { zero_snr, ..self },
            _ => Training { prediction, certainty: Certainty::Marked, zero_snr },
        }
    }
}

/// The parts of a model, each with the names of its checkpoint.
pub(crate) struct Parts<'a> {
    pub(crate) unet: (&'a Names, &'a FoundUNet),
    pub(crate) vae: (&'a Names, &'a FoundVae),
    pub(crate) text_encoders: Vec<(&'a Names, &'a TextEncoder)>,
}

impl Parts<'_> {
    pub(crate) fn family(&self) -> Family {
        let unet = &self.unet.1.unet;
        Family::of(unet.added_inputs.is_some(), self.text_encoders.len(), unet.linear_projections)
    }

    /// The components, in the order in which diffusers lists them.
    pub(crate) fn components(
        &self,
        family: Family,
        training: &Training,
        marks: &Marks,
    ) -> Result<Vec<Component>, LayoutProblem> {
        let kinds: &[(&'static str, TextKind)] = match family {
            Family::Sd1 => &[("text_encoder", TextKind::Clip)],
            Family::Sd2 => &[("text_encoder", TextKind::OpenClipPenultimate)],
            Family::Sdxl => &[("text_encoder", TextKind::Clip), ("text_encoder_2", TextKind::OpenClip)],
            Family::SdxlRefiner => &[("text_encoder_2", TextKind::OpenClip)],
        };
        if self.text_encoders.len() > kinds.len() {
            let found =
                format!("one of {} text encoders of an {} model", self.text_encoders.len(), family.name());
            return Err(unknown(&self.text_encoders[kinds.len()].1.prefix, found));
        }
        let mut components: Vec<Component> = kinds
            .iter()
            .zip(&self.text_encoders)
            .map(|(&(name, kind), (names, encoder))| encoder.component(names, name, kind))
            .collect();
        let pooled = self.text_encoders.last().and_then(|(_, encoder)| encoder.projection).unwrap_or(0);
        let (names, found) = self.unet;
        let numbers = added_numbers(family == Family::SdxlRefiner);
        components.push(found.component(names, pooled, numbers, family.latent_size(training.prediction))?);
        let (names, found) = self.vae;
        components.push(found.component(names, marks.scaling_factor.unwrap_or(family.scaling_factor())));
        Ok(components)
    }

    /// The diffusers pipeline class of such a model.
    pub(crate) fn class_name(&self, family: Family) -> Result<&'static str, LayoutProblem> {
        let (inputs, latents) = (self.unet.1.unet.in_channels, self.vae.1.latent_channels());
        let reads = |extra: ExtraInput| inputs == extra.input_channels(latents);
        Ok(match family {
            Family::SdxlRefiner => "StableDiffusionXLImg2ImgPipeline",
            Family::Sdxl if reads(ExtraInput::MaskedPicture) => "StableDiffusionXLInpaintPipeline",
            Family::Sdxl if reads(ExtraInput::None) => "StableDiffusionXLPipeline",
            Family::Sd1 | Family::Sd2 if reads(ExtraInput::MaskedPicture) => "StableDiffusionInpaintPipeline",
            Family::Sd1 | Family::Sd2 if reads(ExtraInput::Picture) => {
                "StableDiffusionInstructPix2PixPipeline"
            }
            Family::Sd1 | Family::Sd2 if self.unet.1.unet.is_told_guidance() => {
                "LatentConsistencyModelPipeline"
            }
            Family::Sd1 | Family::Sd2 if reads(ExtraInput::None) => "StableDiffusionPipeline",
            _ => {
                let found = format!("an input of {inputs} channels for latents of {latents} channels");
                return Err(unknown("input_blocks.0.0", found));
            }
        })
    }

    /// `model_index.json` and the configs of scheduler and tokenizers. The vocabulary is the standard one, so
    /// tokenizers have no files of their own.
    pub(crate) fn texts(
        &self,
        family: Family,
        scheduler: &Value,
        class_name: &str,
        components: &[Component],
    ) -> Vec<(String, String)> {
        let mut index = json!({ "_class_name": class_name });
        if family.is_sdxl() {
            index["force_zeros_for_empty_prompt"] = (family == Family::Sdxl).into();
            index["requires_aesthetics_score"] = (family == Family::SdxlRefiner).into();
        }
        let mut texts = Vec::new();
        for Component { name, class_name, .. } in components {
            let library = if name.starts_with("text") { "transformers" } else { "diffusers" };
            index[*name] = json!([library, class_name]);
            let Some(tokenizer) = tokenizer_of(name) else { continue };
            index[tokenizer] = json!(["transformers", "CLIPTokenizer"]);
            let open_clip = family == Family::Sd2 || *name == "text_encoder_2";
            texts.push((
                format!("{tokenizer}/tokenizer_config.json"),
                tokenizer_config(open_clip).to_string(),
            ));
        }
        index["scheduler"] = json!(["diffusers", scheduler["_class_name"]]);
        texts.push((SCHEDULER.to_owned(), scheduler.to_string()));
        texts.insert(0, ("model_index.json".to_owned(), index.to_string()));
        texts
    }
}

/// The embedded text with the scheduler's config.
pub(crate) const SCHEDULER: &str = "scheduler/scheduler_config.json";

/// OpenCLIP pads prompts with the token 0, which is written `!`; CLIP with the end token.
fn tokenizer_config(open_clip: bool) -> Value {
    let padding = if open_clip { "!" } else { "<|endoftext|>" };
    json!({ "tokenizer_class": "CLIPTokenizer", "pad_token": padding })
}

/// The config of the published models of the family, changed as `marks` say. Its class is one that supports the
/// training.
pub(crate) fn scheduler_config(family: Family, training: &Training, marks: &Marks, pipeline: &str) -> Value {
    // PNDM knows neither a schedule that ends in noise alone nor the prediction of the picture.
    let pndm_can = !training.zero_snr && training.prediction != Prediction::Sample;
    let mut config = json!({
        "_class_name": match family {
            _ if pipeline == "LatentConsistencyModelPipeline" => "LCMScheduler",
            Family::Sd1 if pndm_can => "PNDMScheduler",
            Family::Sd1 | Family::Sd2 => "DDIMScheduler",
            Family::Sdxl | Family::SdxlRefiner => "EulerDiscreteScheduler",
        },
        "beta_schedule": "scaled_linear",
        "beta_start": marks.betas[0].unwrap_or(0.00085),
        "beta_end": marks.betas[1].unwrap_or(0.012),
        "num_train_timesteps": marks.timesteps.unwrap_or(1000),
        "prediction_type": training.prediction.name(),
        "steps_offset": 1,
        "timestep_spacing": "leading",
    });
    if config["_class_name"] != "EulerDiscreteScheduler" {
        config["clip_sample"] = false.into();
        config["set_alpha_to_one"] = false.into();
    }
    if config["_class_name"] == "PNDMScheduler" {
        config["skip_prk_steps"] = true.into();
    }
    if training.zero_snr {
        config["rescale_betas_zero_snr"] = true.into();
        // Noise cannot be predicted at a step that is pure noise.
        if training.prediction != Prediction::Epsilon {
            config["timestep_spacing"] = "trailing".into();
        }
    }
    config
}

/// `text`, a scheduler's config, with another prediction.
pub(crate) fn with_prediction(text: &str, prediction: Prediction) -> Option<String> {
    let mut config: Value = serde_json::from_str(text).ok()?;
    config.as_object_mut()?.insert("prediction_type".to_owned(), prediction.name().into());
    Some(config.to_string())
}
