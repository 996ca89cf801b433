//! Goldens in the format of `goldens/record.py`: `manifest.json` lists the cases, `goldens.safetensors` their
//! tensors.

use std::path::{Path, PathBuf};

use sdq_engine::{Mask, Picture, Request, Tensor, pipeline::Caching};
use sdq_formats::safetensors::SafetensorsFile;
use serde::Deserialize;

/// Names of the tiny pipelines, see `goldens/README.md`.
pub const TINY: [&str; 3] = ["sd1", "fp16", "old"];

/// Names of the tiny pipelines of other families, see `goldens/families.py`.
pub const FAMILIES: [&str; 8] = ["sd2", "sdxl", "refiner", "ssd", "sdxs", "lcm", "inpaint", "pix2pix"];

/// The folder of this pipeline's goldens.
pub fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens").join(name)
}

/// A prompt and its token ids.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the manifest's own keys")]
pub struct Tokens {
    pub prompt: String,
    pub ids: Vec<u32>,
}

/// A case without settings, or with none that the tests read.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the manifest's own keys")]
pub struct Case {
    pub case: String,
}

/// One encoded prompt.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the manifest's own keys")]
pub struct TextStates {
    pub case: String,
    pub prompt: String,
}

/// One evaluation of the U-Net.
#[derive(Debug, Deserialize)]
#[expect(missing_docs, reason = "the manifest's own keys")]
pub struct NoisePred {
    pub case: String,
    pub timestep: f64,
}

/// One run from the seed alone.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the manifest's own keys")]
pub struct EndToEnd {
    pub case: String,
    pub prompt: String,
    pub negative_prompt: String,
    pub scheduler: String,
    pub eta: f64,
    pub steps: usize,
    pub width: usize,
    pub height: usize,
    pub guidance_scale: f32,
    pub seed: u64,
    #[serde(default)]
    pub guidance_rescale: f32,
    pub image_guidance_scale: Option<f32>,
    pub strength: Option<f64>,
    /// The pipeline, if one list contains cases of several.
    pub model: Option<String>,
    pub cache: Option<String>,
}

impl EndToEnd {
    /// The engine's request for this case.
    pub fn request(&self) -> Request {
        let eta = (self.eta != 0.0).then(|| ("eta".to_owned(), self.eta.to_string()));
        Request {
            prompt: self.prompt.clone(),
            negative_prompt: self.negative_prompt.clone(),
            width: Some(self.width),
            height: Some(self.height),
            steps: Some(self.steps),
            scheduler: Some(self.scheduler.clone()),
            scheduler_options: eta.into_iter().collect(),
            guidance_scale: Some(self.guidance_scale),
            guidance_rescale: self.guidance_rescale,
            image_guidance_scale: self.image_guidance_scale,
            seed: self.seed,
            caching: self.cache.as_ref().map_or(Caching::None, |cache| cache.parse().expect("a kind")),
            ..Request::default()
        }
    }

    /// Name and settings in a few words, for tables.
    pub fn label(&self) -> String {
        let EndToEnd { case, scheduler, steps, width, height, guidance_scale, .. } = self;
        format!("{case} {scheduler} {steps} steps {width}x{height} guidance {guidance_scale}")
    }
}

/// One run from a picture and the seed.
#[derive(Clone, Debug, Deserialize)]
#[expect(missing_docs, reason = "the manifest's own keys")]
pub struct Job {
    pub model: String,
    pub job: String,
    pub strength: f64,
    #[serde(flatten)]
    pub run: EndToEnd,
}

impl Job {
    /// The engine's request for this case of `goldens`.
    pub fn request(&self, goldens: &Goldens) -> Request {
        let (shape, rgb) = goldens.bytes(&self.run.case, "init_image");
        let mask = (self.job == "inpainting").then(|| goldens.bytes(&self.run.case, "mask").1);
        Request {
            // diffusers' pipelines do not paste what the mask keeps.
            paste: mask.is_none(),
            mask: mask.map(|values| Mask { width: shape[1], height: shape[0], values }),
            ..self.run.request()
        }
        .init_image(Picture { width: shape[1], height: shape[0], rgb })
        .strength(self.strength)
    }
}

/// The lists of cases; a section that was not recorded is empty.
#[derive(Debug, Deserialize)]
#[serde(default)]
#[derive(Default)]
#[expect(missing_docs, reason = "the manifest's own keys")]
pub struct Manifest {
    pub tokens: Vec<Tokens>,
    pub text_states: Vec<TextStates>,
    pub unet: Vec<NoisePred>,
    pub encode: Vec<Case>,
    pub decode: Vec<Case>,
    pub end_to_end: Vec<EndToEnd>,
    pub jobs: Vec<Job>,
}

/// The goldens of one pipeline.
#[derive(Debug)]
pub struct Goldens {
    /// The recorded cases.
    pub manifest: Manifest,
    tensors: SafetensorsFile,
}

impl Goldens {
    /// The goldens in `goldens/NAME`.
    ///
    /// # Panics
    /// When they cannot be read.
    pub fn load(name: &str) -> Goldens {
        let folder = folder(name);
        let text = std::fs::read_to_string(folder.join("manifest.json")).expect("manifest.json is readable");
        let manifest = serde_json::from_str(&text).expect("manifest.json has the fields above");
        let tensors =
            SafetensorsFile::open(folder.join("goldens.safetensors")).expect("goldens are readable");
        Goldens { manifest, tensors }
    }

    /// The f32 tensor `CASE.NAME`.
    ///
    /// # Panics
    /// When there is none.
    pub fn tensor(&self, case: &str, name: &str) -> Tensor {
        let view =
            self.tensors.tensor(&format!("{case}.{name}")).expect("the case was recorded with this tensor");
        let values = view.to_f32().expect("goldens are f32");
        Tensor::new(view.shape, values).expect("the file's reader checked the shape")
    }

    /// Whether there is a tensor `CASE.NAME`.
    pub fn has(&self, case: &str, name: &str) -> bool {
        self.tensors.tensor(&format!("{case}.{name}")).is_some()
    }

    /// The f32 tensor `CASE.NAME`, if it was recorded.
    ///
    /// # Panics
    /// When it is of another type.
    pub fn optional(&self, case: &str, name: &str) -> Option<Tensor> {
        self.has(case, name).then(|| self.tensor(case, name))
    }

    /// The 8-bit picture of `case`: shape `[height, width, 3]` and its values.
    ///
    /// # Panics
    /// When there is none.
    pub fn picture(&self, case: &str) -> (Vec<usize>, Vec<u8>) {
        self.bytes(case, "picture")
    }

    /// The 8-bit tensor `CASE.NAME`: its shape and its values.
    ///
    /// # Panics
    /// When there is none.
    pub fn bytes(&self, case: &str, name: &str) -> (Vec<usize>, Vec<u8>) {
        let view =
            self.tensors.tensor(&format!("{case}.{name}")).expect("the case was recorded with this tensor");
        (view.shape, view.bytes.to_vec())
    }
}

/// The VAE's `scaling_factor` of the golden pipeline `name`.
///
/// # Panics
/// When its config cannot be read.
pub fn scaling_factor(name: &str) -> f32 {
    let path = folder(name).join("model/vae/config.json");
    let text = std::fs::read_to_string(path).expect("the config is readable");
    let config: serde_json::Value = serde_json::from_str(&text).expect("the config is JSON");
    config["scaling_factor"].as_f64().expect("the config states the factor") as f32
}
