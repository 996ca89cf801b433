//! `sdq resume`: finishes a run that was interrupted, with the same pictures as without the interruption.

use sdq::{
    model,
    run::{self, Unfinished},
};

use crate::{args::ResumeArgs, interrupt, terminal};

pub(crate) fn run(args: &ResumeArgs) -> anyhow::Result<()> {
    interrupt::listen();
    let mut unfinished = Unfinished::open(&args.file)?;
    let files = &mut unfinished.files;
    if let Some(model) = &args.model {
        files.model = Some(model.clone());
    }
    if let Some(output) = &args.output {
        files.output.clone_from(output);
    }
    let count = unfinished.saved.request().count;
    if !args.force {
        run::check_replaced(&files.pictures(count)?)?;
    }
    let pipeline = model::open(files.model.as_deref(), &args.run.options()?)?;
    let threads = args.run.device.threads;
    let pipeline = terminal::watched(|watch| files.add_ons.apply(pipeline, threads, watch))?;
    crate::run::run(&pipeline, &unfinished.files, count, &args.run, |options, watch| {
        unfinished.resume(&pipeline, options, watch)
    })?;
    // With --output the saved run was next to the new output.
    let _ = std::fs::remove_file(&args.file);
    Ok(())
}
