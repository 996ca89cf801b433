//! A run under way: what is finished is on disk as soon as it is, and what is not can be resumed.

use std::{
    ffi::OsString,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use sdq::add_ons::{AddOns, previewer};
use sdq_engine::{Checkpoint, Error, Event, Generated, Picture, Pipeline, Tensor, pipeline::Settings};
use sdq_formats::{
    dtype::DType,
    picture::{self, PictureFormat},
    safetensors,
    tensor::TensorView,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{UsageError, args::RunArgs, interrupt, preview::Previews, progress::Progress, recipe, terminal};

/// Name of the tensor in a `--save-latents` file.
const LATENTS: &str = "latents";

/// The note beside a saved run that holds [`Files`].
pub(crate) const FILES: &str = "sdq.files";

/// The files of a run, by absolute paths: a run may be resumed from another folder.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Files {
    /// None for the built-in model.
    pub(crate) model: Option<PathBuf>,
    pub(crate) output: PathBuf,
    pub(crate) save_latents: Option<PathBuf>,
    pub(crate) init_image: Option<PathBuf>,
    pub(crate) mask: Option<PathBuf>,
    #[serde(default)]
    pub(crate) add_ons: AddOns,
}

impl Files {
    /// Where the run is saved.
    pub(crate) fn saved_run(&self) -> PathBuf {
        let mut name = self.output.file_name().map_or_else(OsString::new, ToOwned::to_owned);
        name.push(".sdq-run");
        self.output.with_file_name(name)
    }

    /// Fails before the work rather than after it.
    pub(crate) fn check(&self, count: usize) -> anyhow::Result<()> {
        for path in self.pictures(count)?.iter().chain(&self.save_latents) {
            check_writable(path)?;
        }
        Ok(())
    }

    /// One path for each picture: the given one, or numbered ones.
    fn pictures(&self, count: usize) -> anyhow::Result<Vec<PathBuf>> {
        let output = &self.output;
        if PictureFormat::of_path(output).is_none() {
            let formats = ".png, .jpg or .webp, the formats that sdq writes";
            return Err(
                UsageError(format!("--output: `{}` does not end in {formats}", output.display())).into()
            );
        }
        if count == 1 {
            return Ok(vec![output.clone()]);
        }
        let stem = output.file_stem().unwrap_or_default().to_string_lossy();
        let extension = output.extension().unwrap_or_default().to_string_lossy();
        let name = |number: usize| output.with_file_name(format!("{stem}-{number}.{extension}"));
        Ok((1..=count).map(name).collect())
    }
}

/// Fails before the work rather than after it.
pub(crate) fn check_writable(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() {
        bail!("cannot write `{}`: it is a folder", path.display());
    }
    sdq_formats::atomic::AtomicFile::create(path)
        .with_context(|| format!("cannot write `{}`", path.display()))
        .map(drop)
}

/// Draws, and writes everything that `files` and `args` name. `draw` is the engine's part, told whom to tell; of its
/// steps `steps_done` are behind it.
pub(crate) fn run(
    pipeline: &Pipeline,
    settings: &Settings,
    files: &Files,
    args: &RunArgs,
    steps_done: usize,
    draw: impl FnOnce(&mut dyn FnMut(Event<'_>) -> ControlFlow<()>) -> Result<Generated, Error>,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut run = Run {
        settings,
        pipeline,
        files,
        outputs: files.pictures(settings.request.count)?,
        notes: serde_json::to_string(files)?,
        progress: Progress::new("step", (settings.evaluations * settings.request.count) as u64),
        steps_done,
        previews: args.preview_every.map(|every| (every.get(), Previews::new())),
        previewer: terminal::watched(|watch| {
            previewer(pipeline, &args.preview_vae, args.device.threads, watch)
        })?,
        save_every: Duration::from_secs(args.save_every),
        last_saved: Instant::now(),
        latents: Vec::new(),
        written: Vec::new(),
        failure: None,
    };
    run.progress.set(0, "reading the prompt");
    let generated = draw(&mut |event| run.observe(event));
    run.progress.finish();
    let saved_run = files.saved_run();
    if generated.is_err() && saved_run.exists() {
        note!("to finish this run: sdq resume \"{}\"", saved_run.display());
    }
    if let Some(failure) = run.failure {
        return Err(failure);
    }
    generated?;
    if let Some((_, previews)) = &run.previews {
        previews.finish();
    }
    let _ = fs::remove_file(saved_run);
    report(files, args, &run.written, started);
    Ok(())
}

struct Run<'a> {
    settings: &'a Settings,
    pipeline: &'a Pipeline,
    files: &'a Files,
    /// A path for each picture.
    outputs: Vec<PathBuf>,
    /// `files`, as they are kept beside the saved run.
    notes: String,
    progress: Progress,
    /// Of all pictures.
    steps_done: usize,
    /// After how many steps one is shown, and how.
    previews: Option<(usize, Previews)>,
    /// What decodes previews, where that is not the linear map.
    previewer: Option<Pipeline>,
    save_every: Duration,
    last_saved: Instant,
    latents: Vec<f32>,
    written: Vec<Value>,
    failure: Option<anyhow::Error>,
}

impl Run<'_> {
    fn observe(&mut self, event: Event<'_>) -> ControlFlow<()> {
        let handled = match event {
            Event::Encoded => Ok(()),
            Event::Step { image, step, preview, .. } => {
                self.steps_done += 1;
                self.progress.set(self.steps_done as u64, "drawing");
                match &mut self.previews {
                    Some((every, previews)) if (step + 1) % *every == 0 => {
                        let picture = match &self.previewer {
                            Some(previewer) => {
                                previewer.decode_latents(preview.latents()).map(|mut all| all.remove(0))
                            }
                            None => preview.picture(),
                        };
                        let shown = picture.map_err(Into::into);
                        shown
                            .and_then(|picture| previews.show(&picture, &self.outputs[image], &self.progress))
                    }
                    _ => Ok(()),
                }
            }
            Event::Saveable(checkpoint) => self.save(checkpoint),
            Event::Denoised { image, latents } => self.denoised(image, latents),
            Event::Decoded { image, picture } => self.decoded(image, picture),
        };
        match handled {
            // Between a step and its saving there is nothing to stop for.
            Ok(()) if matches!(event, Event::Step { .. }) => ControlFlow::Continue(()),
            Ok(()) => interrupt::check(),
            Err(failure) => {
                self.failure = Some(failure);
                ControlFlow::Break(())
            }
        }
    }

    /// Saves the run when it is due, when it is about to be stopped, and before decoding starts.
    fn save(&mut self, checkpoint: &Checkpoint<'_>) -> anyhow::Result<()> {
        let stopping = interrupt::check().is_break();
        if !stopping && !checkpoint.is_denoised() && self.last_saved.elapsed() < self.save_every {
            return Ok(());
        }
        let path = self.files.saved_run();
        interrupt::while_writing(|| checkpoint.save(&path, &[(FILES, &self.notes)]))?;
        self.last_saved = Instant::now();
        Ok(())
    }

    /// Finished latents are on disk before decoding starts.
    fn denoised(&mut self, image: usize, latents: &Tensor) -> anyhow::Result<()> {
        let Some(path) = &self.files.save_latents else { return Ok(()) };
        self.latents.extend_from_slice(latents.values());
        if image + 1 < self.settings.request.count {
            return Ok(());
        }
        let shape = [&[self.settings.request.count], &latents.shape()[1..]].concat();
        let bytes: Vec<u8> = self.latents.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = TensorView { name: LATENTS.to_owned(), dtype: DType::F32, shape, bytes: &bytes };
        interrupt::while_writing(|| safetensors::write(path, &[tensor], &[]))?;
        Ok(())
    }

    fn decoded(&mut self, image: usize, picture: &Picture) -> anyhow::Result<()> {
        let path = &self.outputs[image];
        let recipe = recipe::of(self.settings.request_of_image(image), self.pipeline, self.files);
        let texts = recipe.texts();
        let texts = texts.each_ref().map(|(key, text)| (*key, text.as_str()));
        let Picture { width, height, rgb } = picture;
        interrupt::while_writing(|| picture::write(path, *width, *height, rgb, &texts))?;
        self.written.push(json!({ "file": path.display().to_string(), "recipe": recipe.json() }));
        Ok(())
    }
}

fn report(files: &Files, args: &RunArgs, written: &[Value], started: Instant) {
    let seconds = started.elapsed().as_secs_f64();
    if args.json {
        let latents = files.save_latents.as_ref().map(|path| path.display().to_string());
        let report = json!({ "pictures": written, "latents": latents, "seconds": seconds });
        say!("{}", sdq::text::printable_json(&format!("{report:#}")));
    } else {
        for picture in written {
            say!("{}", picture["file"].as_str().unwrap_or_default());
        }
        note!("drawn in {seconds:.1} s");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(output: &str) -> Files {
        let output = PathBuf::from(output);
        Files {
            model: None,
            output,
            save_latents: None,
            init_image: None,
            mask: None,
            add_ons: AddOns::default(),
        }
    }

    #[test]
    fn several_pictures_are_numbered_before_the_extension() {
        let paths = files("out/a.b.jpg").pictures(2).unwrap();
        assert_eq!(paths, [Path::new("out/a.b-1.jpg"), Path::new("out/a.b-2.jpg")]);
        assert_eq!(files("x.PNG").pictures(1).unwrap(), [Path::new("x.PNG")]);
        assert!(files("x.gif").pictures(1).is_err());
        assert!(files("x").pictures(1).is_err());
    }

    #[test]
    fn a_run_is_saved_beside_its_output() {
        assert_eq!(files("out/a.png").saved_run(), Path::new("out/a.png.sdq-run"));
    }
}
