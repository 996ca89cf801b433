//! A run in the terminal: its progress, its previews, and the files that it wrote.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use sdq::{
    Error, ErrorKind, Pipeline, Watch,
    add_ons::previewer,
    run::{RunFiles, RunOptions, SideFile, Written},
};
use serde_json::{Value, json};

use crate::{args::RunArgs, interrupt::NOTHING_SAVED, output, preview::Previews, terminal};

/// Draws `count` pictures. `draw` is the library's part.
pub(crate) fn run(
    pipeline: &Pipeline,
    files: &RunFiles,
    count: usize,
    args: &RunArgs,
    draw: impl FnOnce(&RunOptions, &mut Watch<'_>) -> Result<Vec<Written>, Error>,
) -> anyhow::Result<Vec<Written>> {
    let previewer =
        terminal::watched(|watch| previewer(pipeline, &args.preview_vae, args.device.threads, watch))?;
    let options = RunOptions {
        save_every: Duration::from_secs(args.save_every),
        preview_every: args.preview_every.map_or(0, |every| every.get()),
        previewer,
    };
    let mut previews = Previews::new(files.pictures(count)?);
    let drawn = terminal::drawn(&mut previews, |watch| draw(&options, watch));
    let saved_run = files.saved_run();
    let may_go_on = drawn.as_ref().is_err_and(|error| error.kind() != ErrorKind::SavedRunInvalid);
    if may_go_on && SideFile::SavedRun.is_at(&saved_run) {
        note!("to finish this run: sdq resume \"{}\"", saved_run.display());
    } else if drawn.as_ref().is_err_and(|error| error.kind() == ErrorKind::Cancelled) {
        note!("{NOTHING_SAVED}");
    }
    let written = drawn?;
    previews.finish();
    Ok(written)
}

/// Reports the files of runs that began at `started`: as JSON, or one per line.
pub(crate) fn report(latents: Option<&Path>, as_json: bool, written: &[Written], started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    if as_json {
        let picture = |written: &Written| json!({ "file": written.path.display().to_string(), "recipe": written.recipe.json() });
        let pictures: Vec<Value> = written.iter().map(picture).collect();
        let latents = latents.map(|path| path.display().to_string());
        let report = json!({ "pictures": pictures, "latents": latents, "seconds": seconds });
        output::say_json(&report);
    } else {
        for Written { path, .. } in written {
            say!("{}", path.display());
        }
        note!("drawn in {seconds:.1} s");
    }
}
