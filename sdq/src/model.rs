//! Opens models: `.sdq` files, and the small built-in model.

use std::{num::NonZeroUsize, path::Path};

use sdq_engine::{
    Pipeline, PipelineOptions,
    adapters::{lora::LoraSummary, textual_inversion::TextualInversions},
};
use sdq_formats::{checkpoint::Checkpoint, sniff::FileKind};

use crate::{
    Error, Note, Watch,
    request::{PromptSyntax, Settings},
};

/// Weights are read in place, so the built-in file must be aligned like a mapped one.
#[repr(C, align(64))]
struct Aligned<Bytes: ?Sized>(Bytes);

/// The small model of this project, see `demo/`.
static BUILT_IN: &Aligned<[u8]> = &Aligned(*include_bytes!("../../demo/model.sdq"));

/// Options for the processor, on which files are prepared.
pub(crate) fn on_cpu(threads: Option<NonZeroUsize>) -> PipelineOptions {
    PipelineOptions { threads, ..PipelineOptions::default() }
}

/// The model at `path`, or the built-in one.
///
/// # Errors
/// When the file is damaged, not a model, or not supported. For a published model that was not converted, the error
/// says which command converts it.
pub fn open(path: Option<&Path>, options: &PipelineOptions) -> Result<Pipeline, Error> {
    let Some(path) = path else { return Ok(Pipeline::from_static(&BUILT_IN.0, options)?) };
    if let Some((found, flag)) = add_on(path) {
        return Err(Error::AddOnAsModel { path: path.to_path_buf(), found, flag });
    }
    match published_kind(path) {
        Some(found) => {
            Err(Error::NotConverted { path: path.to_path_buf(), found, command: convert_command(path) })
        }
        None => Ok(Pipeline::open(path, options)?),
    }
}

/// Most words that a note about the built-in model lists.
const LISTED: usize = 3;

/// Tells `watch` if a request for the built-in model, which is open in `pipeline`, goes beyond what it was trained for: its
/// vocabulary has few words, and it draws one size well.
///
/// # Errors
/// When the prompt cannot be parsed.
pub fn note_beyond_built_in(
    pipeline: &Pipeline,
    settings: &Settings,
    watch: &mut Watch<'_>,
) -> Result<(), Error> {
    let mut unknown: Vec<String> = Vec::new();
    for word in settings.request.prompt.split(|letter: char| !letter.is_alphabetic()) {
        let is_new = word.chars().count() > 2 && !unknown.iter().any(|other| other == word);
        if unknown.len() < LISTED && is_new && pipeline.prompt_length(word, PromptSyntax::Plain)?.tokens > 1 {
            unknown.push(word.to_owned());
        }
    }
    let defaults = pipeline.defaults()?;
    let trained = (defaults.width, defaults.height);
    let size = (trained != (settings.width, settings.height)).then_some(trained);
    if !unknown.is_empty() || size.is_some() {
        let description = pipeline.manifest().description.clone();
        watch.note(Note::BeyondBuiltIn { description, words: unknown, size });
    }
    Ok(())
}

/// Describes the file at `path` if it is a LoRA or an embedding, and the option that takes it.
fn add_on(path: &Path) -> Option<(&'static str, &'static str)> {
    let kind = FileKind::of_file(path).ok()?;
    if !matches!(kind, FileKind::Safetensors | FileKind::Zip | FileKind::Pickle) {
        return None;
    }
    let checkpoint = Checkpoint::open(path).ok()?;
    match LoraSummary::of(&checkpoint) {
        Ok(_) => Some(("a LoRA", "--lora")),
        Err(_) => TextualInversions::read(&checkpoint).ok().map(|_| ("an embedding", "--embedding")),
    }
}

/// Describes the file or folder at `path` if `sdq convert` may read it.
fn published_kind(path: &Path) -> Option<String> {
    if path.is_dir() {
        return Some("a folder".to_owned());
    }
    let kind = FileKind::of_file(path).ok()?;
    let is_pickle = path.extension().is_some_and(|ending| ending == "ckpt" || ending == "pt");
    match kind {
        FileKind::Safetensors | FileKind::Zip | FileKind::Pickle | FileKind::Gguf => Some(kind.to_string()),
        FileKind::Other if is_pickle => Some("a PyTorch checkpoint".to_owned()),
        _ => None,
    }
}

/// The command that converts the model at `path` into a file of the same name in the current folder.
fn convert_command(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let name = if path.is_dir() { absolute.file_name() } else { path.file_stem() };
    let mut output = name.unwrap_or("model".as_ref()).to_os_string();
    output.push(".sdq");
    format!("sdq convert {} -o {}", shell_word(path), shell_word(output.as_ref()))
}

/// `path` as a word of a shell command, quoted if necessary.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |letter: char| {
        letter.is_alphanumeric() || "/.,:=@%+_-".contains(letter) || cfg!(windows) && letter == '\\'
    };
    let is_flag = text.starts_with('-');
    let text = if is_flag { format!("./{text}") } else { text };
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_built_in_model_does_not_know_is_told() {
        let pipeline = open(None, &PipelineOptions::default()).unwrap();
        let told = |prompt: &str, size: usize| {
            let settings = pipeline.settings(&crate::Request::new(prompt).size(size, size)).unwrap();
            let mut notes = Vec::new();
            let mut observer = |event: crate::Event| notes.push(event);
            let mut watch = Watch::new(&mut observer, &crate::Cancel::new());
            note_beyond_built_in(&pipeline, &settings, &mut watch).unwrap();
            notes
        };
        assert_eq!(told("(a red apple:1.2) on a Blue background", 64), []);
        let beyond = |words: &[&str], size| {
            let description = pipeline.manifest().description.clone();
            let words = words.iter().map(|word| (*word).to_owned()).collect();
            vec![crate::Event::Note(Note::BeyondBuiltIn { description, words, size })]
        };
        assert_eq!(told("a castle, a castle in the fog", 64), beyond(&["castle", "fog"], None));
        assert_eq!(told("a cat", 128), beyond(&[], Some((64, 64))));
    }

    #[test]
    fn a_model_to_convert_is_named_with_the_command() {
        let folder = tempfile::tempdir().unwrap();
        let message = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let message = open(Some(&path), &PipelineOptions::default()).unwrap_err().to_string();
            message.replace(&format!("{}/", folder.path().display()), "")
        };
        assert_eq!(
            message("v1.5.safetensors", b"\x02\0\0\0\0\0\0\0{}"),
            "v1.5.safetensors: expected an .sdq file, found a safetensors file; convert it first with \
             `sdq convert v1.5.safetensors -o v1.5.sdq`"
        );
        assert!(message("m.gguf", b"GGUF\x03\0\0\0").contains("convert m.gguf -o m.sdq"));
        let spaced = message("my model's.ckpt", b"PK\x03\x04....");
        assert!(spaced.contains("-o 'my model'\\''s.sdq'"), "{spaced}");
        let error = open(Some(folder.path()), &PipelineOptions::default()).unwrap_err();
        assert!(matches!(error, Error::NotConverted { .. }), "{error}");
        let lora = br#"{"a.lora_A.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},"a.lora_B.weight":{"dtype":"F32","shape":[1,1],"data_offsets":[4,8]}}"#;
        let bytes = [&(lora.len() as u64).to_le_bytes()[..], lora, &[0; 8]].concat();
        assert_eq!(
            message("l.safetensors", &bytes),
            "l.safetensors: expected a model, found a LoRA; give it with --lora, beside a model"
        );
        // Files that `sdq convert` does not read are only named.
        assert!(
            message("a.safetensors", b"{\"error\":1}")
                .ends_with("found a JSON text; download the file again")
        );
        assert!(
            message("a.png", b"\x89PNG\r\n\x1a\n").ends_with("expected an .sdq file, found a PNG picture")
        );
    }
}
