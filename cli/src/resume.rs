//! `sdq resume`: finishes a run that was interrupted, with the same pictures as without the interruption.

use std::time::Instant;

use sdq::{
    model,
    run::{self, SideFile, Unfinished},
};

use crate::{args::ResumeArgs, interrupt, terminal};

pub(crate) fn run(args: &ResumeArgs) -> anyhow::Result<()> {
    interrupt::listen();
    let mut unfinished = Unfinished::open(&args.file)?;
    if let (Some(path), None) = (&unfinished.latents_were_for, &args.save_latents) {
        let path = path.display();
        note!(
            "note: the interrupted run would have written its latents to `{path}`; give --save-latents to write them"
        );
    }
    let files = &mut unfinished.files;
    if let Some(model) = &args.model {
        files.model = Some(model.clone());
    }
    if let Some(output) = &args.output {
        files.output.clone_from(output);
    }
    files.save_latents.clone_from(&args.save_latents);
    unfinished.check_output()?;
    let files = &unfinished.files;
    let pipeline = model::open(files.model.as_deref(), &args.run.options()?)?;
    let threads = args.run.device.threads;
    let pipeline = terminal::watched(|watch| files.add_ons.apply(pipeline, threads, watch))?;
    // The count in the file is not to be trusted before.
    let count = pipeline.settings(unfinished.saved.request())?.request.count;
    interrupt::while_writing(|| unfinished.check_files(count))?;
    if !args.force {
        run::check_replaced(&files.pictures(count)?, files.save_latents.as_deref())?;
    }
    let started = Instant::now();
    let written = crate::run::run(&pipeline, &unfinished.files, count, &args.run, |options, watch| {
        unfinished.resume(&pipeline, options, watch)
    })?;
    crate::run::report(args.save_latents.as_deref(), args.run.json, &written, started);
    // With --output the saved run was next to the new output.
    SideFile::SavedRun.remove(&args.file);
    Ok(())
}
