//! `<sd_cpp_extra_args>{…}</sd_cpp_extra_args>` in a prompt: stable-diffusion.cpp's way to say more than OpenAI's interface
//! can, which Lemonade uses.

use serde::Deserialize;

use crate::{draw::DrawRequest, problem::Problem};

const START: &str = "<sd_cpp_extra_args>";
const END: &str = "</sd_cpp_extra_args>";

/// The keys that are used.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ExtraArgs {
    negative_prompt: Option<String>,
    seed: Option<i64>,
    steps: Option<usize>,
    sample_steps: Option<usize>,
    cfg_scale: Option<f64>,
    width: Option<usize>,
    height: Option<usize>,
    #[serde(alias = "sample_method", alias = "sampler_name")]
    sampling_method: Option<String>,
    strength: Option<f64>,
}

/// Takes the arguments out of the prompt and sets their fields.
pub(super) fn take(request: &mut DrawRequest) -> Result<(), Problem> {
    let Some((before, rest)) = request.prompt.split_once(START) else { return Ok(()) };
    let Some((json, after)) = rest.split_once(END) else { return Ok(()) };
    let invalid = |error: serde_json::Error| {
        Problem::invalid("prompt", format!("the extra arguments are not valid: {error}"))
    };
    let extra: ExtraArgs = serde_json::from_str(json).map_err(invalid)?;
    let prompt = format!("{}{}", before.trim_end(), after);
    request.prompt = prompt.trim().to_owned();
    if let Some(negative_prompt) = extra.negative_prompt {
        request.negative_prompt = negative_prompt;
    }
    request.seed = extra.seed.map_or(request.seed, |seed| u64::try_from(seed).ok());
    request.steps = extra.steps.or(extra.sample_steps).or(request.steps);
    request.guidance_scale = extra.cfg_scale.or(request.guidance_scale);
    request.width = extra.width.or(request.width);
    request.height = extra.height.or(request.height);
    request.scheduler = extra.sampling_method.or(request.scheduler.take());
    request.strength = extra.strength.or(request.strength).filter(|_| request.start_picture.is_some());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(prompt: &str) -> Result<DrawRequest, Problem> {
        let mut request = DrawRequest { prompt: prompt.to_owned(), ..DrawRequest::default() };
        take(&mut request).map(|()| request)
    }

    #[test]
    fn arguments_leave_the_prompt() {
        let request =
            taken(r#"a cat <sd_cpp_extra_args>{"steps": 4, "seed": 7, "x": 1}</sd_cpp_extra_args>"#).unwrap();
        assert_eq!((request.prompt.as_str(), request.steps, request.seed), ("a cat", Some(4), Some(7)));
        assert_eq!(taken("a cat <sd_cpp_extra_args>{").unwrap().prompt, "a cat <sd_cpp_extra_args>{");
        assert!(taken("<sd_cpp_extra_args>x</sd_cpp_extra_args>").is_err());
    }
}
