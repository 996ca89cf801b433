//! Requests for pictures in JSON, with pictures of the store in place of files.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use base64::Engine as _;
use sdq::{
    Cancel, Event, Pipeline, Request, Watch,
    add_ons::{AddOns, EmbeddingFile, files_below},
    picture::PictureFormat,
    request::{SIZE_STEP, Settings, random_seed},
    run::read_start,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{app::App, problem::Problem, store::Temporary};

// The keys of the library's request are spelled here once more, and a test compares them. Serde's `flatten` would need the
// library's type in the interface's document, where each key stands with its type and description, and it neither refuses
// unknown keys nor tells a seed that is left out from the library's default.
/// A request for pictures. Fields that are left out take the model's defaults.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DrawRequest {
    /// What the picture should show, in the syntax of AUTOMATIC1111's web UI.
    pub(crate) prompt: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) negative_prompt: String,
    /// In pixels, a multiple of 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) width: Option<usize>,
    /// In pixels, a multiple of 8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) height: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) steps: Option<usize>,
    /// Of the first picture; each further one takes the next number. Chosen at random if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = "uint64")]
    pub(crate) seed: Option<u64>,
    /// Number of pictures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) guidance_scale: Option<f64>,
    /// From 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) guidance_rescale: Option<f64>,
    /// Name or alias, with a sigma schedule after it if wanted: `DPM++ 2M Karras`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scheduler: Option<String>,
    /// Options of the scheduler by their keys: texts, numbers or booleans.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) scheduler_options: Option<BTreeMap<String, OptionValue>>,
    /// Whether brackets and tags in the prompts are ordinary text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plain_prompt: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) clip_skip: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = "uint64")]
    pub(crate) variation_seed: Option<u64>,
    /// From 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) variation_strength: Option<f64>,
    /// `deepcache:N`, `guidance:N` or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache: Option<String>,
    /// How much of the start picture is redrawn, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) strength: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image_guidance_scale: Option<f64>,
    /// Width of the soft edge of what the mask draws, from 0 to 64 pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mask_blur: Option<u8>,
    /// Whether the part that the mask keeps stays exactly as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) paste: Option<bool>,
    /// Draws only the masked part, with so many pixels around it, in `width` and `height`, and puts it back: the picture keeps
    /// its size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) only_masked: Option<u16>,
    /// What the masked part starts from: `original`, `surroundings`, `noise` or `nothing`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) masked_content: Option<String>,
    /// The picture to start from; scaled to cover `width` and `height`, which it sets if they are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) start_picture: Option<Source>,
    /// The part to redraw is white, the part to keep is black.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mask: Option<Source>,
    /// A second pass over the enlarged picture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) enlarge: Option<Enlarge>,
    /// The format of the files; PNG if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) format: Option<Format>,
}

/// The value of a scheduler's option.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum OptionValue {
    Text(String),
    #[schema(value_type = f64)]
    Number(serde_json::Number),
    Switch(bool),
}

/// A picture that a request uses.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Source {
    /// The id of a picture of the gallery, or of one that an earlier request uploaded.
    Picture(String),
    /// The bytes of a PNG, JPEG or WebP file, in base64 or as a data URL.
    Data(String),
}

/// The file of a picture that a request uses.
enum PictureFile {
    Stored(PathBuf),
    Temporary(Temporary),
}

impl PictureFile {
    fn path(&self) -> &Path {
        match self {
            PictureFile::Stored(path) => path,
            PictureFile::Temporary(file) => file.path(),
        }
    }

    fn stored(self) -> Option<PathBuf> {
        match self {
            PictureFile::Stored(path) => Some(path),
            PictureFile::Temporary(_) => None,
        }
    }
}

impl Source {
    fn file(&self, app: &App, field: &str) -> Result<PictureFile, Problem> {
        match self {
            Source::Picture(id) => {
                let path = app.store.source(id).map(PictureFile::Stored);
                path.ok_or_else(|| Problem::invalid(field, "there is no such picture"))
            }
            Source::Data(data) => {
                app.store.glance(&from_base64(data, field)?, field, app).map(PictureFile::Temporary)
            }
        }
    }
}

/// A second pass: each picture is enlarged and drawn over, which adds detail without a second subject.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Enlarge {
    /// The factor of both sides, from 1 to 4; not used where `width` and `height` are given.
    #[serde(default = "twice")]
    pub(crate) scale: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) width: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) height: Option<usize>,
    /// How much is drawn over, from 0 to 1.
    #[serde(default = "over_half")]
    pub(crate) strength: f64,
    /// Denoising steps; those of the first pass if they are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) steps: Option<usize>,
}

fn twice() -> f64 {
    2.0
}

fn over_half() -> f64 {
    0.7
}

impl Enlarge {
    /// The size that a picture of `width x height` is enlarged to.
    pub(crate) fn size(&self, width: usize, height: usize) -> (usize, usize) {
        let scaled = |own: usize| ((own as f64 * self.scale) as usize / SIZE_STEP).max(1) * SIZE_STEP;
        self.width.zip(self.height).unwrap_or((scaled(width), scaled(height)))
    }
}

/// Formats of picture files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    #[default]
    Png,
    #[serde(alias = "jpeg")]
    Jpg,
    Webp,
}

impl Format {
    pub(crate) const ALL: [Format; 3] = [Format::Png, Format::Jpg, Format::Webp];

    /// The extension of its files.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            Format::Png => "png",
            Format::Jpg => "jpg",
            Format::Webp => "webp",
        }
    }

    /// Its media type.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Format::Png => "image/png",
            Format::Jpg => "image/jpeg",
            Format::Webp => "image/webp",
        }
    }

    pub(crate) fn of_ending(ending: &str) -> Option<Format> {
        Format::ALL.into_iter().find(|format| format.ending() == ending)
    }

    /// The format of a file that starts with `bytes`.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Option<Format> {
        let starts = |start: &[u8]| bytes.starts_with(start);
        match () {
            () if starts(b"\x89PNG\r\n\x1a\n") => Some(Format::Png),
            () if starts(b"\xff\xd8\xff") => Some(Format::Jpg),
            () if starts(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") => Some(Format::Webp),
            () => None,
        }
    }

    pub(crate) fn of_file(self) -> PictureFormat {
        match self {
            Format::Png => PictureFormat::Png,
            Format::Jpg => PictureFormat::Jpeg,
            Format::Webp => PictureFormat::WebP,
        }
    }
}

/// The bytes of `text` in base64, which may be a data URL.
pub(crate) fn from_base64(text: &str, field: &str) -> Result<Vec<u8>, Problem> {
    let data = match text.strip_prefix("data:") {
        Some(url) => url.split_once(";base64,").map(|(_, data)| data),
        None => Some(text),
    };
    let data = data.ok_or_else(|| Problem::invalid(field, "the data URL has no `;base64,`"))?;
    let engine = base64::engine::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    engine.decode(data.trim()).map_err(|_| Problem::invalid(field, "the text is not valid base64"))
}

/// `bytes` in base64.
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A request that is ready to run on a model.
pub(crate) struct Prepared {
    pub(crate) request: Request,
    pub(crate) add_ons: AddOns,
    /// Files of the store.
    pub(crate) start: Option<PathBuf>,
    pub(crate) mask: Option<PathBuf>,
    pub(crate) notes: Vec<String>,
}

impl DrawRequest {
    /// Refuses values beyond the server's limits, before anything of their size is allocated.
    pub(crate) fn check_limits(&self, app: &App) -> Result<(), Problem> {
        let limits = &app.limits;
        let bounds = [
            ("count", self.count, limits.count),
            ("steps", self.steps, limits.steps),
            ("width", self.width, limits.width),
            ("height", self.height, limits.height),
        ];
        for (field, value, limit) in bounds {
            if value.is_some_and(|value| value > limit) {
                return Err(Problem::invalid(
                    field,
                    format!("{field} is too large, expected at most {limit} on this server"),
                ));
            }
        }
        if let Some(enlarge) = &self.enlarge {
            let is_possible = self.start_picture.is_none()
                && (1.0..=4.0).contains(&enlarge.scale)
                && (0.0..=1.0).contains(&enlarge.strength)
                && enlarge.steps.is_none_or(|steps| steps <= limits.steps);
            if !is_possible {
                let message =
                    "a second pass needs a scale from 1 to 4, a strength from 0 to 1, and no start picture";
                return Err(Problem::invalid("enlarge", message));
            }
        }
        if self.mask.is_some() && self.start_picture.is_none() {
            return Err(Problem::invalid("mask", "a mask needs a start picture"));
        }
        Ok(())
    }

    /// Stores uploaded pictures and names them by their ids, and chooses a seed if there is none.
    pub(crate) fn settle(&mut self, app: &App) -> Result<(), Problem> {
        for (field, source) in [("start_picture", &mut self.start_picture), ("mask", &mut self.mask)] {
            match source {
                Some(Source::Data(data)) => {
                    let bytes = from_base64(data, field)?;
                    *source = Some(Source::Picture(app.store.upload(&bytes, field, app)?));
                }
                Some(Source::Picture(id)) if app.store.source(id).is_none() => {
                    return Err(Problem::invalid(field, "there is no such picture"));
                }
                _ => {}
            }
        }
        self.seed.get_or_insert_with(random_seed);
        Ok(())
    }

    /// The library's request without pictures.
    fn request(&self) -> Result<Request, Problem> {
        let own =
            DrawRequest { start_picture: None, mask: None, format: None, enlarge: None, ..self.clone() };
        let mut json = serde_json::to_value(own).map_err(|_| Problem::internal())?;
        if self.variation_strength.is_some() && self.variation_seed.is_none() {
            json["variation_seed"] = 1.into();
        }
        if self.variation_strength.is_none() && self.variation_seed.is_some() {
            return Err(Problem::invalid(
                "variation_strength",
                "a variation seed needs a variation strength",
            ));
        }
        serde_json::from_value(json).map_err(|error| Problem::malformed(error.to_string()))
    }

    /// The request with its pictures and the add-ons that its prompt asks for. Files of pictures that have not been
    /// [settled](DrawRequest::settle) are not kept.
    pub(crate) fn prepare(&self, app: &App) -> Result<Prepared, Problem> {
        let mut request = self.request()?;
        let file =
            |source: &Option<Source>, field: &str| source.as_ref().map(|source| source.file(app, field));
        let start = file(&self.start_picture, "start_picture").transpose()?;
        let mask = file(&self.mask, "mask").transpose()?;
        let mut notes = Vec::new();
        let mut observer = |event: Event| {
            if let Event::Note(note) = event {
                notes.push(app.shown(&note.to_string()));
            }
        };
        let watch = &mut Watch::new(&mut observer, &Cancel::new());
        let max_memory = app.models.max_memory();
        let shown = |error: sdq::Error| app.problem(&error);
        let (start_path, mask_path) =
            (start.as_ref().map(PictureFile::path), mask.as_ref().map(PictureFile::path));
        read_start(&mut request, start_path, mask_path, max_memory, watch).map_err(shown)?;
        let mut add_ons = AddOns::default();
        if self.plain_prompt != Some(true) {
            let (prompt, negative_prompt) = (&mut request.prompt, &mut request.negative_prompt);
            let taken = add_ons.take_tags(prompt, negative_prompt, app.lora_dir.as_deref(), watch);
            taken.map_err(shown)?;
        }
        add_ons.embeddings = embeddings(app, &[&request.prompt, &request.negative_prompt]);
        let [start, mask] = [start, mask].map(|file| file.and_then(PictureFile::stored));
        Ok(Prepared { request, add_ons, start, mask, notes })
    }
}

/// The embeddings whose words occur in `prompts`.
fn embeddings(app: &App, prompts: &[&str]) -> Vec<EmbeddingFile> {
    let Some(folder) = &app.embedding_dir else { return Vec::new() };
    let prompts = prompts.join("\n").to_lowercase();
    let files = files_below(folder).into_iter().filter_map(|path| {
        let word = path.file_stem()?.to_str()?.to_owned();
        prompts.contains(&word.to_lowercase()).then_some(EmbeddingFile { path, word: Some(word) })
    });
    files.collect()
}

/// Checks `prepared` against a model, before it is put into the queue; `enlarge` is the request's second pass.
pub(crate) fn check(
    app: &App,
    pipeline: &Pipeline,
    prepared: &Prepared,
    enlarge: Option<&Enlarge>,
) -> Result<Settings, Problem> {
    let shown = |error: sdq::Error| app.problem(&error);
    let settings = pipeline.settings(&prepared.request).map_err(|error| shown(error.into()))?;
    let last = enlarge
        .map_or((settings.width, settings.height), |enlarge| enlarge.size(settings.width, settings.height));
    let limits = &app.limits;
    for (field, side, limit) in [
        ("width", settings.width.max(last.0), limits.width),
        ("height", settings.height.max(last.1), limits.height),
    ] {
        if side > limit {
            return Err(Problem::invalid(
                field,
                format!("{field} is too large, expected at most {limit} on this server"),
            ));
        }
    }
    if enlarge.is_some() && (!last.0.is_multiple_of(SIZE_STEP) || !last.1.is_multiple_of(SIZE_STEP)) {
        return Err(Problem::invalid(
            "enlarge",
            format!("the enlarged width and height must be multiples of {SIZE_STEP}"),
        ));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_the_librarys_request_is_known() {
        let request =
            Request::new("a").negative_prompt("b").size(8, 16).steps(3).scheduler("euler").seed(4).count(2);
        let request = request
            .scheduler_option("eta", "0.5")
            .guidance_scale(7.1)
            .guidance_rescale(0.5)
            .variation(3, 0.25);
        let request = request.strength(0.5).image_guidance_scale(1.5).mask_blur(3).paste(false);
        let request = request.only_masked(8).masked_content(sdq::request::MaskedContent::Noise);
        let reading =
            sdq::request::PromptReading { syntax: sdq::request::PromptSyntax::Plain, clip_skip: Some(2) };
        let request = request.reading(reading).caching("deepcache:3".parse().unwrap());
        let json = serde_json::to_value(&request).unwrap();
        let own: DrawRequest = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(
            serde_json::to_value(&own).unwrap().as_object().unwrap().len(),
            json.as_object().unwrap().len()
        );
        assert_eq!(own.request().unwrap(), request);
        assert_eq!(
            DrawRequest::default().request().unwrap().reading.syntax,
            sdq::request::PromptSyntax::Weighted
        );
        serde_json::from_str::<DrawRequest>(r#"{"prompt": "x", "sampler": "euler"}"#).unwrap_err();
    }

    #[test]
    fn base64_comes_plain_or_as_a_data_url() {
        for text in ["AAEC/w==", "AAEC/w", " AAEC/w==\n", "data:image/png;base64,AAEC/w=="] {
            assert_eq!(from_base64(text, "x").unwrap(), [0, 1, 2, 255], "{text}");
        }
        for text in ["data:image/png,AAEC", "A", "AA-_", "é"] {
            assert!(from_base64(text, "x").is_err(), "{text}");
        }
    }
}
