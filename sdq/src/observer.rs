//! Reports to a caller during an operation, and its cancellation.

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

use crate::{run::LastState, text::printable};

/// Maximum number of characters of a text from a file that a note shows.
const SHOWN_CHARS: usize = 200;

/// A report of an operation. Events are owned, so that they can be sent to other threads.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// `done` of `total` units of `task` are done.
    Progress {
        /// The current task.
        task: Task,
        /// Units done.
        done: u64,
        /// Number of all units.
        total: u64,
    },
    /// The current task has ended, successfully or not.
    TaskEnded,
    /// The prompt of a run has been encoded.
    Encoded,
    /// A step of a run is done.
    Step {
        /// Index of the picture in its request.
        image: usize,
        /// Index of the step.
        step: usize,
        /// Steps of each picture.
        steps: usize,
        /// The estimate of the picture, one pixel for each latent pixel, if previews are requested.
        preview: Option<Picture>,
    },
    /// A picture of a run is finished.
    Drawn {
        /// Index of the picture in its request.
        image: usize,
        /// The picture.
        picture: Picture,
    },
    /// A remark for the user.
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
    /// Measuring the effect of each weight; units are weights.
    Measuring,
    /// Drawing to collect statistics of the weights' inputs; units are steps.
    Calibrating,
    /// Drawing with two models; units are steps.
    Comparing,
    /// Encoding the prompt of a run; units are the run's steps.
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

/// A remark for the user. Its `Display` is a sentence.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Note {
    /// A LoRA runs beside the model.
    LoraApplied {
        /// Its file.
        path: PathBuf,
        /// Layers that it changes.
        applied: usize,
        /// Layers that its file contains changes for.
        modules: usize,
        /// Its strength.
        strength: f32,
        /// Strength in the text encoders, if it is different there.
        text_strength: Option<f32>,
    },
    /// A LoRA contains changes for layers that the model does not have.
    LoraUnmatched {
        /// Its file.
        path: PathBuf,
        /// The first few of them.
        layers: Vec<String>,
        /// Number of further ones.
        more: usize,
    },
    /// The file of an add-on contains tensors that do not belong to one of its kind.
    AddOnLeftOut {
        /// Its file.
        path: PathBuf,
        /// The first few of them.
        tensors: Vec<String>,
        /// Number of further ones.
        more: usize,
    },
    /// A prompt has a tag of an unknown kind, which is left out: the whole tag.
    TagUnused(String),
    /// A LoRA's tag has parameters that are not used: the whole tag.
    TagSaysMore(String),
    /// A tag in the negative prompt, where tags are left out: the whole tag.
    NegativeTag(String),
    /// A part of a request has no effect because the run is not guided.
    WithoutGuidance(&'static str),
    /// A word was added to the vocabulary.
    WordAdded {
        /// The embedding's file.
        path: PathBuf,
        /// The word.
        word: String,
        /// Number of its vectors.
        vectors: usize,
    },
    /// The start picture has transparent pixels, which become white.
    Transparent {
        /// Its file.
        path: PathBuf,
    },
    /// Another VAE replaces the model's.
    VaeReplaced {
        /// Its file.
        path: PathBuf,
    },
    /// A published model was recognised.
    Recognised {
        /// Its file.
        path: PathBuf,
        /// Its family.
        family: &'static str,
        /// Class of its pipeline.
        class_name: String,
    },
    /// The prediction of a model, and how it is known.
    Predicts(String),
    /// A sentence on what was decided while a published model was read.
    Remark(String),
    /// Tensors that are not converted.
    LeftOut {
        /// Number of tensors.
        count: usize,
        /// The reason.
        why: &'static str,
        /// The first few of them, if their names are informative.
        names: Vec<String>,
        /// Number of further ones.
        more: usize,
    },
    /// A recipe was written by another program, which draws other noise.
    ForeignRecipe {
        /// The program.
        program: &'static str,
    },
    /// A part of a recipe that sdq does not support: its name and its value.
    RecipeUnused(String),
    /// A sentence on a difference between the model and that of a recipe.
    RecipeDiffers(String),
    /// A file that a recipe adds to the model was not found.
    RecipeFileMissing {
        /// Its name.
        name: String,
    },
    /// The unfinished run cannot be saved; it continues.
    NotSaved(String),
    /// A preview cannot be decoded; the run continues.
    NoPreview(String),
    /// Similarity of the pictures after some of the moves towards the smallest file.
    Fitting {
        /// Number of moves.
        moves: usize,
        /// Number of all possible moves.
        of: usize,
        /// Median peak signal-to-noise ratio in decibels.
        psnr: f64,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Note::LoraApplied { path, applied, modules, strength, text_strength } => {
                write!(f, "{}: applied to {applied} of {modules} layers at {strength}", path.display())?;
                match text_strength {
                    Some(strength) => write!(f, ", in text encoders at {strength}"),
                    None => Ok(()),
                }
            }
            Note::LoraUnmatched { path, layers, more } => {
                let ellipsis = if *more > 0 { ", …" } else { "" };
                write!(f, "{}: the model has no {}{ellipsis}", path.display(), layers.join(", "))
            }
            Note::AddOnLeftOut { path, tensors, more } => {
                let ellipsis = if *more > 0 { ", …" } else { "" };
                let tensors = printable(&tensors.join(", "), SHOWN_CHARS).into_owned();
                write!(
                    f,
                    "{}: left out, as no LoRA or embedding has such a tensor: {tensors}{ellipsis}",
                    path.display()
                )
            }
            Note::TagUnused(tag) => {
                let tag = printable(tag, SHOWN_CHARS);
                write!(f, "warning: {tag} is left out: sdq knows only <lora:NAME:STRENGTH>")
            }
            Note::TagSaysMore(tag) => {
                let tag = printable(tag, SHOWN_CHARS);
                write!(f, "warning: {tag}: only its strengths are used, for text encoders and for the U-Net")
            }
            Note::NegativeTag(tag) => {
                let tag = printable(tag, SHOWN_CHARS);
                write!(f, "warning: {tag} is left out of the negative prompt; write it in the prompt")
            }
            Note::WithoutGuidance(part) => write!(
                f,
                "warning: {part} has no effect: the run is not guided, for the guidance scale is 1 or less, both prompts \
                 are the same, or the model was trained to do without"
            ),
            Note::WordAdded { path, word, vectors } => {
                write!(f, "{}: `{word}` stands for {vectors} vectors", path.display())
            }
            Note::Transparent { path } => {
                write!(f, "{}: white shows through its transparent pixels", path.display())
            }
            Note::VaeReplaced { path } => write!(f, "{}: takes the place of the model's VAE", path.display()),
            Note::Recognised { path, family, class_name } => {
                write!(f, "{}: {family}, {class_name}", path.display())
            }
            Note::Predicts(prediction) => write!(f, "predicts {prediction}"),
            Note::Remark(remark) => f.write_str(remark),
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

/// Cancels operations from another thread. Clones are one token.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    cancelled: AtomicBool,
    /// Locked while a file is written.
    writing: Mutex<()>,
    last_state: LastState,
}

impl Cancel {
    /// A token that has not been used.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Requests cancellation at the next step. Returns whether it was requested before.
    pub fn cancel(&self) -> bool {
        self.0.cancelled.swap(true, Ordering::SeqCst)
    }

    /// Whether cancellation was requested.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::SeqCst)
    }

    /// Whether to continue.
    pub fn check(&self) -> ControlFlow<()> {
        if self.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Runs `write` exclusively: code that ends the process at once calls this too, and so never truncates a
    /// file.
    pub fn while_writing<T>(&self, write: impl FnOnce() -> T) -> T {
        let _writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        write()
    }

    /// The state of the run that this token stops, to be saved by whoever ends the process before its next step.
    pub fn last_state(&self) -> &LastState {
        &self.0.last_state
    }
}

/// The caller's side of an operation: its observer, and its cancellation.
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
    /// Reports to `observer`, and stops when `cancel` is used.
    pub fn new(observer: &'a mut dyn FnMut(Event), cancel: &Cancel) -> Watch<'a> {
        Watch { observer, cancel: cancel.clone() }
    }

    /// Sends an event to the observer.
    pub fn tell(&mut self, event: Event) {
        (self.observer)(event);
    }

    /// Sends a note to the observer.
    pub fn note(&mut self, note: Note) {
        self.tell(Event::Note(note));
    }

    /// Reports the progress of a task to the observer.
    pub fn progress(&mut self, task: Task, done: u64, total: u64) {
        self.tell(Event::Progress { task, done, total });
    }

    /// The token that cancels the operation.
    pub fn cancel(&self) -> &Cancel {
        &self.cancel
    }
}

#[cfg(test)]
mod tests;
