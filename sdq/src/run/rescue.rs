//! Finished files on disks that changed during a run: a picture that took an hour is not given up where it can be written.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use sdq_formats::{
    atomic::AtomicFile,
    picture::{PictureError, PictureProblem},
};

use super::SideFile;
use crate::Error;

/// Calls `write`, which writes the file at `path`. If the folder has vanished, it is made again, and returned. If the disk is
/// full, `saved_run` makes room; it comes back if that does not suffice.
///
/// # Errors
/// Those of `write`.
pub(super) fn write(
    path: &Path,
    saved_run: &Path,
    write: &dyn Fn() -> Result<(), Error>,
) -> Result<Option<PathBuf>, Error> {
    let Err(error) = write() else { return Ok(None) };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists());
    if let Some(folder) = folder
        && fs::create_dir_all(folder).is_ok()
    {
        return write().map(|()| Some(folder.to_path_buf()));
    }
    if !is_full(&error) || !SideFile::SavedRun.is_at(saved_run) {
        return Err(error);
    }
    let Ok(state) = fs::read(saved_run) else { return Err(error) };
    SideFile::SavedRun.remove(saved_run);
    write().map(|()| None).inspect_err(|_| {
        // Its space was free a moment ago.
        let _ = put_back(saved_run, &state);
    })
}

fn put_back(path: &Path, state: &[u8]) -> io::Result<()> {
    let mut file = AtomicFile::create(path)?;
    file.write_all(state)?;
    file.commit()
}

/// Whether a picture could not be written because there was no space left for it.
fn is_full(error: &Error) -> bool {
    let Error::Picture(PictureError { problem: PictureProblem::Io(error), .. }) = error else { return false };
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use sdq_formats::safetensors;

    use super::*;

    fn failed(kind: io::ErrorKind) -> Error {
        PictureError { path: "a.png".into(), problem: PictureProblem::Io(kind.into()) }.into()
    }

    #[test]
    fn a_folder_that_vanished_is_made_again() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b/c.png");
        let text = || fs::write(&path, "text").map_err(|error| failed(error.kind()));
        let made = write(&path, &root.path().join("none"), &text).unwrap();
        assert_eq!(made.as_deref(), path.parent());
        assert_eq!(fs::read(&path).unwrap(), b"text");
        assert_eq!(write(&path, &root.path().join("none"), &text).unwrap(), None);
        // Where there is a file in its place, the error is that of the file.
        fs::write(root.path().join("file"), "").unwrap();
        let path = root.path().join("file/c.png");
        let text = || fs::write(&path, "text").map_err(|error| failed(error.kind()));
        write(&path, &root.path().join("none"), &text).unwrap_err();
    }

    #[test]
    fn the_saved_run_makes_room_and_comes_back_where_that_does_not_help() {
        let root = tempfile::tempdir().unwrap();
        let (path, saved_run) = (root.path().join("a.png"), root.path().join("a.png.sdq-run"));
        let state = safetensors::to_bytes(&[], &[("sdq.run", "{}")]).unwrap();
        let tries = Cell::new(0);
        let fails_if = |fails: &dyn Fn() -> bool, kind| {
            tries.set(tries.get() + 1);
            if fails() { Err(failed(kind)) } else { Ok(()) }
        };
        let full = io::ErrorKind::StorageFull;
        for (kind, never, expected) in [
            (full, false, (2, true, false)),
            (full, true, (2, false, true)),
            (io::ErrorKind::PermissionDenied, false, (1, false, true)),
        ] {
            fs::write(&saved_run, &state).unwrap();
            tries.set(0);
            let is_ok = write(&path, &saved_run, &|| fails_if(&|| never || saved_run.exists(), kind)).is_ok();
            assert_eq!((tries.get(), is_ok, saved_run.exists()), expected, "{kind}");
        }
        assert_eq!(fs::read(&saved_run).unwrap(), state);
        // What is not ours stays.
        fs::write(&saved_run, "a letter").unwrap();
        write(&path, &saved_run, &|| fails_if(&|| true, full)).unwrap_err();
        assert_eq!(fs::read(&saved_run).unwrap(), b"a letter");
    }
}
