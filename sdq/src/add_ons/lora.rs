//! LoRAs: files → low-rank branches beside the model's products.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    str::FromStr,
};

use sdq_engine::{
    Pipeline,
    adapters::lora::{self, Lora, LoraWriteError, Strength},
};
use sdq_formats::{checkpoint::Checkpoint, links, sdq::SdqFile};
use serde::{Deserialize, Serialize};

use super::{LISTED, embedding, tell_left_out};
use crate::{Error, Note, Watch, paths, temporary::TemporaryFolder, text::printable};

/// Maximum depth of the sub-folders that are searched for LoRAs.
const MAX_DEPTH: usize = 8;
/// Maximum number of characters of a name in an error.
const SHOWN_CHARS: usize = 200;
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
    /// Strength in the text encoders, if it is different there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_strength: Option<f32>,
}

impl LoraFile {
    fn strengths(&self) -> Strength {
        let text_encoders = self.text_strength.unwrap_or(self.strength);
        Strength { text_encoders, others: self.strength }
    }
}

impl FromStr for LoraFile {
    type Err = String;

    fn from_str(text: &str) -> Result<LoraFile, String> {
        let (path, strength) = match text.rsplit_once(':') {
            // A colon may be part of the path.
            Some((path, strength)) if !path.is_empty() && !Path::new(text).is_file() => {
                match strength.parse::<f32>() {
                    Ok(strength) => (path, strength),
                    Err(_) => (text, 1.0),
                }
            }
            _ => (text, 1.0),
        };
        match strength.is_finite() {
            true => Ok(LoraFile { path: path.into(), strength, text_strength: None }),
            false => Err(format!("the strength {strength} is not a finite number")),
        }
    }
}

/// The file of the LoRA that a prompt calls `name`, a name or a relative path, in the folder `directory` or its
/// sub-folders.
///
/// # Errors
/// [`Error::LoraTag`] when there is no folder, no such file in it, or more than one.
pub(super) fn find(name: &str, directory: Option<&Path>) -> Result<PathBuf, Error> {
    let missing = |hint: &str| {
        let name = printable(name, SHOWN_CHARS);
        Error::LoraTag(format!("the prompt asks for the LoRA `{name}`; {hint}"))
    };
    let directory = directory.ok_or_else(|| missing("give the folder of the file with --lora-dir DIR"))?;
    let hint =
        format!("there is no {}.safetensors in `{}`", printable(name, SHOWN_CHARS), directory.display());
    let found = match name.rsplit_once(['/', '\\']) {
        None => find_below(name, directory)?,
        Some((folder, file)) => {
            let parts: Vec<&str> = folder.split(['/', '\\']).filter(|part| *part != ".").collect();
            if !parts.iter().all(|part| is_file_name(part)) {
                return Err(missing("the name leads out of the folder of --lora-dir"));
            }
            let folder: PathBuf = parts.iter().fold(directory.to_path_buf(), |path, part| path.join(part));
            find_file(file, &[&folder])
        }
    };
    found.ok_or_else(|| missing(&hint))
}

/// The file called `name`, with or without its extension, in `directory` or its sub-folders.
///
/// # Errors
/// [`Error::LoraTag`] when two folders have such a file.
pub fn find_below(name: &str, directory: &Path) -> Result<Option<PathBuf>, Error> {
    if !is_file_name(name) {
        return Ok(None);
    }
    let mut found: Option<PathBuf> = None;
    for folder in folders_below(directory) {
        match (find_file(name, &[&folder]), &found) {
            (Some(file), Some(other)) => {
                let (name, other) = (printable(name, SHOWN_CHARS), other.display());
                return Err(Error::LoraTag(format!(
                    "two files are called `{name}`: `{other}` and `{}`; write the sub-folder before the name, or ./ for the folder itself",
                    file.display()
                )));
            }
            (Some(file), None) => found = Some(file),
            (None, _) => {}
        }
    }
    Ok(found)
}

/// All files that may be LoRAs or textual inversions in `directory` and its sub-folders, by their endings, in the order of
/// their folders and names.
pub fn files_below(directory: &Path) -> Vec<PathBuf> {
    let is_add_on = |path: &PathBuf| {
        let ending = path.extension().and_then(OsStr::to_str).map(str::to_lowercase);
        ending.is_some_and(|ending| ENDINGS.contains(&&*ending)) && path.is_file() && !is_hidden(path)
    };
    let files = |folder: PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> = entries.filter(is_add_on).collect();
        files.sort();
        files
    };
    folders_below(directory).into_iter().flat_map(files).collect()
}

/// `directory` and its sub-folders.
fn folders_below(directory: &Path) -> Vec<PathBuf> {
    let mut open = vec![(directory.to_path_buf(), 0)];
    // Links may lead to a folder again, also in circles.
    let mut visited = HashSet::new();
    let mut folders = Vec::new();
    while let Some((folder, depth)) = open.pop() {
        if !visited.insert(fs::canonicalize(&folder).unwrap_or_else(|_| folder.clone())) {
            continue;
        }
        if depth < MAX_DEPTH {
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path());
            let mut inner: Vec<PathBuf> = entries.filter(|path| path.is_dir() && !is_hidden(path)).collect();
            // The last one is searched first, so that the order is that of the names.
            inner.sort_by(|a, b| b.cmp(a));
            open.extend(inner.into_iter().map(|path| (path, depth + 1)));
        }
        folders.push(folder);
    }
    folders
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'))
}

/// The file called `name`, with or without its extension, in the first of `folders` that contains it. `None`
/// for names that lead to another folder.
pub fn find_file(name: &str, folders: &[&Path]) -> Option<PathBuf> {
    if !is_file_name(name) {
        return None;
    }
    let in_folder = |folder: &&Path| {
        Some(folder.join(name)).filter(|path| is_file(path)).or_else(|| with_an_ending(name, folder))
    };
    folders.iter().find_map(in_folder)
}

/// Whether `name` stays in its folder on every system, and is not the name of a hidden file.
fn is_file_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\', ':']) && !name.starts_with('.')
}

fn with_an_ending(name: &str, folder: &Path) -> Option<PathBuf> {
    let spellings = ENDINGS.iter().flat_map(|ending| [(*ending).to_owned(), ending.to_uppercase()]);
    spellings.map(|ending| folder.join(format!("{name}.{ending}"))).find(|path| is_file(path))
}

/// Whether there is a file at `path`, or a broken link, which is an error when it is read.
fn is_file(path: &Path) -> bool {
    links::is_there(path) && !path.is_dir()
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
        matched.push((lora, file.strengths()));
    }
    let folder = TemporaryFolder::new()?;
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
    let &LoraFile { ref path, strength, text_strength } = file;
    let path = path.clone();
    let (applied, modules) = (lora.applied(), lora.modules());
    watch.note(Note::LoraApplied { path: path.clone(), applied, modules, strength, text_strength });
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
        for name in ["", "../ink", "a/ink", ".ink", "c:ink", "other", "/ink", "a/../ink", "..\\ink", "./.ink"]
        {
            assert!(find(name).is_err(), "{name}");
        }
        assert_eq!(find("./ink").unwrap(), folder.path().join("ink.pt"));
        assert!(super::find("ink", None).is_err());
    }

    #[test]
    fn loras_are_found_in_folders_of_the_folder() {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("style/old")).unwrap();
        fs::create_dir_all(at(".hidden")).unwrap();
        for name in ["style/ink.v2.safetensors", "style/old/wash.pt", "top.safetensors", ".hidden/top.pt"] {
            fs::write(at(name), "").unwrap();
        }
        let find = |name: &str| find(name, Some(folder.path()));
        for (name, file) in [
            ("ink.v2", "style/ink.v2.safetensors"),
            ("ink.v2.safetensors", "style/ink.v2.safetensors"),
            ("style/ink.v2", "style/ink.v2.safetensors"),
            ("style\\ink.v2.safetensors", "style/ink.v2.safetensors"),
            ("wash", "style/old/wash.pt"),
            ("style/old/wash", "style/old/wash.pt"),
            ("top", "top.safetensors"),
        ] {
            assert_eq!(find(name).unwrap(), at(file), "{name}");
        }
        for name in ["old/wash", "style/top", "ink", ".hidden/top"] {
            assert!(find(name).is_err(), "{name}");
        }
        // Within a folder, one format is preferred; in different folders the name is ambiguous.
        fs::write(at("top.pt"), "").unwrap();
        assert_eq!(find("top").unwrap(), at("top.safetensors"));
        fs::write(at("style/old/top.safetensors"), "").unwrap();
        let error = find("top").unwrap_err().to_string();
        for file in ["top.safetensors", "style/old/top.safetensors"] {
            assert!(error.contains(&format!("`{}`", at(file).display())), "{error}");
        }
        assert_eq!(find("./top").unwrap(), at("top.safetensors"));
        assert_eq!(find("style/old/top").unwrap(), at("style/old/top.safetensors"));
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_that_is_linked_twice_is_searched_once() {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("style/old")).unwrap();
        fs::write(at("style/ink.pt"), "").unwrap();
        for (link, target) in
            [("again", "style"), ("style/up", ".."), ("style/old/up", "../.."), ("here", ".")]
        {
            std::os::unix::fs::symlink(target, at(link)).unwrap();
        }
        let found = find("ink", Some(folder.path())).unwrap();
        assert_eq!(fs::canonicalize(found).unwrap(), fs::canonicalize(at("style/ink.pt")).unwrap());
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
