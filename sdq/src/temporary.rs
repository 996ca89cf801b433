//! Folders for temporary files. What a killed process leaves is removed by the next one.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
};

use tempfile::TempDir;

use crate::Error;

/// How the names of these folders start.
const PREFIX: &str = "sdq-tmp-";
/// A file in each of them, locked as long as its process lives.
const LOCK: &str = "in-use";

/// A folder that is removed when it is dropped, or by the next process that makes one.
#[derive(Debug)]
pub struct TemporaryFolder {
    folder: TempDir,
    /// Dropped after the folder is removed, or with the process.
    _lock: File,
}

impl TemporaryFolder {
    /// A new folder among the system's temporary files.
    ///
    /// # Errors
    /// [`Error::TemporaryFolder`] when the system refuses it.
    pub fn new() -> Result<TemporaryFolder, Error> {
        TemporaryFolder::inside(&std::env::temp_dir()).map_err(Error::TemporaryFolder)
    }

    fn inside(parent: &Path) -> io::Result<TemporaryFolder> {
        remove_abandoned(parent);
        loop {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
            let path = folder.path().join(LOCK);
            let lock = File::create(&path)?;
            match lock.try_lock() {
                // Between creation and lock another process may have taken it for abandoned.
                Err(TryLockError::WouldBlock) => {}
                Ok(()) if !path.exists() => {}
                // Some file systems know no locks. Then nobody can take it for abandoned, either.
                Ok(()) | Err(TryLockError::Error(_)) => return Ok(TemporaryFolder { folder, _lock: lock }),
            }
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes folders whose processes are gone. What cannot be removed, as other people's folders, stays.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if ours
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(lock) = File::options().write(true).open(entry.path().join(LOCK))
            && lock.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_and_no_more() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().join(name);
        let living = TemporaryFolder::inside(parent.path()).unwrap();
        fs::write(living.path().join("model.sdq"), "weights").unwrap();
        // Nobody holds the lock of the first; the second is just being made; the third is somebody else's.
        for name in ["sdq-tmp-killed", "sdq-tmp-new", "sdq-notes"] {
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join("model.sdq"), "weights").unwrap();
        }
        for name in ["sdq-tmp-killed", "sdq-notes"] {
            fs::write(path(name).join(LOCK), "").unwrap();
        }
        let next = TemporaryFolder::inside(parent.path()).unwrap();
        assert!(living.path().join("model.sdq").exists() && next.path().exists());
        let found = ["sdq-tmp-killed", "sdq-tmp-new", "sdq-notes"].map(|name| path(name).exists());
        assert_eq!(found, [false, true, true]);
        let gone = next.path().to_owned();
        drop(next);
        assert!(!gone.exists());
    }
}
