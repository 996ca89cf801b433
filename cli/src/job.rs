//! Flags and pictures → a request.

use std::path::Path;

use sdq::add_ons::AddOns;
use sdq_engine::{Mask, Picture, PromptReading, PromptSyntax, Request, Variation};
use sdq_formats::picture::{self, Pixels};

use crate::args::{AddOnArgs, GenerateArgs};

/// Sides of a picture that is to be drawn are multiples of it; one to start from is cut to them.
const SIZE_STEP: usize = 8;
/// Longest side that a picture to start from is scaled to; the engine's own limit is far below memory's.
const MAX_SIDE: usize = 16_384;
/// Where variations start to count.
const VARIATION_SEED: u64 = 1;

/// What the flags ask for, with the pictures that they name, and what changes the model meanwhile.
pub(crate) fn request(args: &GenerateArgs) -> anyhow::Result<(Request, AddOns)> {
    let mut request = Request {
        prompt: args.prompt.clone(),
        negative_prompt: args.negative_prompt.clone(),
        reading: PromptReading {
            syntax: if args.plain_prompt { PromptSyntax::Plain } else { PromptSyntax::Weighted },
            clip_skip: args.clip_skip,
        },
        width: args.sampling.width,
        height: args.sampling.height,
        steps: args.sampling.steps,
        scheduler: args.sampling.scheduler.clone(),
        scheduler_options: args.scheduler_options.clone(),
        guidance_scale: args.sampling.guidance_scale,
        guidance_rescale: args.guidance_rescale,
        image_guidance_scale: args.job.image_guidance_scale,
        seed: args.seed,
        variation: args
            .variation_strength
            .map(|strength| Variation { seed: args.variation_seed.unwrap_or(VARIATION_SEED), strength }),
        count: args.count,
        init_image: None,
        strength: args.job.strength,
        mask: None,
        caching: args.cache.unwrap_or_default(),
    };
    if let Some(path) = &args.job.init_image {
        let image = picture::read(path)?;
        let side = |asked: Option<usize>, own: usize| match asked {
            Some(side) => side,
            None => (own / SIZE_STEP * SIZE_STEP).max(SIZE_STEP),
        };
        let (width, height) = (side(request.width, image.width), side(request.height, image.height));
        (request.width, request.height) = (Some(width), Some(height));
        // A size that cannot be drawn is refused with the request; nothing is scaled to it.
        if (1..=MAX_SIDE).contains(&width) && (1..=MAX_SIDE).contains(&height) {
            let Pixels { width, height, rgb } = image.fill(width, height);
            request.init_image = Some(Picture { width, height, rgb });
            request.mask = args.job.mask.as_deref().map(|path| mask(path, width, height)).transpose()?;
        }
    }
    let AddOnArgs { loras, embeddings, vae, lora_dir } = args.add_ons.clone();
    let mut add_ons = AddOns { loras, embeddings, vae };
    if !args.plain_prompt {
        add_ons.take_tags(&mut request.prompt, lora_dir.as_deref())?;
    }
    Ok((request, add_ons))
}

fn mask(path: &Path, width: usize, height: usize) -> anyhow::Result<Mask> {
    let values = picture::read(path)?.fill(width, height).luma();
    Ok(Mask { width, height, values })
}
