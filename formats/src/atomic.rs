//! Files that are written completely or not at all: written to a temporary file in the destination's folder,
//! which is renamed at the end.

use std::fs::{self, File, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::links;

/// Prefix and suffix of the names of temporary files.
const AFFIXES: (&str, &str) = (".sdq-", ".part");

/// A file under construction. Dropping it without [`AtomicFile::commit`] removes it. The file of a process
/// that was killed is removed when another file is started in the same folder.
#[derive(Debug)]
pub struct AtomicFile {
    temporary: NamedTempFile,
    destination: PathBuf,
    /// Those of the file that is replaced, which the new one keeps.
    permissions: Option<fs::Permissions>,
}

impl AtomicFile {
    /// Starts a file that will become `path`. Its content is written to a hidden temporary file in the same
    /// folder, so the final rename never crosses a file system.
    ///
    /// If `path` is a symbolic link, the link is kept and its target is replaced.
    ///
    /// # Errors
    /// When the folder does not exist or cannot be written, the name is too long, or `path` exists and is not
    /// a regular file: renaming over `/dev/null` would replace the device.
    pub fn create(path: &Path) -> io::Result<AtomicFile> {
        let found = fs::metadata(path);
        let permissions = found.as_ref().ok().map(fs::Metadata::permissions);
        let destination = match found {
            Ok(found) if !found.is_file() => return Err(links::not_a_file(&found)),
            Ok(_) => fs::canonicalize(path)?,
            // The content could be written, but the rename would fail.
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => {
                return Err(io::Error::new(error.kind(), "the file name is too long"));
            }
            Err(_) => path.to_path_buf(),
        };
        let folder = match destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !folder.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the folder does not exist"));
        }
        remove_abandoned(folder);
        // Only the kind of the error: the full message would name the temporary file, which the caller does
        // not know.
        let temporary = create_locked(folder).map_err(|error| io::Error::from(error.kind()))?;
        Ok(AtomicFile { temporary, destination, permissions })
    }

    /// Flushes the content to the disk and gives the file its name, replacing what had it; its permissions are kept.
    ///
    /// # Errors
    /// When the disk is full or the rename is refused; the temporary file is removed then.
    pub fn commit(self) -> io::Result<()> {
        if let Some(permissions) = self.permissions {
            self.temporary.as_file().set_permissions(permissions)?;
        }
        self.temporary.as_file().sync_all()?;
        self.temporary.persist(&self.destination).map(|_file: File| ()).map_err(|failed| failed.error)
    }
}

/// A new temporary file, locked as long as it is open, which shows that its writer is alive.
fn create_locked(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(AFFIXES.0).suffix(AFFIXES.1);
    #[cfg(unix)]
    {
        // The umask still applies; without this the file would keep the 0600 of a secret temporary.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    loop {
        let temporary = builder.tempfile_in(folder)?;
        match temporary.as_file().try_lock() {
            // Between creation and lock another process may have removed it as abandoned.
            Err(TryLockError::WouldBlock) => {}
            Ok(()) if !temporary.path().exists() => {}
            // Some file systems have no locks. Then no process can take it for abandoned either.
            Ok(()) | Err(TryLockError::Error(_)) => return Ok(temporary),
        }
    }
}

/// Removes temporary files whose writers have ended. Errors are ignored, because such files do no harm.
fn remove_abandoned(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(AFFIXES.0) && name.ends_with(AFFIXES.1));
        if ours
            && entry.file_type().is_ok_and(|kind| kind.is_file())
            && let Ok(file) = File::options().write(true).open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl Write for AtomicFile {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.temporary.as_file_mut().write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.temporary.as_file_mut().flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.temporary.as_file_mut().seek(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(folder: &Path) -> Vec<String> {
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn commit_replaces_and_drop_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "old").unwrap();

        let mut dropped = AtomicFile::create(&path).unwrap();
        dropped.write_all(b"half").unwrap();
        drop(dropped);
        assert_eq!(fs::read(&path).unwrap(), b"old");

        let mut kept = AtomicFile::create(&path).unwrap();
        kept.write_all(b"new").unwrap();
        kept.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(entries(folder.path()), ["a"]);
    }

    #[test]
    fn removes_what_a_killed_writer_left_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let living = AtomicFile::create(&folder.path().join("a")).unwrap();
        let name = living.temporary.path().file_name().unwrap().to_str().unwrap().to_owned();
        // These are not locked, like any file whose process has ended.
        for left in [".sdq-abc123.part", "other.part", ".sdq-notes"] {
            fs::write(folder.path().join(left), "half").unwrap();
        }
        fs::create_dir(folder.path().join(".sdq-folder.part")).unwrap();
        let mut second = AtomicFile::create(&folder.path().join("b")).unwrap();
        second.write_all(b"new").unwrap();
        second.commit().unwrap();
        let mut found = entries(folder.path());
        found.sort();
        let mut expected = [&name, ".sdq-folder.part", ".sdq-notes", "b", "other.part"];
        expected.sort_unstable();
        assert_eq!(found, expected);
        living.commit().unwrap();
        assert!(folder.path().join("a").exists());
    }

    #[test]
    fn refuses_what_is_not_a_regular_file_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let error = AtomicFile::create(folder.path()).unwrap_err();
        assert_eq!(error.to_string(), "the path is a directory, expected a file");
        let error = AtomicFile::create(&folder.path().join("absent/a")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(error.to_string(), "the folder does not exist");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_is_replaced_keeps_its_mode() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("a"), folder.path().join("link"));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for mode in [0o600, 0o640, 0o664, 0o755] {
            for name in [&path, &link] {
                fs::write(&path, "old").unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                let mut file = AtomicFile::create(name).unwrap();
                file.write_all(b"new").unwrap();
                file.commit().unwrap();
                let found = fs::metadata(&path).unwrap().permissions().mode();
                assert_eq!((fs::read(&path).unwrap(), found & 0o7777), (b"new".to_vec(), mode));
            }
        }
    }

    #[cfg(unix)]
    #[test]
    fn is_readable_by_others_and_keeps_symbolic_links() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let (target, link) = (folder.path().join("target"), folder.path().join("link"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let mut file = AtomicFile::create(&link).unwrap();
        file.write_all(b"new").unwrap();
        file.commit().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&target).unwrap(), b"new");
        // 0644 under the usual umask; a stricter one may take more away, but never the owner's read and write.
        let plain = folder.path().join("plain");
        fs::write(&plain, "").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&target), mode(&plain));
    }
}
