//! Reports to a caller during an operation.

use std::{
    borrow::Cow,
    fmt,
    path::{Path, PathBuf},
};

use sdq_engine::Picture;

pub use crate::cancel::Cancel;

use crate::text::printable;

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
    /// The beginning of a LoRA's tag without an end, which stays in the prompt.
    TagNotClosed(String),
    /// A name after `embedding:` in a prompt that is no word of the model.
    NoSuchWord(String),
    /// A LoRA's tag has parameters that are not used: the whole tag.
    TagSaysMore(String),
    /// A tag in the negative prompt, where tags are left out: the whole tag.
    NegativeTag(String),
    /// A part of a request has no effect because the run is not guided.
    WithoutGuidance(&'static str),
    /// The image guidance scale has no effect because the model is not one for editing.
    NotForEditing,
    /// The scheduler evaluates the denoiser more often than once per step, and progress counts evaluations.
    MoreEvaluations {
        /// The scheduler.
        scheduler: String,
        /// Steps of the request.
        steps: usize,
        /// Evaluations of the denoiser.
        evaluations: usize,
    },
    /// A request for the built-in model goes beyond what it was trained for.
    BeyondBuiltIn {
        /// What the model draws.
        description: String,
        /// The first few words of the prompt that its vocabulary does not have.
        words: Vec<String>,
        /// Width and height that it was trained for, if the request has others.
        size: Option<(usize, usize)>,
    },
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
    /// The mask has neither the shape of the start picture nor that of the picture to be drawn, so parts of it are cut off.
    MaskCut {
        /// Its file.
        path: PathBuf,
        /// Its width and height in pixels.
        mask: (usize, usize),
        /// Those of the start picture.
        picture: (usize, usize),
    },
    /// No part of the mask is drawn.
    NothingToDraw {
        /// Its file.
        path: PathBuf,
    },
    /// The folder of an output had vanished during the run, and was made again.
    FolderMade {
        /// The folder.
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
        if let Some(path) = self.path() {
            write!(f, "{}: ", path.display())?;
        }
        write!(f, "{}{}", self.level(), self.sentence())
    }
}

impl Note {
    /// The file that the note is about, if the sentence does not name it.
    fn path(&self) -> Option<&Path> {
        match self {
            Note::LoraApplied { path, .. }
            | Note::LoraUnmatched { path, .. }
            | Note::AddOnLeftOut { path, .. }
            | Note::WordAdded { path, .. }
            | Note::Transparent { path }
            | Note::MaskCut { path, .. }
            | Note::NothingToDraw { path }
            | Note::FolderMade { path }
            | Note::VaeReplaced { path }
            | Note::Recognised { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The word before the sentence; none where the note only reports what is done.
    fn level(&self) -> &'static str {
        match self {
            Note::ForeignRecipe { .. } | Note::MoreEvaluations { .. } | Note::BeyondBuiltIn { .. } => {
                "note: "
            }
            Note::TagUnused(_)
            | Note::TagNotClosed(_)
            | Note::NoSuchWord(_)
            | Note::TagSaysMore(_)
            | Note::NegativeTag(_)
            | Note::WithoutGuidance(_)
            | Note::NotForEditing
            | Note::MaskCut { .. }
            | Note::NothingToDraw { .. }
            | Note::FolderMade { .. }
            | Note::RecipeUnused(_)
            | Note::RecipeDiffers(_)
            | Note::RecipeFileMissing { .. }
            | Note::NotSaved(_)
            | Note::NoPreview(_) => "warning: ",
            _ => "",
        }
    }

    fn sentence(&self) -> String {
        match self {
            Note::LoraApplied { applied, modules, strength, text_strength, .. } => {
                let sentence =
                    format!("the LoRA changes {applied} of {modules} layers with strength {strength}");
                match text_strength {
                    Some(strength) => format!("{sentence}, in text encoders with strength {strength}"),
                    None => sentence,
                }
            }
            Note::LoraUnmatched { layers, more, .. } => format!("the model lacks {}", listed(layers, *more)),
            Note::AddOnLeftOut { tensors, more, .. } => {
                let tensors = shown(&listed(tensors, *more)).into_owned();
                format!("tensors that belong to no LoRA or embedding are left out: {tensors}")
            }
            Note::TagUnused(tag) => {
                format!("{} is left out: sdq supports only <lora:NAME:STRENGTH>", shown(tag))
            }
            Note::TagNotClosed(text) => {
                format!("{} is read as words, because no > follows it", shown(text))
            }
            Note::NoSuchWord(name) => format!(
                "embedding:{} is read as words, because no embedding has this name; give its file with --embedding",
                shown(name)
            ),
            Note::TagSaysMore(tag) => {
                format!("only the strengths of {} are used, for text encoders and for the U-Net", shown(tag))
            }
            Note::NegativeTag(tag) => {
                format!("{} is left out of the negative prompt; write it in the prompt", shown(tag))
            }
            Note::WithoutGuidance(part) => format!(
                "{part} has no effect because the run is not guided: the guidance scale is 1 or less, both prompts are \
                 the same, or the model was trained to do without guidance"
            ),
            Note::NotForEditing => {
                "the image guidance scale has no effect because the model was not trained to edit pictures"
                    .to_owned()
            }
            Note::MaskCut { mask, picture, .. } => format!(
                "the mask has {}x{} pixels and the start picture {}x{}: the ends of the longer side are cut off, so the mask \
                 covers other parts than where it was drawn",
                mask.0, mask.1, picture.0, picture.1
            ),
            Note::NothingToDraw { .. } => {
                "no part of the mask is white, so nothing is drawn; make it white where the picture is to change".to_owned()
            }
            Note::FolderMade { .. } => "the folder had vanished and was made again".to_owned(),
            Note::MoreEvaluations { scheduler, steps, evaluations } => format!(
                "{scheduler} evaluates the model {evaluations} times in {steps} steps, and each evaluation counts as one"
            ),
            Note::BeyondBuiltIn { description, words, size } => beyond_built_in(description, words, *size),
            Note::WordAdded { word, vectors: 1, .. } => format!("`{word}` stands for one vector"),
            Note::WordAdded { word, vectors, .. } => format!("`{word}` stands for {vectors} vectors"),
            Note::Transparent { .. } => "transparent pixels become white".to_owned(),
            Note::VaeReplaced { .. } => "this VAE replaces the model's".to_owned(),
            Note::Recognised { family, class_name, .. } => format!("the model is {family} ({class_name})"),
            Note::Predicts(prediction) => format!("the model predicts {prediction}"),
            Note::Remark(remark) => remark.clone(),
            Note::LeftOut { count, why, names, more } => {
                let sentence = match count {
                    1 => format!("one tensor {why} is left out"),
                    _ => format!("{count} tensors {why} are left out"),
                };
                match names.is_empty() {
                    true => sentence,
                    false => format!("{sentence}: {}", listed(names, *more)),
                }
            }
            Note::ForeignRecipe { program } => {
                format!("{program} drew the picture with other noise, so the new picture is similar at best")
            }
            Note::RecipeUnused(unused) => format!("a part of the recipe is not used: {}", shown(unused)),
            Note::RecipeDiffers(difference) => shown(difference).into_owned(),
            Note::RecipeFileMissing { name } => {
                format!(
                    "the recipe needs `{}`, which is neither in --lora-dir nor beside the picture",
                    shown(name)
                )
            }
            Note::NotSaved(reason) => format!("the unfinished run cannot be saved: {reason}"),
            Note::NoPreview(reason) => format!("the preview cannot be shown: {reason}"),
            Note::Fitting { moves, of, psnr } => {
                format!(
                    "the similarity is {psnr:.1} dB after {moves} of {of} moves towards the smallest file"
                )
            }
        }
    }
}

/// A text from a file, for a terminal.
fn shown(text: &str) -> Cow<'_, str> {
    printable(text, SHOWN_CHARS)
}

/// `names`, and the number of further ones.
fn listed(names: &[String], more: usize) -> String {
    let names = names.join(", ");
    if more > 0 { format!("{names} and {more} more") } else { names }
}

fn beyond_built_in(description: &str, words: &[String], size: Option<(usize, usize)>) -> String {
    let words = words.iter().map(|word| format!("`{}`", shown(word))).collect::<Vec<_>>().join(", ");
    let words = (!words.is_empty()).then(|| format!("it does not know {words}"));
    let size = size.map(|(width, height)| format!("it was trained for {width}x{height} pixels"));
    let limits: Vec<String> = words.into_iter().chain(size).collect();
    let description = shown(description);
    let description = description.trim_end().trim_end_matches('.');
    format!(
        "the built-in model is small ({description}), and {}; for anything else convert a model with `sdq convert` and give \
         it with --model",
        limits.join(" and ")
    )
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
