//! A run with files: each picture is written as soon as it is drawn, and an unfinished run can be resumed.

mod files;
mod last_state;
mod naming;
pub(crate) mod outputs;
mod rescue;
mod start;

use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sdq_engine::{
    Checkpoint, Error as EngineError, Event as EngineEvent, Preview, SavedRun, Tensor,
    pipeline::{Caching, Job, Settings},
};
use sdq_formats::{
    dtype::DType,
    picture::{self, PictureFormat},
    safetensors,
    tensor::TensorView,
};

use crate::{Error, Event, Generated, Note, Picture, Pipeline, Request, Task, Watch, recipe::Recipe};

pub use files::{RunFiles, check_writable};
pub use last_state::LastState;
pub(crate) use naming::check_kind;
pub use naming::{check_replaced, free_output, numbered};
pub use outputs::SideFile;
pub use start::read_start;

/// Name of the tensor in a file of latents.
const LATENTS: &str = "latents";

/// Longest list of files that is read, in bytes.
const MAX_FILES_LEN: usize = 1 << 20;

/// A step that takes so long may be broken off; the state before it is at hand then.
const SLOW_STEP: Duration = Duration::from_millis(300);

/// Most numbered pictures that are looked for before the count is known to be one that can be drawn.
const MAX_FREE: usize = 10_000;

/// The extension of saved runs.
const SAVED_RUN: &str = "sdq-run";

/// The note of a saved run that contains its [`RunFiles`].
const FILES: &str = "sdq.files";

/// Options of a run that do not affect the picture.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Minimum time between savings of the run.
    pub save_every: Duration,
    /// Number of steps between events with a preview; 0 for never.
    pub preview_every: usize,
    /// The pipeline that decodes previews, see [`previewer`](crate::add_ons::previewer); `None` for one pixel
    /// per latent pixel.
    pub previewer: Option<Pipeline>,
}

/// Receives the engine's events, and stops the run by returning [`ControlFlow::Break`].
pub(crate) type Observer<'o> = &'o mut dyn FnMut(EngineEvent<'_>) -> ControlFlow<()>;

/// A picture that was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// Its file.
    pub path: PathBuf,
    /// Its recipe, which is also in the file.
    pub recipe: Recipe,
}

/// Draws the pictures of `request`, and writes all `files`.
///
/// # Errors
/// As [`Pipeline::generate`], and when a file cannot be written. If the run was saved, `files.saved_run()` is
/// kept.
pub fn generate(
    pipeline: &Pipeline,
    request: &Request,
    files: &RunFiles,
    options: &RunOptions,
    watch: &mut Watch<'_>,
) -> Result<Vec<Written>, Error> {
    let settings = pipeline.settings(request)?;
    write(pipeline, &settings, files, options, watch, |observer| pipeline.generate(request, observer))
}

/// Writes the `files` of a run with `settings` that `draw`, the engine's part, draws.
pub(crate) fn write(
    pipeline: &Pipeline,
    settings: &Settings,
    files: &RunFiles,
    options: &RunOptions,
    watch: &mut Watch<'_>,
    draw: impl FnOnce(Observer<'_>) -> Result<Generated, EngineError>,
) -> Result<Vec<Written>, Error> {
    Writer::new(pipeline, settings, files, options, 0, watch)?.run(draw)
}

/// Reports to `watch` which parts of a request that `pipeline` has settled have no effect, and if a scheduler takes more
/// evaluations than steps.
pub fn note_without_effect(pipeline: &Pipeline, settings: &Settings, watch: &mut Watch<'_>) {
    let prompts = [&*settings.request.prompt, &*settings.request.negative_prompt];
    pipeline.unknown_embeddings(&prompts).into_iter().for_each(|name| watch.note(Note::NoSuchWord(name)));
    let Settings { steps, evaluations, first_step, .. } = *settings;
    if first_step == 0 && evaluations > steps {
        watch.note(Note::MoreEvaluations { scheduler: settings.scheduler.clone(), steps, evaluations });
    }
    if settings.request.image_guidance_scale.is_some() && settings.job != Job::Editing {
        watch.note(Note::NotForEditing);
    }
    if settings.is_guided() {
        return;
    }
    let editing = settings.job == Job::Editing;
    let parts = [
        (!settings.request.negative_prompt.trim().is_empty()).then_some("the negative prompt"),
        (settings.request.guidance_rescale > 0.0).then_some("the guidance rescale"),
        matches!(settings.request.caching, Caching::Guidance { .. }).then_some("caching of guidance"),
        (editing && settings.request.image_guidance_scale.is_some()).then_some("the image guidance scale"),
    ];
    parts.into_iter().flatten().for_each(|part| watch.note(Note::WithoutGuidance(part)));
}

/// A saved run with its files.
///
/// Nothing is written where the file says: anyone may have made it. The output is beside it, and everything else is the
/// caller's to set.
#[derive(Debug)]
pub struct Unfinished {
    /// The run.
    pub saved: SavedRun,
    /// Its files; [`RunFiles::output`] has no file name where the saved run has none for it.
    pub files: RunFiles,
    /// Where the run that was interrupted would have written its latents. [`RunFiles::save_latents`] is `None`.
    pub latents_were_for: Option<PathBuf>,
    path: PathBuf,
}

impl Unfinished {
    /// Reads the saved run at `path`. The output is to be beside it, under the name that the run was saved beside: `a.png`
    /// for `a.png.sdq-run`. Where it has another name now, that of the file's list is taken, if nothing is there.
    ///
    /// # Errors
    /// When it is not a run that [`generate`] saved.
    pub fn open(path: &Path) -> Result<Unfinished, Error> {
        let problem = |problem: String| EngineError::SavedRun { path: path.to_path_buf(), problem };
        let saved = SavedRun::open(path)?;
        let files =
            saved.note(FILES).ok_or_else(|| problem("the run was not saved by `sdq generate`".to_owned()))?;
        if files.len() > MAX_FILES_LEN {
            return Err(problem(format!(
                "the list of files has {} bytes, expected at most {MAX_FILES_LEN}",
                files.len()
            ))
            .into());
        }
        let mut files: RunFiles = serde_json::from_str(files)
            .map_err(|error| problem(format!("the list of files is damaged: {error}")))?;
        files.output = output_beside(path, &files.output, saved.request().count);
        let latents_were_for = files.save_latents.take();
        Ok(Unfinished { saved, files, latents_were_for, path: path.to_path_buf() })
    }

    /// Checks that it is known where to write.
    ///
    /// # Errors
    /// [`Error::Option`] when the caller has to say it.
    pub fn check_output(&self) -> Result<(), Error> {
        if self.files.output.as_os_str().is_empty() {
            let problem = format!(
                "`{}` does not end in .png.sdq-run, .jpg.sdq-run or .webp.sdq-run; name the output file",
                self.path.display()
            );
            return Err(Error::Option { option: "output", problem });
        }
        Ok(())
    }

    /// Checks that the files of a run of `count` pictures can be written, and that none is one that it reads.
    ///
    /// # Errors
    /// As [`RunFiles::check`].
    pub fn check_files(&self, count: usize) -> Result<(), Error> {
        self.files.check(count, &[("the saved run", &self.path)])
    }

    /// Finishes the run with `pipeline`, and writes all `files`.
    ///
    /// # Errors
    /// As [`generate`], and when it is a run of another model.
    pub fn resume(
        &self,
        pipeline: &Pipeline,
        options: &RunOptions,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Written>, Error> {
        let settings = pipeline.settings(self.saved.request())?;
        self.write(pipeline, &settings, options, watch, |observer| pipeline.resume(&self.saved, observer))
    }

    /// Writes all `files` while `draw`, the engine's part, finishes the run, which has these `settings`.
    pub(crate) fn write(
        &self,
        pipeline: &Pipeline,
        settings: &Settings,
        options: &RunOptions,
        watch: &mut Watch<'_>,
        draw: impl FnOnce(Observer<'_>) -> Result<Generated, EngineError>,
    ) -> Result<Vec<Written>, Error> {
        self.check_output()?;
        watch.cancel().while_writing(|| self.check_files(settings.request.count))?;
        let steps_done = self.saved.steps_done(settings)?;
        Writer::new(pipeline, settings, &self.files, options, steps_done, watch)?.run(draw)
    }
}

/// The output of the run of `count` pictures that is saved at `saved_run` and names `listed` in its list of files; empty if
/// there is none that can be taken without replacing a file.
fn output_beside(saved_run: &Path, listed: &Path, count: usize) -> PathBuf {
    if saved_run.extension().is_some_and(|extension| extension == SAVED_RUN) {
        let output = saved_run.with_extension("");
        if PictureFormat::of_path(&output).is_some() {
            return output;
        }
    }
    let Some(name) = listed.file_name() else { return PathBuf::new() };
    let output = saved_run.with_file_name(name);
    let is_free = |path: &Path| fs::symlink_metadata(path).is_err();
    let is_free =
        is_free(&output) && (1..=count).take(MAX_FREE).all(|number| is_free(&numbered(&output, number)));
    if is_free { output } else { PathBuf::new() }
}

/// Writes files during a run.
struct Writer<'a, 'w> {
    pipeline: &'a Pipeline,
    settings: &'a Settings,
    files: &'a RunFiles,
    options: &'a RunOptions,
    watch: &'a mut Watch<'w>,
    /// A path for each picture.
    outputs: Vec<PathBuf>,
    /// `files`, in the form in which the saved run contains them.
    notes: String,
    /// Number of finished steps of all pictures.
    steps_done: usize,
    steps: usize,
    last_saved: Instant,
    /// When the last step ended.
    last_step: Instant,
    /// Latents of the finished pictures.
    latents: Vec<f32>,
    written: Vec<Written>,
    failure: Option<Error>,
    /// Whether the run was saved.
    is_saved: bool,
    /// Whether the user has been told that the run cannot be saved, and that there are no previews.
    told: [bool; 2],
}

impl<'a, 'w> Writer<'a, 'w> {
    fn new(
        pipeline: &'a Pipeline,
        settings: &'a Settings,
        files: &'a RunFiles,
        options: &'a RunOptions,
        steps_done: usize,
        watch: &'a mut Watch<'w>,
    ) -> Result<Writer<'a, 'w>, Error> {
        let outputs = files.pictures(settings.request.count)?;
        let notes = serde_json::to_string(files)
            .map_err(|error| Error::Option { option: "output", problem: error.to_string() })?;
        Ok(Writer {
            pipeline,
            settings,
            files,
            options,
            watch,
            outputs,
            notes,
            steps_done,
            steps: pipeline.run_plan(&settings.request)?.steps(),
            last_saved: Instant::now(),
            last_step: Instant::now(),
            latents: Vec::new(),
            written: Vec::new(),
            failure: None,
            is_saved: false,
            told: [false; 2],
        })
    }

    /// Runs `draw`, the engine's part, with the observer that writes.
    fn run(
        mut self,
        draw: impl FnOnce(Observer<'_>) -> Result<Generated, EngineError>,
    ) -> Result<Vec<Written>, Error> {
        self.progress(Task::ReadingPrompt, 0);
        let saved_run = (!self.files.is_temporary).then(|| self.files.saved_run());
        self.watch.cancel().last_state().begin(saved_run);
        let generated = draw(&mut |event| self.observe(event));
        self.watch.cancel().last_state().end();
        self.watch.tell(Event::TaskEnded);
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        generated?;
        SideFile::SavedRun.remove(&self.files.saved_run());
        Ok(self.written)
    }

    fn progress(&mut self, task: Task, done: usize) {
        self.watch.progress(task, done as u64, self.steps as u64);
    }

    fn observe(&mut self, event: EngineEvent<'_>) -> ControlFlow<()> {
        let handled = match event {
            EngineEvent::Encoded => {
                self.watch.tell(Event::Encoded);
                // There is something to resume from the first step on.
                return ControlFlow::Continue(());
            }
            EngineEvent::Step { image, step, steps, preview, .. } => {
                self.steps_done += 1;
                self.progress(Task::Drawing, self.steps_done);
                let every = self.options.preview_every;
                let preview = (every > 0 && (step + 1) % every == 0).then(|| self.preview(preview)).flatten();
                self.watch.tell(Event::Step { image, step, steps, preview });
                // The run must not stop between a step and its saving.
                return ControlFlow::Continue(());
            }
            EngineEvent::Saveable(checkpoint) => {
                if !self.files.is_temporary {
                    self.save(checkpoint);
                }
                Ok(())
            }
            EngineEvent::Denoised { image, latents } => self.denoised(image, latents),
            EngineEvent::Decoded { image, picture } => self.decoded(image, picture),
        };
        match handled {
            Ok(()) => self.watch.cancel().check(),
            Err(failure) => {
                self.failure = Some(failure);
                ControlFlow::Break(())
            }
        }
    }

    /// The preview of a picture. A failure does not stop the run.
    fn preview(&mut self, preview: &Preview<'_>) -> Option<Picture> {
        let picture = match &self.options.previewer {
            Some(previewer) => previewer.decode_latents(preview.latents()).map(|mut all| all.pop()),
            None => preview.picture().map(Some),
        };
        picture.unwrap_or_else(|error| {
            if !std::mem::replace(&mut self.told[1], true) {
                self.watch.note(Note::NoPreview(error.to_string()));
            }
            None
        })
    }

    /// Saves the run when it is due, when it is about to be stopped, and before decoding starts. A failure
    /// does not stop the run.
    fn save(&mut self, checkpoint: &Checkpoint<'_>) {
        let stopping = self.watch.cancel().is_cancelled();
        let took = std::mem::replace(&mut self.last_step, Instant::now()).elapsed();
        if !stopping && !checkpoint.is_denoised() && self.last_saved.elapsed() < self.options.save_every {
            // Nobody waits for the end of a step that takes minutes.
            if took >= SLOW_STEP {
                let state = checkpoint.to_bytes(&[(FILES, &self.notes)]).ok();
                self.watch.cancel().last_state().set(state);
            }
            return;
        }
        let path = self.files.saved_run();
        let save = || checkpoint.save(&path, &[(FILES, &self.notes)]).map_err(Error::from);
        let saved = match SideFile::SavedRun.check(&path) {
            Ok(()) => self.watch.cancel().while_writing(save),
            Err(error) => Err(Error::Write { path: path.clone(), error }),
        };
        self.last_saved = Instant::now();
        self.watch.cancel().last_state().set(None);
        match saved {
            Ok(()) => self.is_saved = true,
            Err(error) if !std::mem::replace(&mut self.told[0], true) => {
                let earlier = if self.is_saved { "; an earlier step of it is saved" } else { "" };
                self.watch.note(Note::NotSaved(format!("{error}{earlier}")));
            }
            Err(_) => {}
        }
    }

    /// Writes finished latents to the disk before decoding starts.
    fn denoised(&mut self, image: usize, latents: &Tensor) -> Result<(), Error> {
        let Some(path) = &self.files.save_latents else { return Ok(()) };
        self.latents.extend_from_slice(latents.values());
        if image + 1 < self.settings.request.count {
            return Ok(());
        }
        let shape = [&[self.settings.request.count], &latents.shape()[1..]].concat();
        let bytes: Vec<u8> = self.latents.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = TensorView { name: LATENTS.to_owned(), dtype: DType::F32, shape, bytes: &bytes };
        self.write(path, &|| Ok(safetensors::write(path, std::slice::from_ref(&tensor), &[])?))
    }

    fn decoded(&mut self, image: usize, picture: &Picture) -> Result<(), Error> {
        let path = self.outputs[image].clone();
        let recipe = self.files.recipe(self.settings.request_of_image(image), self.pipeline);
        let texts = recipe.texts();
        let texts = texts.each_ref().map(|(key, text)| (*key, text.as_str()));
        self.write(&path, &|| Ok(picture::write(&path, picture, &texts)?))?;
        self.written.push(Written { path, recipe });
        self.watch.tell(Event::Drawn { image, picture: picture.clone() });
        Ok(())
    }

    /// Writes the file at `path`, whatever happened to the disk during the run.
    fn write(&mut self, path: &Path, write: &dyn Fn() -> Result<(), Error>) -> Result<(), Error> {
        let saved_run = self.files.saved_run();
        let made = self.watch.cancel().while_writing(|| rescue::write(path, &saved_run, write))?;
        if let Some(path) = made {
            self.watch.note(Note::FolderMade { path });
        }
        Ok(())
    }
}
