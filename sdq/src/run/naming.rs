//! Names of output files: which are free, and which files may be replaced.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use sdq_formats::{safetensors::SafetensorsFile, sniff::FileKind};

use super::{LATENTS, RunFiles};
use crate::Error;

/// Returns `output`, or the first of its numbered names (`sdq-2.png`, `sdq-3.png` and so on) with which a run of `count`
/// pictures replaces no file.
///
/// # Errors
/// [`Error::Option`] when `output` does not end in the extension of a picture.
pub fn free_output(output: &Path, count: usize) -> Result<PathBuf, Error> {
    let is_free = |output: &Path| -> Result<bool, Error> {
        let files = RunFiles { output: output.to_path_buf(), ..RunFiles::default() };
        let saved_run = files.saved_run();
        let exists = |path: &PathBuf| fs::symlink_metadata(path).is_ok();
        Ok(!files.pictures(count)?.iter().chain([&saved_run]).any(exists))
    };
    let mut candidate = output.to_path_buf();
    let mut number = 2_u64;
    while !is_free(&candidate)? {
        candidate = numbered(output, number);
        number += 1;
    }
    Ok(candidate)
}

/// `path` with `number` before its extension.
pub fn numbered(path: &Path, number: impl std::fmt::Display) -> PathBuf {
    let mut name: OsString = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{number}."));
    name.push(path.extension().unwrap_or_default());
    path.with_file_name(name)
}

/// Checks that each of `pictures` may be replaced: that there is no file, an empty file, or a picture; and so for `latents`, a
/// file of latents.
///
/// # Errors
/// [`Error::Option`] when a file with other contents is there.
pub fn check_replaced(pictures: &[PathBuf], latents: Option<&Path>) -> Result<(), Error> {
    let kinds = [FileKind::Png, FileKind::Jpeg, FileKind::WebP];
    pictures.iter().try_for_each(|path| check_kind("output", path, &kinds, "a picture"))?;
    match latents {
        Some(path) if !is_latents(path) => check_kind("save-latents", path, &[], "a file of latents"),
        _ => Ok(()),
    }
}

/// Whether a file is at `path` as a run writes it with its latents. Other safetensors files may be models.
fn is_latents(path: &Path) -> bool {
    SafetensorsFile::open(path).is_ok_and(|file| file.tensors().all(|tensor| tensor.name == LATENTS))
}

/// Checks that a file of one of `kinds`, which `expected` names, an empty one or none is at the path that `option` gives.
pub(crate) fn check_kind(
    option: &'static str,
    path: &Path,
    kinds: &[FileKind],
    expected: &str,
) -> Result<(), Error> {
    match FileKind::of_file(path) {
        Ok(kind) if kind != FileKind::Empty && !kinds.contains(&kind) => {
            let problem = format!("`{}` exists and is not {expected}; --force replaces it", path.display());
            Err(Error::Option { option, problem })
        }
        // Other problems are reported when the file is written.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use sdq_formats::{dtype::DType, safetensors, tensor::TensorView};

    use super::*;

    #[test]
    fn a_free_name_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let free = |count| free_output(&at("sdq.png"), count).unwrap();
        assert_eq!((free(1), free(2)), (at("sdq.png"), at("sdq.png")));
        fs::write(at("sdq.png"), "").unwrap();
        assert_eq!((free(1), free(2)), (at("sdq-2.png"), at("sdq.png")));
        fs::write(at("sdq-2.png"), "").unwrap();
        assert_eq!((free(1), free(2)), (at("sdq-3.png"), at("sdq-2.png")));
        // An unfinished run is not replaced either, nor one picture of several.
        fs::write(at("sdq-3.png.sdq-run"), "").unwrap();
        fs::write(at("sdq-2-1.png"), "").unwrap();
        assert_eq!(free(1), at("sdq-4.png"));
        assert_eq!(free(2), at("sdq-4.png"));
        assert!(free_output(&at("sdq.gif"), 1).is_err());
    }

    #[test]
    fn only_pictures_are_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for (name, contents) in [
            ("picture.png", &b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"[..]),
            ("picture.jpg", b"\xff\xd8\xff\xe0"),
            ("empty.png", b""),
            ("letter.png", b"a letter"),
            ("model.png", b"PK\x03\x04"),
        ] {
            fs::write(at(name), contents).unwrap();
        }
        check_replaced(&["none.png", "picture.png", "picture.jpg", "empty.png"].map(at), None).unwrap();
        for (name, tensor) in [("latents", LATENTS), ("lora", "lora_unet.alpha")] {
            let tensor =
                TensorView { name: tensor.to_owned(), dtype: DType::F32, shape: vec![1], bytes: &[0; 4] };
            safetensors::write(at(name), &[tensor], &[]).unwrap();
        }
        for (name, is_replaced) in [
            ("empty.png", true),
            ("none.png", true),
            ("latents", true),
            ("lora", false),
            ("picture.png", false),
            ("letter.png", false),
        ] {
            assert_eq!(check_replaced(&[], Some(&at(name))).is_ok(), is_replaced, "{name}");
        }
        for name in ["letter.png", "model.png"] {
            let error = check_replaced(&[at("picture.png"), at(name)], None).unwrap_err();
            assert_eq!(error.code(), "option.invalid");
            assert!(error.to_string().contains(name) && error.to_string().contains("--force"), "{error}");
        }
    }
}
