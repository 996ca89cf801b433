//! `sdq resume`: a run that was interrupted → the pictures that it would have drawn.

use anyhow::Context as _;
use sdq::model;
use sdq_engine::SavedRun;

use crate::{
    args::ResumeArgs,
    interrupt,
    run::{self, FILES, Files},
    terminal,
};

pub(crate) fn run(args: &ResumeArgs) -> anyhow::Result<()> {
    interrupt::listen();
    let saved = SavedRun::open(&args.file)?;
    let shown = args.file.display();
    let files = saved.note(FILES).with_context(|| format!("{shown}: was not saved by `sdq generate`"))?;
    let mut files: Files =
        serde_json::from_str(files).with_context(|| format!("{shown}: its list of files is damaged"))?;
    if let Some(model) = &args.model {
        files.model = Some(model.clone());
    }
    // Beside the run, where its output was to be, also after the folder has moved.
    let output =
        args.output.clone().or_else(|| files.output.file_name().map(|name| args.file.with_file_name(name)));
    files.output = output.with_context(|| format!("{shown}: names no output; try --output"))?;

    let pipeline = model::open(files.model.as_deref(), &args.run.options()?)?;
    let threads = args.run.device.threads;
    let pipeline = terminal::watched(|watch| files.add_ons.apply(pipeline, threads, watch))?;
    let settings = pipeline.settings(saved.request())?;
    files.check(settings.request.count)?;
    let done = saved.steps_done(&settings)?;
    run::run(&pipeline, &settings, &files, &args.run, done, |observer| pipeline.resume(&saved, observer))?;
    // With --output the run went on beside the new one.
    let _ = std::fs::remove_file(&args.file);
    Ok(())
}
