//! `sdq generate`: prompt → pictures on disk.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use sdq::model;

use crate::{
    args::GenerateArgs,
    interrupt, job,
    run::{self, Files},
    terminal,
};

pub(crate) fn run(args: &GenerateArgs) -> anyhow::Result<()> {
    // From the start: a run that is interrupted before its first step can be resumed too.
    interrupt::listen();
    let pipeline = model::open(args.model.as_deref(), &args.run.options()?)?;
    let (request, add_ons) = job::request(args)?;
    let threads = args.run.device.threads;
    let pipeline = terminal::watched(|watch| add_ons.apply(pipeline, threads, watch))?;
    add_ons.check_used(&[&request.prompt, &request.negative_prompt])?;
    let settings = pipeline.settings(&request)?;
    let files = Files {
        model: absolute(args.model.as_deref())?,
        output: args.output.clone(),
        save_latents: args.save_latents.clone(),
        init_image: args.job.init_image.clone(),
        mask: args.job.mask.clone(),
        add_ons: add_ons.absolute()?,
    };
    files.check(settings.request.count)?;
    for prompt in [&request.prompt, &request.negative_prompt] {
        let surplus = pipeline.surplus_tokens(prompt)?;
        if args.plain_prompt && surplus > 0 {
            note!("note: the prompt is {surplus} tokens too long for the model, which reads only its start");
        }
    }
    let saved_run = files.saved_run();
    if saved_run.exists() {
        let path = saved_run.display();
        note!("note: `{path}` is an unfinished run, which this one replaces; `sdq resume` would finish it");
    }
    run::run(&pipeline, &settings, &files, &args.run, 0, |observer| pipeline.generate(&request, observer))
}

fn absolute(path: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    path.map(std::path::absolute).transpose().context("the current folder is gone")
}
