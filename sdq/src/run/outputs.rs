//! Which places a run may write to: never a file that it reads, and never a file of another kind at a place that it chose
//! itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sdq_engine::SavedRun;
use sdq_formats::picture;

use crate::Error;

/// A file and its part in a run, such as `the start picture`.
pub(crate) type Part<'a> = (&'a str, &'a Path);

/// A file that a run writes beside its output, at a place that its user did not name. Only a file of the same kind is
/// replaced or removed there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SideFile {
    /// The unfinished run.
    SavedRun,
    /// A picture while it is drawn.
    Preview,
}

impl SideFile {
    /// Fails where something is at `path` that is not such a file.
    ///
    /// # Errors
    /// When `path` must not be replaced or removed.
    pub fn check(self, path: &Path) -> io::Result<()> {
        // A link to nowhere is not ours either.
        if fs::symlink_metadata(path).is_err() || self.is_at(path) {
            return Ok(());
        }
        let problem = "another file exists at this path";
        Err(io::Error::new(io::ErrorKind::AlreadyExists, problem))
    }

    /// Removes the file at `path` if it is of this kind. The run does not depend on it.
    pub fn remove(self, path: &Path) {
        if self.is_at(path) {
            let _ = fs::remove_file(path);
        }
    }

    /// Whether such a file is at `path`.
    pub fn is_at(self, path: &Path) -> bool {
        match self {
            SideFile::SavedRun => SavedRun::is_at(path),
            SideFile::Preview => picture::read_texts(path)
                .is_ok_and(|texts| texts.iter().any(|(keyword, _)| keyword == picture::PREVIEW)),
        }
    }
}

/// Fails where a run, or any other job, would write over a file that it reads, or twice to one place. Links and other
/// spellings of a path are followed.
///
/// # Errors
/// [`Error::Option`] for the option `output`, naming the file and what it is.
pub(crate) fn check_distinct(written: &[Part<'_>], read: &[Part<'_>]) -> Result<(), Error> {
    let lost = |what: &str, path: &Path, other: &str| Error::Option {
        option: "output",
        problem: format!("`{}` is both {what} and {other}; choose another name", path.display()),
    };
    let read: Vec<(&str, Place)> = read.iter().map(|(what, path)| (*what, Place::of(path))).collect();
    let mut taken: Vec<(&str, Place)> = Vec::with_capacity(written.len());
    for (what, path) in written {
        let place = Place::of(path);
        if let Some((other, _)) = read.iter().chain(&taken).find(|(_, other)| other.is(&place)) {
            return Err(lost(what, path, other));
        }
        taken.push((what, place));
    }
    Ok(())
}

/// Where a path leads.
struct Place {
    /// Without links, as far as it exists.
    path: PathBuf,
    /// Device and number of the file on it.
    #[cfg(unix)]
    inode: Option<(u64, u64)>,
}

impl Place {
    fn of(path: &Path) -> Place {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let beside = || Some(fs::canonicalize(folder).ok()?.join(path.file_name()?));
        let resolved = fs::canonicalize(path).ok().or_else(beside).unwrap_or_else(|| path.to_path_buf());
        #[cfg(unix)]
        let inode = {
            use std::os::unix::fs::MetadataExt as _;
            fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
        };
        Place {
            path: resolved,
            #[cfg(unix)]
            inode,
        }
    }

    fn is(&self, other: &Place) -> bool {
        #[cfg(unix)]
        if self.inode.is_some() && self.inode == other.inode {
            return true;
        }
        self.path == other.path
    }
}

#[cfg(test)]
mod tests {
    use sdq_formats::picture::Picture;

    use super::*;

    fn refused(written: &[Part<'_>], read: &[Part<'_>]) -> Option<String> {
        check_distinct(written, read).err().map(|error| {
            assert_eq!(error.code(), "option.invalid");
            error.to_string()
        })
    }

    #[test]
    fn no_file_that_is_read_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("sub")).unwrap();
        fs::write(path("model.sdq"), "model").unwrap();
        let read = [("the model", &*path("model.sdq")), ("a LoRA", &*path("none.safetensors"))];
        for spelling in ["model.sdq", "sub/../model.sdq", "./model.sdq", "sub/../none.safetensors"] {
            let found = refused(&[("the picture", &path(spelling))], &read).expect(spelling);
            assert!(found.contains("and the model;") || found.contains("and a LoRA;"), "{found}");
        }
        assert_eq!(refused(&[("the picture", &path("model.png")), ("the latents", &path("x"))], &read), None);
        let twice = [("the picture", &*path("x.png")), ("the latents", &*path("sub/../x.png"))];
        assert!(refused(&twice, &[]).unwrap().contains("is both the latents and the picture;"));
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("model.sdq"), "model").unwrap();
        std::os::unix::fs::symlink("model.sdq", path("link.png")).unwrap();
        std::os::unix::fs::symlink("link.png", path("link-to-link.png")).unwrap();
        std::os::unix::fs::symlink(".", path("here")).unwrap();
        fs::hard_link(path("model.sdq"), path("hard.png")).unwrap();
        let read = [("the model", &*path("model.sdq"))];
        for link in ["link.png", "link-to-link.png", "hard.png", "here/model.sdq", "here/here/link.png"] {
            assert!(refused(&[("the picture", &path(link))], &read).is_some(), "{link}");
        }
        // The model may be named by a link as well.
        assert!(refused(&[("x", &path("model.sdq"))], &[("the model", &path("link.png"))]).is_some());
    }

    #[test]
    fn a_file_of_another_kind_stays_where_a_side_file_would_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let picture = Picture { width: 1, height: 1, rgb: vec![0; 3] };
        picture::write(path("preview.png"), &picture, &[(picture::PREVIEW, "1")]).unwrap();
        picture::write(path("picture.png"), &picture, &[(picture::RECIPE, "{}")]).unwrap();
        fs::write(path("text"), "a letter").unwrap();
        fs::create_dir(path("folder")).unwrap();
        SideFile::Preview.check(&path("preview.png")).unwrap();
        for kind in [SideFile::Preview, SideFile::SavedRun] {
            kind.check(&path("none")).unwrap();
            for name in ["picture.png", "text", "folder"] {
                let error = kind.check(&path(name)).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::AlreadyExists, "{name}");
                kind.remove(&path(name));
                assert!(path(name).exists(), "{name}");
            }
        }
        SideFile::SavedRun.remove(&path("preview.png"));
        assert!(path("preview.png").exists());
        SideFile::Preview.remove(&path("preview.png"));
        assert!(!path("preview.png").exists());
    }
}
