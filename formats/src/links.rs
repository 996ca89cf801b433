//! Error messages for symbolic links to files that do not exist, such as an incomplete download leaves behind.

use std::fs::{self, Metadata};
use std::io;
use std::path::Path;

/// Like [`fs::metadata`], with an error that names the target of a broken link.
///
/// # Errors
/// When the system refuses.
pub fn metadata(path: &Path) -> io::Result<Metadata> {
    fs::metadata(path).map_err(|error| broken_link(path).unwrap_or(error))
}

/// The metadata of a regular file. Asked before a file is opened: opening a pipe would wait for a writer.
///
/// # Errors
/// As for [`metadata`], and when `path` is something else.
pub fn regular_file(path: &Path) -> io::Result<Metadata> {
    let metadata = metadata(path)?;
    if metadata.is_file() { Ok(metadata) } else { Err(not_a_file(&metadata)) }
}

/// The error for `metadata` that is not that of a regular file.
pub(crate) fn not_a_file(metadata: &Metadata) -> io::Error {
    let problem = match metadata.is_dir() {
        true => "the path is a directory, expected a file",
        false => "the path is not a regular file",
    };
    io::Error::new(io::ErrorKind::InvalidInput, problem)
}

/// Whether there is a file, folder or link at `path`; the link may be broken.
pub fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// The error for `path` if it, or a parent folder, is a broken link.
fn broken_link(path: &Path) -> Option<io::Error> {
    let link = path.ancestors().find(|part| is_there(part))?;
    // A link that leads to itself exists; the system says what is wrong with it.
    let is_broken = fs::metadata(link).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let target = fs::read_link(link).ok().filter(|_| is_broken)?;
    let subject = if link == path { "the path".to_owned() } else { format!("`{}`", link.display()) };
    let reason = format!("{subject} is a link to `{}`, which does not exist", target.display());
    Some(io::Error::new(io::ErrorKind::NotFound, reason))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_nothing_is_named_with_its_target() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink("../blobs/0123", at("model.safetensors")).unwrap();
        std::os::unix::fs::symlink("gone", at("unet")).unwrap();
        let message = |name: &str| metadata(&at(name)).unwrap_err().to_string();
        assert_eq!(
            message("model.safetensors"),
            "the path is a link to `../blobs/0123`, which does not exist"
        );
        let unet = at("unet").display().to_string();
        assert_eq!(
            message("unet/config.json"),
            format!("`{unet}` is a link to `gone`, which does not exist")
        );
        assert!(message("nothing").starts_with("No such file"), "{}", message("nothing"));
        std::os::unix::fs::symlink("loop", at("loop")).unwrap();
        assert!(message("loop").contains("symbolic links"), "{}", message("loop"));
        assert!(is_there(&at("unet")) && !is_there(&at("nothing")));
        assert!(metadata(folder.path()).is_ok());
    }
}
