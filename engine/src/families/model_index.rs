//! A model's `model_index.json`, which defines how its parts work together.

use sdq_schedulers::{AlignedSteps, SchedulerConfig, SchedulerError};
use serde_json::{Map, Value};

use crate::{Error, models::clip::transformer::Layer};

/// Longest index in bytes. JSON of empty lists takes twenty times as much in memory.
const MAX_LEN: usize = 1 << 20;

/// How a diffusers pipeline class uses its networks. Classes of one kind differ in their inputs, a prompt
/// alone or a picture too, which depends on the request here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Class {
    name: &'static str,
    /// SDXL's pipelines concatenate the penultimate states of two text encoders, and normalise latents if the
    /// VAE has statistics.
    layer: Layer,
    /// Guidance has a third branch, without the picture.
    image_guidance: bool,
    correction: Correction,
}

/// The change that a pipeline applies to the scheduler config that it loads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Correction {
    /// Nothing.
    None,
    /// [`SchedulerConfig::as_stable_diffusion_loads_it`].
    OffsetAndClipping,
    /// `steps_offset` becomes 1, and a PNDM scheduler skips its Runge–Kutta steps.
    OffsetAndStart,
}

impl Class {
    const fn sd(name: &'static str, correction: Correction) -> Class {
        Class { name, layer: Layer::Last, image_guidance: false, correction }
    }

    const fn sdxl(name: &'static str) -> Class {
        Class { name, layer: Layer::Penultimate, image_guidance: false, correction: Correction::None }
    }
}

/// The first is that of files without an index.
const CLASSES: [Class; 9] = [
    Class::sd("StableDiffusionPipeline", Correction::OffsetAndClipping),
    Class::sd("StableDiffusionImg2ImgPipeline", Correction::OffsetAndClipping),
    Class::sd("StableDiffusionInpaintPipeline", Correction::OffsetAndStart),
    Class { image_guidance: true, ..Class::sd("StableDiffusionInstructPix2PixPipeline", Correction::None) },
    Class::sd("LatentConsistencyModelPipeline", Correction::None),
    Class::sd("LatentConsistencyModelImg2ImgPipeline", Correction::None),
    Class::sdxl("StableDiffusionXLPipeline"),
    Class::sdxl("StableDiffusionXLImg2ImgPipeline"),
    Class::sdxl("StableDiffusionXLInpaintPipeline"),
];

/// Whether pipelines of the class `name` are SDXL's.
pub(crate) fn is_of_sdxl(name: &str) -> bool {
    CLASSES.iter().any(|class| class.name == name && class.layer == Layer::Penultimate)
}

/// The properties in `model_index.json` that affect a picture.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelIndex {
    class: Class,
    /// Whether an empty negative prompt is replaced by zeros instead of being encoded.
    pub force_zeros_for_empty_prompt: bool,
    /// Whether the U-Net reads an aesthetic score instead of the target size (SDXL's refiner).
    pub requires_aesthetics_score: bool,
    /// Names of the text encoders that have a projection.
    projections: Vec<String>,
    /// Class of the scheduler.
    scheduler_class: Option<String>,
}

impl ModelIndex {
    /// Reads a `model_index.json`; a file converted without one is a `StableDiffusionPipeline`.
    ///
    /// # Errors
    /// When it is not an index, or that of an unsupported pipeline.
    pub fn from_text(text: Option<&str>) -> Result<ModelIndex, Error> {
        let error = |key: &str, found: String, expected: String| Error::Config {
            component: "model_index",
            key: key.to_owned(),
            found,
            expected,
        };
        let Some(text) = text else { return Ok(ModelIndex::new(CLASSES[0])) };
        if text.len() > MAX_LEN {
            let (found, expected) =
                (format!("{} bytes long", text.len()), format!("at most {MAX_LEN} bytes"));
            return Err(error("model_index.json", found, expected));
        }
        let index: Map<String, Value> = serde_json::from_str(text)
            .map_err(|problem| error("model_index.json", problem.to_string(), "a JSON object".to_owned()))?;
        let class_name = index.get("_class_name").unwrap_or(&Value::Null);
        let class = CLASSES.iter().find(|class| class_name == class.name).ok_or_else(|| {
            let known: Vec<_> = CLASSES.iter().map(|class| class.name).collect();
            error("_class_name", class_name.to_string(), known.join(" or "))
        })?;
        let flag = |key: &str, default: bool| match index.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(error(key, other.to_string(), "true or false".to_owned())),
        };
        let sdxl = class.layer == Layer::Penultimate;
        let class_of = |entry: &Value| Some(entry.as_array()?.get(1)?.as_str()?.to_owned());
        let has_projection =
            |entry: &Value| class_of(entry).is_some_and(|class| class == "CLIPTextModelWithProjection");
        let projections = index.iter().filter(|(_, entry)| has_projection(entry));
        Ok(ModelIndex {
            class: *class,
            force_zeros_for_empty_prompt: flag("force_zeros_for_empty_prompt", sdxl)? && sdxl,
            requires_aesthetics_score: flag("requires_aesthetics_score", false)? && sdxl,
            projections: projections.map(|(name, _)| name.clone()).collect(),
            scheduler_class: index.get("scheduler").and_then(class_of),
        })
    }

    fn new(class: Class) -> ModelIndex {
        ModelIndex {
            class,
            force_zeros_for_empty_prompt: false,
            requires_aesthetics_score: false,
            projections: Vec::new(),
            scheduler_class: None,
        }
    }

    /// The states of the text encoders that the U-Net reads.
    pub fn layer(&self) -> Layer {
        self.class.layer
    }

    /// Whether guidance has a third branch, without the picture: Brooks et al. 2022, arXiv:2211.09800, section 3.2.1.
    pub fn image_guidance(&self) -> bool {
        self.class.image_guidance
    }

    /// Whether latents are normalised with the VAE's statistics, if it has them.
    pub fn normalises_latents(&self) -> bool {
        self.class.layer == Layer::Penultimate
    }

    /// The scheduler config after the pipeline's changes to the model's own. If the index and the config name different
    /// classes, the index's counts, as in diffusers.
    ///
    /// # Errors
    /// When one of the classes is not supported.
    pub fn corrected(&self, mut config: SchedulerConfig) -> Result<SchedulerConfig, SchedulerError> {
        let classes = config.class_name.iter().chain(&self.scheduler_class);
        classes.into_iter().try_for_each(|class| sdq_schedulers::check_class(class))?;
        config.class_name = self.scheduler_class.clone().or(config.class_name);
        if self.class.layer == Layer::Penultimate {
            config.aligned_steps = AlignedSteps::Sdxl;
        }
        match self.class.correction {
            Correction::None => {}
            Correction::OffsetAndClipping => config = config.as_stable_diffusion_loads_it(),
            Correction::OffsetAndStart => {
                config.set("steps_offset", 1.into())?;
                let pndm = config.class_name.as_deref() == Some("PNDMScheduler");
                if pndm || config.flag("skip_prk_steps")? == Some(false) {
                    config.set("skip_prk_steps", true.into())?;
                }
            }
        }
        Ok(config)
    }

    /// Whether the text encoder called `name` is listed as one with a projection.
    pub fn has_projection(&self, name: &str) -> bool {
        self.projections.iter().any(|other| other == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_index_is_an_ordinary_model() {
        let index = ModelIndex::from_text(None).unwrap();
        let ordinary =
            r#"{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}"#;
        assert_eq!(index, ModelIndex::from_text(Some(ordinary)).unwrap());
        assert_eq!((index.layer(), index.image_guidance()), (Layer::Last, false));
    }

    #[test]
    fn the_refiner_says_what_it_needs() {
        let text = r#"{"_class_name": "StableDiffusionXLImg2ImgPipeline", "requires_aesthetics_score": true,
            "force_zeros_for_empty_prompt": false, "text_encoder": [null, null],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}"#;
        let index = ModelIndex::from_text(Some(text)).unwrap();
        assert!(index.requires_aesthetics_score && !index.force_zeros_for_empty_prompt);
        assert!(index.has_projection("text_encoder_2") && !index.has_projection("text_encoder"));
        let base = ModelIndex::from_text(Some(r#"{"_class_name": "StableDiffusionXLPipeline"}"#)).unwrap();
        assert!(base.force_zeros_for_empty_prompt, "SDXL's default");
    }

    /// The changes that the constructors of diffusers' pipelines make.
    #[test]
    fn pipelines_correct_their_scheduler() {
        let json = r#"{"_class_name": "PNDMScheduler", "steps_offset": 0, "clip_sample": true}"#;
        for (class, steps_offset, clip_sample, skip_prk_steps) in [
            ("StableDiffusionPipeline", 1, false, None),
            ("StableDiffusionImg2ImgPipeline", 1, false, None),
            ("StableDiffusionInpaintPipeline", 1, true, Some(true)),
            ("StableDiffusionInstructPix2PixPipeline", 0, true, None),
            ("StableDiffusionXLPipeline", 0, true, None),
        ] {
            let index = ModelIndex::from_text(Some(&format!(r#"{{"_class_name": "{class}"}}"#))).unwrap();
            let config = index.corrected(SchedulerConfig::from_json(json).unwrap()).unwrap();
            assert_eq!(config.steps_offset, steps_offset, "{class}");
            assert_eq!(config.flag("clip_sample").unwrap(), Some(clip_sample), "{class}");
            assert_eq!(config.flag("skip_prk_steps").unwrap(), skip_prk_steps, "{class}");
        }
    }

    #[test]
    fn the_scheduler_is_of_the_class_that_the_index_names() {
        let corrected = |index: &str, config: &str| {
            let index = format!(
                r#"{{"_class_name": "StableDiffusionXLPipeline", "scheduler": ["diffusers", {index}]}}"#
            );
            let config = format!(r#"{{"_class_name": "{config}"}}"#);
            let config = SchedulerConfig::from_json(&config).unwrap();
            ModelIndex::from_text(Some(&index)).unwrap().corrected(config)
        };
        let class = |index, config| corrected(index, config).unwrap().class_name.unwrap();
        assert_eq!(class(r#""EulerDiscreteScheduler""#, "DDIMScheduler"), "EulerDiscreteScheduler");
        assert_eq!(class("null", "DDIMScheduler"), "DDIMScheduler");
        for (index, config) in [
            (r#""EDMEulerScheduler""#, "EulerDiscreteScheduler"),
            (r#""DDIMScheduler""#, "EDMEulerScheduler"),
            ("null", "EDMEulerScheduler"),
        ] {
            let error = corrected(index, config).unwrap_err().to_string();
            assert!(error.contains("`EDMEulerScheduler`"), "{error}");
        }
    }

    #[test]
    fn other_pipelines_are_refused_by_name() {
        for (text, expected) in [
            (r#"{"_class_name": "KandinskyPipeline"}"#, "KandinskyPipeline"),
            ("[]", "JSON"),
            ("{}", "_class_name"),
            (
                r#"{"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": 1}"#,
                "true or false",
            ),
        ] {
            let error = ModelIndex::from_text(Some(text)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
