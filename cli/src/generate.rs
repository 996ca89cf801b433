//! `sdq generate`: prompt → picture files.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sdq::{
    add_ons::AddOns,
    model,
    request::PromptSyntax,
    run::{self, RunFiles, SideFile},
};

use crate::{
    args::{GenerateArgs, SeedArg},
    interrupt,
    job::{self, Asked},
    terminal,
};

/// The output file if no flag names one and it does not exist.
const DEFAULT_OUTPUT: &str = "sdq.png";

pub(crate) fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    // From the start, so that a run that is interrupted before its first step can be resumed too.
    interrupt::listen();
    let pipeline = model::open(args.model.as_deref(), &args.run.options()?)?;
    let Asked { mut request, add_ons, init_image, mask, source } = job::read(args)?;
    if args.seed.is_none() && source.is_none() {
        request.seed = job::number(SeedArg::Random, "seed");
    }
    let threads = args.run.device.threads;
    let pipeline = terminal::watched(|watch| add_ons.apply(pipeline, threads, watch))?;
    // A word of the recipe may be missing in a prompt from a flag.
    let given = AddOns { embeddings: args.add_ons.embeddings.clone(), ..AddOns::default() };
    given.check_used(&pipeline, &[&request.prompt, &request.negative_prompt], request.reading.syntax)?;
    if let Some(source) = &source {
        terminal::watched(|watch| source.note_differences(&pipeline, watch));
    }
    let settings = pipeline.settings(&request)?;
    terminal::watched(|watch| run::note_without_effect(&settings, watch));
    let count = settings.request.count;
    let output = match &args.output {
        Some(output) => output.clone(),
        None => run::free_output(Path::new(DEFAULT_OUTPUT), count)?,
    };
    let files = RunFiles {
        model: absolute(args.model.as_deref())?,
        output,
        save_latents: args.save_latents.clone(),
        init_image,
        mask,
        add_ons: add_ons.absolute()?,
    };
    let mut also_read: Vec<(&str, &Path)> =
        args.run.preview_vae.iter().map(|path| ("the previews' VAE", &**path)).collect();
    also_read.extend(args.from.as_deref().map(|path| ("the picture with the recipe", path)));
    // A second Ctrl-C waits for the files that try whether something can be written.
    interrupt::while_writing(|| files.check(count, &also_read))?;
    if !args.force {
        run::check_replaced(&files.pictures(count)?)?;
    }
    for prompt in [&request.prompt, &request.negative_prompt] {
        let surplus = pipeline.surplus_tokens(prompt)?;
        if request.reading.syntax == PromptSyntax::Plain && surplus > 0 {
            note!("note: the prompt is too long, and the model does not read the last {surplus} tokens");
        }
    }
    let saved_run = files.saved_run();
    if SideFile::SavedRun.is_at(&saved_run) {
        let path = saved_run.display();
        note!("note: this run replaces the unfinished run `{path}`, which `sdq resume` would finish");
    }
    crate::run::run(&pipeline, &files, count, &args.run, |options, watch| {
        run::generate(&pipeline, &request, &files, options, watch)
    })
}

fn absolute(path: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    path.map(std::path::absolute).transpose().context("the current folder does not exist")
}
