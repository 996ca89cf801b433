//! Requests of the web UI's interface. Unknown keys are ignored, and numbers may be texts, as clients send them.

use sdq::{request::MaskedContent, schedulers};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use super::{Settings, pictures::StoredPictures};
use crate::{
    app::App,
    draw::{DrawRequest, Source},
    models::Listed,
    problem::Problem,
};

/// Sides of a picture are multiples of it.
const SIDE_STEP: usize = 8;
/// Widest soft edge of a mask in pixels.
const MAX_BLUR: f64 = 64.0;

/// The keys of `txt2img` and `img2img` that are used.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(super) struct WebUiRequest {
    #[serde(deserialize_with = "text")]
    prompt: Option<String>,
    #[serde(deserialize_with = "text")]
    negative_prompt: Option<String>,
    #[serde(deserialize_with = "number")]
    seed: Option<f64>,
    #[serde(deserialize_with = "number")]
    subseed: Option<f64>,
    #[serde(deserialize_with = "number")]
    subseed_strength: Option<f64>,
    #[serde(deserialize_with = "number")]
    steps: Option<f64>,
    #[serde(deserialize_with = "number")]
    cfg_scale: Option<f64>,
    #[serde(deserialize_with = "number")]
    image_cfg_scale: Option<f64>,
    #[serde(deserialize_with = "number")]
    width: Option<f64>,
    #[serde(deserialize_with = "number")]
    height: Option<f64>,
    #[serde(deserialize_with = "text")]
    sampler_name: Option<String>,
    #[serde(deserialize_with = "text")]
    sampler_index: Option<String>,
    #[serde(deserialize_with = "text")]
    scheduler: Option<String>,
    #[serde(deserialize_with = "number")]
    batch_size: Option<f64>,
    #[serde(deserialize_with = "number")]
    n_iter: Option<f64>,
    #[serde(deserialize_with = "number")]
    clip_skip: Option<f64>,
    override_settings: Option<Overrides>,
    /// llama-swap names the model so.
    #[serde(deserialize_with = "text")]
    model: Option<String>,
    /// stable-diffusion.cpp's list of LoRAs.
    lora: Vec<LoraOf>,
    #[serde(deserialize_with = "number")]
    denoising_strength: Option<f64>,
    pub(super) enable_hr: Option<bool>,
    #[serde(deserialize_with = "number")]
    hr_scale: Option<f64>,
    #[serde(deserialize_with = "number")]
    hr_resize_x: Option<f64>,
    #[serde(deserialize_with = "number")]
    hr_resize_y: Option<f64>,
    #[serde(deserialize_with = "number")]
    hr_second_pass_steps: Option<f64>,
    #[serde(deserialize_with = "number")]
    mask_blur: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub(super) inpainting_mask_invert: Option<f64>,
    #[serde(deserialize_with = "number")]
    inpainting_fill: Option<f64>,
    #[serde(deserialize_with = "number")]
    inpaint_full_res: Option<f64>,
    #[serde(deserialize_with = "number")]
    inpaint_full_res_padding: Option<f64>,
    #[serde(deserialize_with = "number")]
    pub(super) resize_mode: Option<f64>,
    pub(super) send_images: Option<bool>,
    #[serde(skip_serializing)]
    pub(super) init_images: Vec<String>,
    #[serde(skip_serializing)]
    pub(super) mask: Option<String>,
    /// All other keys.
    #[serde(flatten, skip_serializing)]
    others: Map<String, Value>,
    /// What the answer says of keys that have no effect.
    #[serde(skip)]
    pub(super) notes: Vec<String>,
}

/// Keys of the web UI that change its pictures, and not those of this server.
const WITHOUT_EFFECT: [&str; 14] = [
    "alwayson_scripts",
    "distilled_cfg_scale",
    "eta",
    "firstpass_image",
    "initial_noise_multiplier",
    "refiner_checkpoint",
    "restore_faces",
    "s_churn",
    "s_tmin",
    "script_name",
    "seed_resize_from_h",
    "seed_resize_from_w",
    "styles",
    "tiling",
];

/// Settings for one request.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Overrides {
    #[serde(deserialize_with = "text")]
    sd_model_checkpoint: Option<String>,
    #[serde(rename = "CLIP_stop_at_last_layers", deserialize_with = "number")]
    clip_stop_at_last_layers: Option<f64>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct LoraOf {
    path: String,
    #[serde(deserialize_with = "number")]
    multiplier: Option<f64>,
}

/// A number, also as text or as yes and no; `None` for anything else.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let number = match Value::deserialize(deserializer)? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.trim() {
            "true" => Some(1.0),
            "false" => Some(0.0),
            number => number.parse().ok(),
        },
        Value::Bool(set) => Some(f64::from(u8::from(set))),
        _ => None,
    };
    Ok(number.filter(|number: &f64| number.is_finite()))
}

/// A text that is not empty; `None` for anything else.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) if !text.trim().is_empty() => Some(text),
        _ => None,
    })
}

/// A whole number from 1 on.
fn count(number: Option<f64>) -> Option<usize> {
    number.filter(|&number| number >= 1.0).map(|number| number as usize)
}

fn side(number: Option<f64>) -> Option<usize> {
    count(number).map(|side| (side / SIDE_STEP * SIDE_STEP).max(SIDE_STEP))
}

impl WebUiRequest {
    /// The model that the request names, or that of the settings.
    pub(super) fn model(&self, app: &App) -> Result<Listed, Problem> {
        let own =
            self.override_settings.as_ref().and_then(|settings| settings.sd_model_checkpoint.as_deref());
        match own.or(self.model.as_deref()) {
            Some(name) => super::options::model_called(app, name),
            None => Settings::model(app),
        }
    }

    /// Drops the texts of its pictures, and everything that has no effect; notes what might have been expected to have one.
    pub(super) fn forget_pictures(&mut self) {
        (self.init_images, self.mask) = (Vec::new(), None);
        let others = std::mem::take(&mut self.others);
        let asked = |key: &&&str| match others.get(**key) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::Number(number)) => number.as_f64().is_some_and(|number| number > 0.0),
            Some(Value::String(text)) => !text.is_empty() && text != "None",
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(object)) => !object.is_empty(),
            Some(Value::Bool(true)) => true,
        };
        let unused = WITHOUT_EFFECT.iter().filter(asked).map(|key| format!("`{key}` has no effect here"));
        self.notes.extend(unused);
    }

    /// Pixels around the masked part, if only that is drawn, which is the web UI's default.
    pub(super) fn only_masked(&self) -> Option<u16> {
        let is_whole = self.mask.is_none() || self.inpaint_full_res == Some(0.0);
        (!is_whole).then(|| self.inpaint_full_res_padding.unwrap_or(0.0) as u16)
    }

    /// What the masked part starts from; by default its blurred surroundings.
    fn masked_content(&self) -> MaskedContent {
        match self.inpainting_fill.unwrap_or(0.0) as u8 {
            1 => MaskedContent::Original,
            2 => MaskedContent::Noise,
            3 => MaskedContent::Nothing,
            _ => MaskedContent::Surroundings,
        }
    }

    /// The request in the own form, without pictures.
    pub(super) fn to_draw(&self, app: &App, model: &Listed) -> Result<DrawRequest, Problem> {
        let overrides = self.override_settings.clone().unwrap_or_default();
        let clip_skip = count(overrides.clip_stop_at_last_layers.or(self.clip_skip));
        let pictures = count(self.batch_size).unwrap_or(1).saturating_mul(count(self.n_iter).unwrap_or(1));
        let whole = |number: Option<f64>| number.filter(|&number| number >= 0.0).map(|number| number as u64);
        let varied = self.subseed_strength.filter(|&strength| strength > 0.0);
        let mut request = DrawRequest {
            prompt: self.prompt.clone().unwrap_or_default(),
            negative_prompt: self.negative_prompt.clone().unwrap_or_default(),
            width: side(self.width),
            height: side(self.height),
            steps: count(self.steps),
            seed: whole(self.seed),
            count: Some(pictures),
            guidance_scale: self.cfg_scale,
            scheduler: self.scheduler(app, model)?,
            // 1 is the web UI's default, which models with another one of their own ignore.
            clip_skip: clip_skip.filter(|&skip| skip > 1),
            variation_strength: varied,
            variation_seed: varied.map(|_| whole(self.subseed).unwrap_or_else(sdq::request::random_seed)),
            ..DrawRequest::default()
        };
        for lora in &self.lora {
            let name = lora.path.rsplit(['/', '\\']).next().unwrap_or_default();
            let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
            request.prompt.push_str(&format!(" <lora:{stem}:{}>", lora.multiplier.unwrap_or(1.0)));
        }
        if self.enable_hr == Some(true) {
            request.enlarge = Some(self.enlargement(&request));
        }
        Ok(request)
    }

    /// The second pass over the enlarged picture.
    fn enlargement(&self, request: &DrawRequest) -> crate::draw::Enlarge {
        let scale = self.hr_scale.filter(|&scale| scale > 1.0).unwrap_or(2.0);
        let resized = side(self.hr_resize_x).zip(side(self.hr_resize_y));
        let (width, height) = match resized {
            Some((width, height)) => (Some(width), Some(height)),
            None => {
                let scaled = |own: Option<usize>| side(own.map(|own| own as f64 * scale));
                (scaled(request.width), scaled(request.height))
            }
        };
        let strength = self.denoising_strength.unwrap_or(0.7);
        crate::draw::Enlarge { scale, width, height, strength, steps: count(self.hr_second_pass_steps) }
    }

    /// Adds the pictures of `img2img`, which are in the store.
    pub(super) fn start_from(&self, request: &mut DrawRequest, stored: StoredPictures, is_editing: bool) {
        let StoredPictures { start, mask, only_masked } = stored;
        request.start_picture = Some(Source::Picture(start));
        request.strength = self.denoising_strength.filter(|_| !is_editing);
        request.image_guidance_scale = self.image_cfg_scale.filter(|_| is_editing);
        if let Some(mask) = mask {
            request.mask = Some(Source::Picture(mask));
            request.mask_blur = self.mask_blur.map(|blur| blur.clamp(0.0, MAX_BLUR) as u8);
            request.only_masked = only_masked;
            request.masked_content = Some(self.masked_content().name().to_owned());
        }
    }

    /// The scheduler that sampler and schedule name together. A schedule that the sampler does not support is left out.
    fn scheduler(&self, app: &App, model: &Listed) -> Result<Option<String>, Problem> {
        let sampler = self.sampler_name.as_deref().or(self.sampler_index.as_deref());
        let default = || app.models.describe(model).ok().map(|found| found.defaults.scheduler);
        let Some(schedule) = self.scheduler.as_deref() else { return Ok(sampler.map(str::to_owned)) };
        let Some(sampler) = sampler.map(str::to_owned).or_else(default) else { return Ok(None) };
        let named = schedulers::find(&sampler);
        let named = named.map_err(|error| Problem::invalid("sampler_name", error.to_string()))?;
        Ok(Some(named.with_schedule(schedule).unwrap_or(named).name()))
    }
}
