//! Files of models: those of the command line, and those in a folder.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

/// The id of the built-in model.
pub(crate) const BUILT_IN: &str = "built-in";
/// Endings of files with published models.
const PUBLISHED: [&str; 5] = ["safetensors", "ckpt", "pt", "bin", "gguf"];
/// Most files of a folder that are listed.
const MAX_LISTED: usize = 10_000;

/// Where models are.
#[derive(Debug)]
pub(super) struct Folders {
    pub(super) files: Vec<PathBuf>,
    pub(super) folder: Option<PathBuf>,
}

/// A model that can be named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Its name in requests.
    pub(crate) id: String,
    /// Its file; `None` for the built-in model.
    pub(crate) path: Option<PathBuf>,
}

impl Listed {
    /// The name of its file.
    pub(crate) fn file_name(&self) -> Option<&str> {
        self.path.as_deref()?.file_name()?.to_str()
    }
}

/// A published model that can be converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Convertible {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

impl Folders {
    pub(super) fn list(&self) -> Vec<Listed> {
        let mut paths = self.files.clone();
        let in_folder = entries(self.folder.as_deref()).into_iter().filter(|path| {
            path.extension().is_some_and(|ending| ending == "sdq")
                && !self.files.contains(path)
                && path.is_file()
        });
        paths.extend(in_folder);
        let mut taken: BTreeMap<String, usize> = BTreeMap::from([(BUILT_IN.to_owned(), 1)]);
        let mut listed: Vec<Listed> = Vec::with_capacity(paths.len() + 1);
        for path in paths {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let number = taken.entry(stem.clone()).or_insert(0);
            *number += 1;
            let id = if *number == 1 { stem } else { format!("{stem}-{number}") };
            listed.push(Listed { id, path: Some(path) });
        }
        listed.push(Listed { id: BUILT_IN.to_owned(), path: None });
        listed
    }

    pub(super) fn convertible(&self) -> Vec<Convertible> {
        let describe = |path: PathBuf| {
            let name = path.file_name()?.to_str()?.to_owned();
            let ending = path.extension().and_then(OsStr::to_str).unwrap_or_default();
            let bytes = match path.is_dir() {
                true => path.join("model_index.json").is_file().then_some(0)?,
                false => PUBLISHED.contains(&ending).then(|| fs::metadata(&path).ok())??.len(),
            };
            Some(Convertible { name, path, bytes })
        };
        entries(self.folder.as_deref()).into_iter().filter_map(describe).collect()
    }
}

/// The entries of a folder in the order of their names, without hidden ones.
fn entries(folder: Option<&Path>) -> Vec<PathBuf> {
    let Some(folder) = folder else { return Vec::new() };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_shown =
        |path: &PathBuf| path.file_name().and_then(OsStr::to_str).is_some_and(|name| !name.starts_with('.'));
    let mut entries: Vec<PathBuf> = entries.filter(is_shown).take(MAX_LISTED).collect();
    entries.sort();
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stems_and_each_is_there_once() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.sdq", "a.sdq", "built-in.sdq", ".hidden.sdq", "x.safetensors", "text.txt"] {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        fs::create_dir_all(folder.path().join("diffusers")).unwrap();
        fs::write(folder.path().join("diffusers/model_index.json"), "{}").unwrap();
        let folders = Folders {
            files: vec!["/elsewhere/a.sdq".into(), folder.path().join("b.sdq")],
            folder: Some(folder.path().to_owned()),
        };
        let ids: Vec<String> = folders.list().into_iter().map(|listed| listed.id).collect();
        assert_eq!(ids, ["a", "b", "a-2", "built-in-2", BUILT_IN]);
        let convertible: Vec<(String, u64)> =
            folders.convertible().into_iter().map(|found| (found.name, found.bytes)).collect();
        assert_eq!(convertible, [("diffusers".to_owned(), 0), ("x.safetensors".to_owned(), 1)]);
    }
}
