//! LoRAs: files → low-rank branches beside the model's products.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use sdq_engine::{
    Pipeline,
    adapters::lora::{self, Lora, LoraWriteError},
};
use sdq_formats::{checkpoint::Checkpoint, sdq::SdqFile};
use serde::{Deserialize, Serialize};

use super::{LISTED, embedding, tell_left_out};
use crate::{Error, Note, Watch, convert::reference::temporary_folder, paths};

/// Extensions of LoRA files, in order of preference.
const ENDINGS: [&str; 5] = ["safetensors", "pt", "ckpt", "bin", "gguf"];

/// The file of a LoRA and its strength: `FILE:0.8`, or `FILE` for 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraFile {
    /// The file.
    #[serde(with = "paths")]
    pub path: PathBuf,
    /// The factor of the LoRA; 1 is the strength of its training.
    pub strength: f32,
}

impl FromStr for LoraFile {
    type Err = String;

    fn from_str(text: &str) -> Result<LoraFile, String> {
        let (path, strength) = match text.rsplit_once(':') {
            // A colon may be part of the path.
            Some((path, strength)) if !path.is_empty() => match strength.parse::<f32>() {
                Ok(strength) => (path, strength),
                Err(_) => (text, 1.0),
            },
            _ => (text, 1.0),
        };
        match strength.is_finite() {
            true => Ok(LoraFile { path: path.into(), strength }),
            false => Err(format!("a strength of {strength} is no finite number")),
        }
    }
}

/// The file in the folder `directory` of the LoRA that a prompt calls `name`.
///
/// # Errors
/// [`Error::LoraTag`] when there is no folder, or no such file in it.
pub(super) fn find(name: &str, directory: Option<&Path>) -> Result<PathBuf, Error> {
    let missing = |hint: &str| Error::LoraTag(format!("the prompt asks for the LoRA `{name}`; {hint}"));
    let directory = directory.ok_or_else(|| missing("say where it is with --lora-dir DIR"))?;
    if !is_file_name(name) {
        return Err(missing("a name has no folders"));
    }
    let hint = format!("there is no {name}.safetensors in `{}`", directory.display());
    with_an_ending(name, directory).ok_or_else(|| missing(&hint))
}

/// The file called `name`, with or without its extension, in the first of `folders` that contains it. `None`
/// for names that lead to another folder.
pub fn find_file(name: &str, folders: &[&Path]) -> Option<PathBuf> {
    if !is_file_name(name) {
        return None;
    }
    let in_folder = |folder: &&Path| {
        Some(folder.join(name)).filter(|path| path.is_file()).or_else(|| with_an_ending(name, folder))
    };
    folders.iter().find_map(in_folder)
}

/// Whether `name` stays in its folder on every system, and is not the name of a hidden file.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\', ':']) && !name.starts_with('.')
}

fn with_an_ending(name: &str, folder: &Path) -> Option<PathBuf> {
    ENDINGS.iter().map(|ending| folder.join(format!("{name}.{ending}"))).find(|path| path.is_file())
}

/// `pipeline` with `loras` beside its products; reports how many layers each changes.
///
/// # Errors
/// When a file cannot be read, is not a LoRA, or is for another model.
pub(super) fn apply(
    pipeline: Pipeline,
    loras: &[LoraFile],
    watch: &mut Watch<'_>,
) -> Result<Pipeline, Error> {
    if loras.is_empty() {
        return Ok(pipeline);
    }
    let targets = pipeline.weights();
    let checkpoints = loras.iter().map(|lora| Checkpoint::open(&lora.path)).collect::<Result<Vec<_>, _>>()?;
    let mut matched = Vec::with_capacity(loras.len());
    for (file, checkpoint) in loras.iter().zip(&checkpoints) {
        let lora = Lora::new(checkpoint, &targets).map_err(|error| Error::from(error).in_file(&file.path))?;
        tell(file, &lora, watch);
        matched.push((lora, file.strength));
    }
    let folder = temporary_folder()?;
    let path = folder.path().join("branches.sdq");
    lora::write(&matched, &path).map_err(|error| match error {
        LoraWriteError::Lora { lora, error } => Error::from(error).in_file(&loras[lora].path),
        LoraWriteError::File(error) => error.into(),
    })?;
    // The mapping stays valid after the file is removed.
    let mut pipeline = pipeline.with_branches(SdqFile::open(&path)?)?;
    for ((lora, _), file) in matched.iter().zip(loras) {
        for (word, inversion) in lora.words() {
            pipeline = embedding::add_word(pipeline, &file.path, word, inversion, watch)?;
        }
    }
    Ok(pipeline)
}

fn tell(file: &LoraFile, lora: &Lora<'_>, watch: &mut Watch<'_>) {
    let (path, strength) = (file.path.clone(), file.strength);
    let (applied, modules) = (lora.applied(), lora.modules());
    watch.note(Note::LoraApplied { path: path.clone(), applied, modules, strength });
    let unmatched = lora.unmatched();
    if !unmatched.is_empty() {
        let layers = unmatched.iter().take(LISTED).cloned().collect();
        let more = unmatched.len().saturating_sub(LISTED);
        watch.note(Note::LoraUnmatched { path: path.clone(), layers, more });
    }
    tell_left_out(&path, lora.left_out(), watch);
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_strength_may_follow_the_file() {
        let lora = |text: &str| text.parse::<LoraFile>().map(|lora| (lora.path, lora.strength));
        assert_eq!(lora("a/b.safetensors:0.8"), Ok(("a/b.safetensors".into(), 0.8)));
        assert_eq!(lora("b.safetensors"), Ok(("b.safetensors".into(), 1.0)));
        assert_eq!(lora("c:\\b.pt"), Ok(("c:\\b.pt".into(), 1.0)));
        assert_eq!(lora("b.pt:-1"), Ok(("b.pt".into(), -1.0)));
        assert!(lora("b.pt:inf").is_err());
    }

    #[test]
    fn names_lead_to_no_other_folder() {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("ink.pt"), "").unwrap();
        let find = |name: &str| find(name, Some(folder.path()));
        assert_eq!(find("ink").unwrap(), folder.path().join("ink.pt"));
        for name in ["", "../ink", "a/ink", ".ink", "c:ink", "other"] {
            assert!(find(name).is_err(), "{name}");
        }
        assert!(super::find("ink", None).is_err());
    }

    #[test]
    fn files_are_found_without_their_extension() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(second.path().join("ink.pt"), "").unwrap();
        let folders = [first.path(), second.path()];
        for name in ["ink.pt", "ink"] {
            assert_eq!(find_file(name, &folders), Some(second.path().join("ink.pt")));
        }
        std::fs::write(first.path().join("ink.gguf"), "").unwrap();
        assert_eq!(find_file("ink", &folders), Some(first.path().join("ink.gguf")));
        for name in ["", "../ink.pt", "a/ink", "/etc/passwd", "c:ink.pt", ".", "other"] {
            assert_eq!(find_file(name, &folders), None, "{name}");
        }
    }
}
