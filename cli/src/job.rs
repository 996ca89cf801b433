//! Converts flags, a recipe, pictures and files of prompts to requests.

use std::{
    fs::File,
    io::stdin,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use sdq::{
    Request,
    add_ons::AddOns,
    batch::{self, Entry},
    recipe::Source,
    request::{PromptReading, PromptSyntax, Variation, random_seed},
    run::read_start,
    schedulers,
};

use crate::{
    UsageError,
    args::{AddOnArgs, GenerateArgs, SeedArg},
    config, streams, terminal,
};

/// The first seed of variations.
const VARIATION_SEED: u64 = 1;

/// The contents of a command line.
pub(crate) struct Asked {
    /// With the tags of its prompts; [`add_ons`] takes them.
    pub(crate) request: Request,
    /// The start picture and the mask.
    pub(crate) init_image: Option<PathBuf>,
    pub(crate) mask: Option<PathBuf>,
    /// The recipe over which flags take precedence.
    pub(crate) source: Option<Source>,
}

/// Reads the prompts in the file `path`, or in standard input if it is `-`.
pub(crate) fn entries(path: &Path) -> anyhow::Result<Vec<Entry>> {
    if streams::is_stream(path) {
        return Ok(batch::read(Path::new("standard input"), stdin().lock())?);
    }
    let file = File::open(path).with_context(|| format!("the file of prompts `{}`", path.display()))?;
    Ok(batch::read(path, file)?)
}

/// Reads `args`, with their pictures and recipe. `streamed` is the start picture from standard input, if it comes from there.
pub(crate) fn read(args: &GenerateArgs, streamed: Option<PathBuf>) -> anyhow::Result<Asked> {
    let source = args.from.as_deref().map(Source::read).transpose()?;
    let mut request = match &source {
        Some(source) => source.found.recipe.request.clone(),
        None => {
            let reading = PromptReading { syntax: PromptSyntax::Weighted, clip_skip: None };
            Request { reading, ..Request::default() }
        }
    };
    override_request(&mut request, args)?;
    let given = streamed.or_else(|| args.job.init_image.clone());
    let (init_image, mask) = match (&source, &given) {
        (Some(source), None) => {
            let (init_image, mask) = source.start()?;
            (init_image, args.job.mask.clone().or(mask))
        }
        (_, init_image) => (init_image.clone(), args.job.mask.clone()),
    };
    terminal::watched(|watch| {
        read_start(&mut request, init_image.as_deref(), mask.as_deref(), args.run.max_memory, watch)
    })?;
    if let Some(source) = &source {
        terminal::watched(|watch| source.note_unused(watch));
    }
    Ok(Asked { request, init_image, mask, source })
}

/// The changes to the model that flags, the recipe and the tags in the prompts of `request` name. Takes the tags out.
pub(crate) fn add_ons(args: &GenerateArgs, asked: &Asked, request: &mut Request) -> anyhow::Result<AddOns> {
    let AddOnArgs { loras, embeddings, vae, lora_dir } = args.add_ons.clone();
    let lora_dir = config::lora_dir(lora_dir)?;
    let mut add_ons = AddOns { loras, embeddings, vae };
    if request.reading.syntax == PromptSyntax::Weighted {
        let (prompt, negative_prompt) = (&mut request.prompt, &mut request.negative_prompt);
        terminal::watched(|watch| add_ons.take_tags(prompt, negative_prompt, lora_dir.as_deref(), watch))?;
    }
    if let Some(source) = &asked.source {
        let recipe = terminal::watched(|watch| source.add_ons(lora_dir.as_deref(), watch))?;
        // Those of the recipe come first, as in the original run, where those of the prompt's tags were added
        // to the flags'.
        if args.add_ons.loras.is_empty() {
            add_ons.loras = [recipe.loras, add_ons.loras].concat();
        }
        if add_ons.embeddings.is_empty() {
            add_ons.embeddings = recipe.embeddings;
        }
        if add_ons.vae.is_empty() {
            add_ons.vae = recipe.vae;
        }
    }
    Ok(add_ons)
}

/// Returns the number of `seed`. Chooses and prints a random seed, with 32 bits as in other programs; `name` names it in
/// the message.
pub(crate) fn number(seed: SeedArg, name: &str) -> u64 {
    match seed {
        SeedArg::Number(number) => number,
        SeedArg::Random => {
            let number = random_seed();
            note!("note: the {name} is {number}");
            number
        }
    }
}

/// Sets the fields that flags give.
fn override_request(request: &mut Request, args: &GenerateArgs) -> anyhow::Result<()> {
    fn set<T: Clone>(field: &mut T, flag: &Option<T>) {
        if let Some(value) = flag {
            field.clone_from(value);
        }
    }
    fn set_option<T: Clone>(field: &mut Option<T>, flag: &Option<T>) {
        if flag.is_some() {
            field.clone_from(flag);
        }
    }
    set(&mut request.prompt, &args.prompt);
    set(&mut request.prompt, &args.prompt_flag);
    if args.prompt.as_deref() == Some(streams::STREAM) {
        request.prompt = streams::read_prompt()?;
    }
    set(&mut request.negative_prompt, &args.negative_prompt);
    if let Some(plain) = args.plain_prompt {
        request.reading.syntax = if plain { PromptSyntax::Plain } else { PromptSyntax::Weighted };
    }
    set_option(&mut request.reading.clip_skip, &args.clip_skip);
    set_option(&mut request.width, &args.sampling.width);
    set_option(&mut request.height, &args.sampling.height);
    set_option(&mut request.steps, &args.sampling.steps);
    set_option(&mut request.guidance_scale, &args.sampling.guidance_scale);
    set_option(&mut request.image_guidance_scale, &args.job.image_guidance_scale);
    set_option(&mut request.strength, &args.job.strength);
    set_option(&mut request.mask_blur, &args.job.mask_blur);
    set_option(&mut request.only_masked, &args.job.only_masked);
    set(&mut request.masked_content, &args.job.masked_content);
    if let Some(no_paste) = args.job.no_paste {
        request.paste = !no_paste;
        if no_paste {
            request.mask_blur = args.job.mask_blur;
        }
    }
    set(&mut request.guidance_rescale, &args.guidance_rescale);
    set(&mut request.seed, &args.seed.map(|seed| number(seed, "seed")));
    set(&mut request.caching, &args.cache);
    request.count = args.count;
    if let Some(name) = &args.sampling.scheduler {
        let named = |name: &str| schedulers::find(name).ok().map(|named| named.name());
        if request.scheduler.as_deref().and_then(named) != named(name) {
            // The recipe's options belong to another scheduler.
            request.scheduler_options.clear();
        }
        request.scheduler = Some(name.clone());
    }
    for (key, value) in &args.scheduler_options {
        request.scheduler_options.retain(|(other, _)| other != key);
        request.scheduler_options.push((key.clone(), value.clone()));
    }
    let seed = args.variation_seed.map(|seed| number(seed, "variation seed"));
    let seed = seed.or(request.variation.map(|variation| variation.seed));
    let strength = args.variation_strength.or(request.variation.map(|variation| variation.strength));
    if seed.is_some() && strength.is_none() {
        let message = "--variation-seed: the recipe has no variation; give --variation-strength too";
        return Err(UsageError(message.to_owned()).into());
    }
    request.variation = strength.map(|strength| Variation { seed: seed.unwrap_or(VARIATION_SEED), strength });
    Ok(())
}
