//! Small text files that are read completely: configs, indexes, vocabularies.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::links;
use crate::sniff::FileKind;

/// Errors of reading a text file.
#[derive(Debug, thiserror::Error)]
pub enum TextFileError {
    /// The operating system could not read it.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is a folder or a device.
    #[error("the path is not a regular file")]
    NotAFile,
    /// It is longer than any such file.
    #[error("the file has more than {limit} bytes, too many for a text file")]
    TooLong {
        /// The limit.
        limit: u64,
    },
    /// It is of another kind, according to its first bytes.
    #[error("expected a text file, found {0}")]
    Kind(FileKind),
    /// It is not UTF-8.
    #[error("the file is not valid UTF-8 from byte {0} on")]
    Utf8(usize),
}

/// Reads the file at `path`.
///
/// # Errors
/// When it cannot be read, has more than `limit` bytes, or is not a text file in UTF-8.
pub fn read(path: &Path, limit: u64) -> Result<String, TextFileError> {
    // Checked before opening: opening a pipe would wait for a writer.
    if !links::metadata(path)?.is_file() {
        return Err(TextFileError::NotAFile);
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(TextFileError::TooLong { limit });
    }
    let kind = FileKind::of(&bytes);
    if !kind.may_be_a_models_text() {
        return Err(TextFileError::Kind(kind));
    }
    String::from_utf8(bytes).map_err(|error| TextFileError::Utf8(error.utf8_error().valid_up_to()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn reads_text_and_refuses_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let with = |content: &[u8]| {
            let path = folder.path().join("config.json");
            fs::write(&path, content).unwrap();
            read(&path, 100).map_err(|error| error.to_string())
        };
        assert_eq!(with(b"{}").unwrap(), "{}");
        assert_eq!(
            with(&[b' '; 101]).unwrap_err(),
            "the file has more than 100 bytes, too many for a text file"
        );
        assert_eq!(with(b"ab\xff").unwrap_err(), "the file is not valid UTF-8 from byte 2 on");
        assert!(with(b"version https://git-lfs.github.com/spec/v1").unwrap_err().contains("git-lfs pointer"));
        assert!(with(b"<!doctype html>").unwrap_err().contains("web page"));
        assert!(matches!(read(folder.path(), 100), Err(TextFileError::NotAFile)));
    }
}
