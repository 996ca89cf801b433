//! Requests of OpenAI's interface. Unknown keys are ignored.

use serde::Deserialize;

use super::extra_args;
use crate::{
    app::App,
    draw::{DrawRequest, Format},
    problem::Problem,
};

/// Most partial pictures of a stream.
const MAX_PARTIAL: u64 = 3;
/// Names of OpenAI's own models, for which the server's first one stands: clients have them as defaults.
const FOREIGN: [&str; 4] = ["dall-e", "gpt-image", "chatgpt-image", "gpt-4"];

/// The keys of `generations` and `edits` that are used; the last ones are further ones of sdq.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ImageRequest {
    pub(super) prompt: Option<String>,
    pub(super) model: Option<String>,
    pub(super) n: Option<usize>,
    pub(super) size: Option<String>,
    pub(super) response_format: Option<String>,
    pub(super) output_format: Option<String>,
    pub(super) stream: Option<bool>,
    pub(super) partial_images: Option<u64>,
    pub(super) negative_prompt: Option<String>,
    pub(super) seed: Option<i64>,
    pub(super) steps: Option<usize>,
    #[serde(alias = "cfg_scale")]
    pub(super) guidance_scale: Option<f64>,
    #[serde(alias = "sampler")]
    pub(super) scheduler: Option<String>,
    pub(super) strength: Option<f64>,
}

/// The form of the answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) is_url: bool,
    /// Partial pictures of each picture; `None` if the answer is no stream.
    pub(super) partial_images: Option<usize>,
}

impl ImageRequest {
    /// The id of the model.
    ///
    /// # Errors
    /// When there is no such model, and it is none of OpenAI's.
    pub(super) fn model(&self, app: &App) -> Result<Option<String>, Problem> {
        let named = self.model.as_deref().map(str::trim).filter(|name| !name.is_empty());
        let Some(name) = named else { return Ok(None) };
        match app.models.find(Some(name)) {
            Some(listed) => Ok(Some(listed.id)),
            None if FOREIGN.iter().any(|start| name.starts_with(start)) => Ok(None),
            None => app.models.get(Some(name)).map(|listed| Some(listed.id)),
        }
    }

    /// The request in the own form, and the form of the answer.
    pub(super) fn to_draw(&self) -> Result<(DrawRequest, Answer), Problem> {
        let prompt =
            self.prompt.clone().ok_or_else(|| Problem::invalid("prompt", "the prompt is missing"))?;
        let (width, height) = self.size()?.unzip();
        let format = match self.output_format.as_deref() {
            None => None,
            Some("jpeg" | "jpg") => Some(Format::Jpg),
            Some(name) => {
                let known = Format::of_ending(name);
                Some(known.ok_or_else(|| {
                    Problem::invalid(
                        "output_format",
                        "the format is unknown, expected one of png, jpeg, webp",
                    )
                })?)
            }
        };
        let is_url = match self.response_format.as_deref() {
            None | Some("b64_json") => false,
            Some("url") => true,
            Some(_) => {
                return Err(Problem::invalid(
                    "response_format",
                    "the format of the answer is unknown, expected one of url, b64_json",
                ));
            }
        };
        let partial = self.partial_images.unwrap_or(0);
        if partial > MAX_PARTIAL {
            return Err(Problem::invalid(
                "partial_images",
                format!("there are too many partial pictures, expected at most {MAX_PARTIAL}"),
            ));
        }
        let mut request = DrawRequest {
            prompt,
            negative_prompt: self.negative_prompt.clone().unwrap_or_default(),
            width,
            height,
            count: Some(self.n.unwrap_or(1).max(1)),
            seed: self.seed.and_then(|seed| u64::try_from(seed).ok()),
            steps: self.steps,
            guidance_scale: self.guidance_scale,
            scheduler: self.scheduler.clone(),
            format,
            ..DrawRequest::default()
        };
        extra_args::take(&mut request)?;
        let partial_images = (self.stream == Some(true)).then_some(partial as usize);
        Ok((request, Answer { is_url, partial_images }))
    }

    /// Width and height; `None` for the model's own.
    fn size(&self) -> Result<Option<(usize, usize)>, Problem> {
        let Some(size) = self.size.as_deref().filter(|size| *size != "auto" && !size.is_empty()) else {
            return Ok(None);
        };
        let sides = size
            .split_once(['x', 'X'])
            .and_then(|(width, height)| Some((width.trim().parse().ok()?, height.trim().parse().ok()?)));
        sides.map(Some).ok_or_else(|| {
            Problem::invalid(
                "size",
                "the size is not valid, expected auto, or width and height such as 512x768",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(json: &str) -> Result<(DrawRequest, Answer), Problem> {
        serde_json::from_str::<ImageRequest>(json).unwrap().to_draw()
    }

    #[test]
    fn the_keys_of_the_interface_are_read_and_others_ignored() {
        let (request, answer) = parsed(
            r#"{"prompt": "a cat", "model": "x", "n": 2, "size": "64x32", "quality": "high", "user": "u", "style": null,
                "background": "auto", "output_format": "jpeg", "response_format": "url", "stream": true, "partial_images": 2}"#,
        )
        .unwrap();
        assert_eq!((request.width, request.height, request.count), (Some(64), Some(32), Some(2)));
        assert_eq!(
            (request.format, answer.is_url, answer.partial_images),
            (Some(Format::Jpg), true, Some(2))
        );
        assert_eq!(
            parsed(r#"{"prompt": "", "size": "auto", "partial_images": 3}"#).unwrap().1.partial_images,
            None
        );
        for (json, field) in [
            ("{}", "prompt"),
            (r#"{"prompt": "x", "size": "big"}"#, "size"),
            (r#"{"prompt": "x", "size": "64x"}"#, "size"),
            (r#"{"prompt": "x", "partial_images": 4}"#, "partial_images"),
            (r#"{"prompt": "x", "response_format": "png"}"#, "response_format"),
            (r#"{"prompt": "x", "output_format": "gif"}"#, "output_format"),
        ] {
            assert_eq!(parsed(json).unwrap_err().field.as_deref(), Some(field), "{json}");
        }
    }
}
