//! LoRAs: from files and from `<lora:name:0.8>` in a prompt → branches beside the model's products.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use sdq_engine::Pipeline;
use sdq_formats::{
    checkpoint::Checkpoint,
    lora::{self, Lora},
    sdq::SdqFile,
};
use serde::{Deserialize, Serialize};

use crate::{Error, Note, Watch, convert::reference::temporary_folder};

/// Most names of layers that are listed.
const LISTED: usize = 3;
/// Endings of a LoRA's file, the preferred first.
const ENDINGS: [&str; 5] = ["safetensors", "pt", "ckpt", "bin", "gguf"];

/// A LoRA's file and how strongly it counts: `FILE:0.8`, or `FILE` for 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraFile {
    /// The file.
    pub path: PathBuf,
    /// How strongly it counts; 1 as it was trained.
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

impl fmt::Display for LoraFile {
    /// As the web UI writes it into a prompt.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.path.file_stem().unwrap_or_default().to_string_lossy();
        write!(f, "<lora:{name}:{}>", self.strength)
    }
}

/// Takes every `<lora:name:0.8>` out of `prompt`, which is a strength of 1 where it is not given.
///
/// # Errors
/// When a strength is no number.
pub(super) fn take_tags(prompt: &mut String) -> Result<Vec<(String, f32)>, Error> {
    const START: &str = "<lora:";
    let mut tags = Vec::new();
    while let Some(start) = prompt.find(START) {
        let Some(len) = prompt[start..].find('>') else { break };
        let tag = &prompt[start + START.len()..start + len];
        let (name, strength) = tag.split_once(':').unwrap_or((tag, "1"));
        // The web UI has a second strength, for the text encoder, after another colon.
        let parsed = strength.parse::<f32>().ok().filter(|strength| strength.is_finite());
        let strength = parsed.ok_or_else(|| {
            Error::LoraTag(format!("<lora:{tag}>: `{strength}` is no strength, such as 0.8"))
        })?;
        tags.push((name.to_owned(), strength));
        prompt.replace_range(start..=start + len, "");
    }
    Ok(tags)
}

/// The files of `tags` in the folder `directory`.
///
/// # Errors
/// When there is no folder, or no such file in it.
pub(super) fn find(tags: &[(String, f32)], directory: Option<&Path>) -> Result<Vec<LoraFile>, Error> {
    let file = |(name, strength): &(String, f32)| -> Result<LoraFile, Error> {
        let missing = |hint: &str| Error::LoraTag(format!("the prompt asks for the LoRA `{name}`; {hint}"));
        let directory = directory.ok_or_else(|| missing("say where it is with --lora-dir DIR"))?;
        if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
            return Err(missing("a name has no folders"));
        }
        let candidates = ENDINGS.iter().map(|ending| directory.join(format!("{name}.{ending}")));
        let found = candidates.into_iter().find(|path| path.is_file());
        let hint = format!("there is no {name}.safetensors in `{}`", directory.display());
        Ok(LoraFile { path: found.ok_or_else(|| missing(&hint))?, strength: *strength })
    };
    tags.iter().map(file).collect()
}

/// The file called `name`, with or without its extension, in the first of `folders` that has it. A name that leads to
/// another folder has none.
pub fn find_file(name: &str, folders: &[&Path]) -> Option<PathBuf> {
    if name.is_empty() || name.contains(['/', '\\', ':']) || name.starts_with('.') {
        return None;
    }
    let names: Vec<String> =
        std::iter::once(name.to_owned()).chain(ENDINGS.map(|ending| format!("{name}.{ending}"))).collect();
    let candidates = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
    candidates.into_iter().find(|path| path.is_file())
}

/// `pipeline` with `loras` beside its products, told what they are applied to.
///
/// # Errors
/// When a file cannot be read, is no LoRA, or is for another model.
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
    lora::write(&matched, &path)?;
    // The mapping outlives the file's name.
    Ok(pipeline.with_branches(SdqFile::open(&path)?)?)
}

fn tell(file: &LoraFile, lora: &Lora<'_>, watch: &mut Watch<'_>) {
    let (path, strength) = (file.path.clone(), file.strength);
    let (applied, modules) = (lora.applied(), lora.modules());
    watch.note(Note::LoraApplied { path: path.clone(), applied, modules, strength });
    let unmatched = lora.unmatched();
    if !unmatched.is_empty() {
        let layers = unmatched.iter().take(LISTED).cloned().collect();
        watch.note(Note::LoraUnmatched { path, layers, more: unmatched.len().saturating_sub(LISTED) });
    }
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
        assert_eq!("x/b.v2.pt:0.5".parse::<LoraFile>().unwrap().to_string(), "<lora:b.v2:0.5>");
    }

    #[test]
    fn tags_leave_the_prompt() {
        let mut prompt = "a cat <lora:ink:0.7>, <lora:soft> <b> <lora:open".to_owned();
        assert_eq!(take_tags(&mut prompt).unwrap(), [("ink".to_owned(), 0.7), ("soft".to_owned(), 1.0)]);
        assert_eq!(prompt, "a cat ,  <b> <lora:open");
        assert!(take_tags(&mut "<lora:ink:much>".to_owned()).is_err());
    }

    #[test]
    fn names_lead_to_no_other_folder() {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("ink.pt"), "").unwrap();
        let find = |name: &str| find(&[(name.to_owned(), 1.0)], Some(folder.path()));
        assert_eq!(find("ink").unwrap()[0].path, folder.path().join("ink.pt"));
        for name in ["", "../ink", "a/ink", ".ink", "other"] {
            assert!(find(name).is_err(), "{name}");
        }
        assert!(super::find(&[("ink".to_owned(), 1.0)], None).is_err());
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
