//! What a caller is told while work is done, and how it stops the work.

use std::{
    fmt,
    ops::ControlFlow,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use sdq_engine::Picture;

use crate::text::printable;

/// Most characters of a text from a file that a note shows.
const SHOWN_CHARS: usize = 200;

/// Something that happened. Events are owned, so that they can cross threads.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// `done` of `total` units of `task` are done.
    Progress {
        /// What is being done.
        task: Task,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// The present task has ended, whatever came of it.
    TaskEnded,
    /// The prompt of a run has been read.
    Encoded,
    /// A step of a run is done.
    Step {
        /// Number of the picture in its request, from 0.
        image: usize,
        /// Number of the step, from 0.
        step: usize,
        /// Steps of each picture.
        steps: usize,
        /// The picture as it stands, one pixel for each of the latents, where previews were asked for.
        preview: Option<Picture>,
    },
    /// A picture of a run is there.
    Drawn {
        /// Number of the picture in its request, from 0.
        image: usize,
        /// The picture.
        picture: Picture,
    },
    /// Something that a person may want to know.
    Note(Note),
}

/// A task of known length.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Task {
    /// Converting a component; units are tensors.
    Converting {
        /// The component.
        component: String,
    },
    /// Measuring how much each weight matters; units are weights.
    Measuring,
    /// Drawing to learn what the weights are multiplied with; units are steps.
    Calibrating,
    /// Drawing with two models; units are steps.
    Comparing,
    /// Reading the prompt of a run; units are the run's steps.
    ReadingPrompt,
    /// Drawing the pictures of a run; units are steps.
    Drawing,
}

impl Task {
    /// Its unit: `step`, `tensor` or `weight`.
    pub fn unit(&self) -> &'static str {
        match self {
            Task::Converting { .. } => "tensor",
            Task::Measuring => "weight",
            Task::Calibrating | Task::Comparing | Task::ReadingPrompt | Task::Drawing => "step",
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Task::Converting { component } => component,
            Task::Measuring => "measuring",
            Task::Calibrating => "calibrating",
            Task::Comparing => "comparing",
            Task::ReadingPrompt => "reading the prompt",
            Task::Drawing => "drawing",
        })
    }
}

/// Something that a person may want to know. Displayed as a sentence.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Note {
    /// A LoRA runs beside the model.
    LoraApplied {
        /// Its file.
        path: PathBuf,
        /// Layers that it changes.
        applied: usize,
        /// Layers that it has changes for.
        modules: usize,
        /// How strongly it counts.
        strength: f32,
    },
    /// A LoRA has changes for layers that the model does not have.
    LoraUnmatched {
        /// Its file.
        path: PathBuf,
        /// The first few of them.
        layers: Vec<String>,
        /// Further ones.
        more: usize,
    },
    /// A LoRA's file holds tensors that are not part of a LoRA.
    LoraLeftOut {
        /// Its file.
        path: PathBuf,
        /// The first few of them.
        tensors: Vec<String>,
        /// Further ones.
        more: usize,
    },
    /// A word was added to the vocabulary.
    WordAdded {
        /// The embedding's file.
        path: PathBuf,
        /// The word.
        word: String,
        /// Vectors that it stands for.
        vectors: usize,
    },
    /// Another VAE takes the place of the model's.
    VaeReplaced {
        /// Its file.
        path: PathBuf,
    },
    /// What a published model turned out to be.
    Recognised {
        /// Its file.
        path: PathBuf,
        /// Its family.
        family: &'static str,
        /// Class of its pipeline.
        class_name: String,
    },
    /// What a model predicts, and how that is known.
    Predicts(String),
    /// Tensors that are not converted.
    LeftOut {
        /// Tensors.
        count: usize,
        /// Why.
        why: &'static str,
        /// The first few of them, where their names say something.
        names: Vec<String>,
        /// Further ones.
        more: usize,
    },
    /// A recipe was written by another program, whose noise is not sdq's.
    ForeignRecipe {
        /// The program.
        program: &'static str,
    },
    /// A part of a recipe that sdq has nothing for: its name and its value.
    RecipeUnused(String),
    /// A sentence on a difference between the model and the one that a recipe was drawn with.
    RecipeDiffers(String),
    /// A file that a recipe adds to the model is not there.
    RecipeFileMissing {
        /// Its name.
        name: String,
    },
    /// The unfinished run cannot be saved; it goes on.
    NotSaved(String),
    /// A preview cannot be decoded; the run goes on.
    NoPreview(String),
    /// How near pictures come after some of the moves towards the smallest file.
    Fitting {
        /// Moves taken.
        moves: usize,
        /// Moves there are.
        of: usize,
        /// Median peak signal-to-noise ratio in decibels.
        psnr: f64,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::LoraApplied { path, applied, modules, strength } => {
                write!(f, "{}: applied to {applied} of {modules} layers at {strength}", path.display())
            }
            Note::LoraUnmatched { path, layers, more } => {
                let ellipsis = if *more > 0 { ", …" } else { "" };
                write!(f, "{}: the model has no {}{ellipsis}", path.display(), layers.join(", "))
            }
            Note::LoraLeftOut { path, tensors, more } => {
                let ellipsis = if *more > 0 { ", …" } else { "" };
                let tensors = printable(&tensors.join(", "), SHOWN_CHARS).into_owned();
                write!(f, "{}: left out, for no LoRA has it: {tensors}{ellipsis}", path.display())
            }
            Note::WordAdded { path, word, vectors } => {
                write!(f, "{}: `{word}` stands for {vectors} vectors", path.display())
            }
            Note::VaeReplaced { path } => write!(f, "{}: takes the place of the model's VAE", path.display()),
            Note::Recognised { path, family, class_name } => {
                write!(f, "{}: {family}, {class_name}", path.display())
            }
            Note::Predicts(prediction) => write!(f, "predicts {prediction}"),
            Note::LeftOut { count, why, names, .. } if names.is_empty() => {
                write!(f, "left out: {count} tensors {why}")
            }
            Note::LeftOut { count, why, names, more } => {
                write!(f, "left out: {count} tensors {why}: {}", names.join(", "))?;
                if *more > 0 { write!(f, " and {more} more") } else { Ok(()) }
            }
            Note::ForeignRecipe { program } => write!(
                f,
                "note: {program} drew the picture, with noise of its own: this one will be similar at best"
            ),
            Note::RecipeUnused(unused) => {
                write!(f, "warning: not used of the recipe: {}", printable(unused, SHOWN_CHARS))
            }
            Note::RecipeDiffers(difference) => write!(f, "warning: {}", printable(difference, SHOWN_CHARS)),
            Note::RecipeFileMissing { name } => write!(
                f,
                "warning: the recipe has `{}`, which is neither in --lora-dir nor beside the picture",
                printable(name, SHOWN_CHARS)
            ),
            Note::NotSaved(reason) => {
                write!(f, "warning: the unfinished run cannot be saved, so it could not be resumed: {reason}")
            }
            Note::NoPreview(reason) => write!(f, "warning: no preview: {reason}"),
            Note::Fitting { moves, of, psnr } => {
                write!(f, "{moves} of {of} moves towards the smallest file: {psnr:.1} dB")
            }
        }
    }
}

/// Stops work from another thread. Clones are one token.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    cancelled: AtomicBool,
    /// Held while a file is written.
    writing: Mutex<()>,
}

impl Cancel {
    /// A token that has not been used.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Asks for the work to stop at the next step. Returns whether that had been asked before.
    pub fn cancel(&self) -> bool {
        self.0.cancelled.swap(true, Ordering::SeqCst)
    }

    /// Whether the work is to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Whether to go on.
    pub fn check(&self) -> ControlFlow<()> {
        if self.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Runs `write` while nothing else runs here: what ends the process at once calls this too, and so never cuts a file short.
    pub fn while_writing<T>(&self, write: impl FnOnce() -> T) -> T {
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        write()
    }
}

/// The caller's side of some work: who is told, and what stops it.
pub struct Watch<'a> {
    observer: &'a mut dyn FnMut(Event),
    cancel: Cancel,
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("cancel", &self.cancel).finish_non_exhaustive()
    }
}

impl<'a> Watch<'a> {
    /// Tells `observer`, and stops when `cancel` says so.
    pub fn new(observer: &'a mut dyn FnMut(Event), cancel: &Cancel) -> Watch<'a> {
        Watch { observer, cancel: cancel.clone() }
    }

    /// Tells the observer.
    pub fn tell(&mut self, event: Event) {
        (self.observer)(event);
    }

    /// Tells the observer a note.
    pub fn note(&mut self, note: Note) {
        self.tell(Event::Note(note));
    }

    /// Tells the observer how far a task is.
    pub fn progress(&mut self, task: Task, done: u64, total: u64) {
        self.tell(Event::Progress { task, done, total });
    }

    /// What stops the work.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_sentences() {
        let path = || PathBuf::from("a.pt");
        let layers = |count: usize| (0..count).map(|i| format!("l{i}")).collect::<Vec<_>>();
        let left_out = |names, more| Note::LeftOut { count: 9, why: "of training", names, more };
        for (note, sentence) in [
            (
                Note::LoraApplied { path: path(), applied: 3, modules: 4, strength: 0.5 },
                "a.pt: applied to 3 of 4 layers at 0.5",
            ),
            (
                Note::LoraUnmatched { path: path(), layers: layers(2), more: 0 },
                "a.pt: the model has no l0, l1",
            ),
            (
                Note::LoraUnmatched { path: path(), layers: layers(1), more: 1 },
                "a.pt: the model has no l0, …",
            ),
            (
                Note::WordAdded { path: path(), word: "<cat>".to_owned(), vectors: 8 },
                "a.pt: `<cat>` stands for 8 vectors",
            ),
            (Note::VaeReplaced { path: path() }, "a.pt: takes the place of the model's VAE"),
            (
                Note::Recognised {
                    path: path(),
                    family: "SDXL",
                    class_name: "StableDiffusionXLPipeline".to_owned(),
                },
                "a.pt: SDXL, StableDiffusionXLPipeline",
            ),
            (Note::Predicts("noise".to_owned()), "predicts noise"),
            (left_out(Vec::new(), 9), "left out: 9 tensors of training"),
            (left_out(layers(2), 0), "left out: 9 tensors of training: l0, l1"),
            (left_out(layers(2), 7), "left out: 9 tensors of training: l0, l1 and 7 more"),
            (
                Note::ForeignRecipe { program: "ComfyUI" },
                "note: ComfyUI drew the picture, with noise of its own: this one will be similar at best",
            ),
            (Note::RecipeUnused("ENSD: 1".to_owned()), "warning: not used of the recipe: ENSD: 1"),
            (Note::RecipeDiffers("it differs".to_owned()), "warning: it differs"),
            (
                Note::RecipeFileMissing { name: "ink".to_owned() },
                "warning: the recipe has `ink`, which is neither in --lora-dir nor beside the picture",
            ),
            (Note::NoPreview("no memory".to_owned()), "warning: no preview: no memory"),
            (
                Note::NotSaved("the disk is full".to_owned()),
                "warning: the unfinished run cannot be saved, so it could not be resumed: the disk is full",
            ),
            (
                Note::Fitting { moves: 3, of: 8, psnr: 33.333 },
                "3 of 8 moves towards the smallest file: 33.3 dB",
            ),
        ] {
            assert_eq!(note.to_string(), sentence);
        }
    }

    /// Recipes come from strangers' pictures.
    #[test]
    fn texts_of_recipes_are_shown_without_controls_and_not_at_length() {
        let text = || format!("\u{1b}[2J{}", "x".repeat(2 * SHOWN_CHARS));
        for note in [
            Note::RecipeUnused(text()),
            Note::RecipeDiffers(text()),
            Note::RecipeFileMissing { name: text() },
        ] {
            let shown = note.to_string();
            assert!(!shown.contains('\u{1b}') && shown.contains("\\u{1b}") && shown.contains('…'), "{shown}");
            assert!(shown.chars().count() < SHOWN_CHARS + 120, "{shown}");
        }
    }

    #[test]
    fn tasks_are_called_and_counted_by_what_they_do() {
        let converting = Task::Converting { component: "unet".to_owned() };
        for (task, name, unit) in [
            (converting, "unet", "tensor"),
            (Task::Measuring, "measuring", "weight"),
            (Task::Calibrating, "calibrating", "step"),
            (Task::Comparing, "comparing", "step"),
            (Task::ReadingPrompt, "reading the prompt", "step"),
            (Task::Drawing, "drawing", "step"),
        ] {
            assert_eq!((task.to_string().as_str(), task.unit()), (name, unit));
        }
    }

    #[test]
    fn clones_of_a_token_stop_together() {
        let cancel = Cancel::new();
        let clone = cancel.clone();
        assert_eq!((cancel.is_cancelled(), clone.check()), (false, ControlFlow::Continue(())));
        assert!(!clone.cancel(), "nobody had asked before");
        assert!(cancel.cancel(), "somebody had");
        assert_eq!((cancel.is_cancelled(), cancel.check()), (true, ControlFlow::Break(())));
    }

    #[test]
    fn one_writes_at_a_time_also_after_a_writer_panicked() {
        let cancel = Cancel::new();
        let writing = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        cancel.while_writing(|| {
                            assert!(!writing.swap(true, Ordering::SeqCst), "somebody else writes");
                            assert!(writing.swap(false, Ordering::SeqCst));
                        });
                    }
                });
            }
        });
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            cancel.while_writing(|| std::panic::resume_unwind(Box::new(())));
        }));
        assert!(panicked.is_err());
        assert_eq!(cancel.while_writing(|| 7), 7);
    }

    #[test]
    fn a_watch_tells_in_order_and_shares_its_token() {
        let mut told = Vec::new();
        let mut observer = |event| told.push(event);
        let cancel = Cancel::new();
        let mut watch = Watch::new(&mut observer, &cancel);
        watch.progress(Task::Drawing, 1, 2);
        watch.note(Note::NoPreview("x".to_owned()));
        watch.tell(Event::TaskEnded);
        cancel.cancel();
        assert!(watch.cancel().is_cancelled());
        let expected = [
            Event::Progress { task: Task::Drawing, done: 1, total: 2 },
            Event::Note(Note::NoPreview("x".to_owned())),
            Event::TaskEnded,
        ];
        assert_eq!(told, expected);
    }
}
