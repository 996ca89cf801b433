//! Determines the kind of a file from its first bytes, so that an error can name the kind that was given.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Kinds of files that users pass to a reader of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// An empty file.
    Empty,
    /// An `.sdq` file.
    Sdq,
    /// The text that git-lfs stores instead of a large file.
    GitLfsPointer,
    /// A web page, mostly an error or login page saved under the model's name.
    Html,
    /// A zip archive: PyTorch's `.bin`, `.ckpt` and `.pt` since 1.6.
    Zip,
    /// A bare Python pickle: older `.bin` and `.ckpt`.
    Pickle,
    /// A GGUF file.
    Gguf,
    /// A PNG picture.
    Png,
    /// A JPEG picture.
    Jpeg,
    /// A WebP picture.
    WebP,
    /// A safetensors file.
    Safetensors,
    /// Anything else.
    Other,
}

impl FileKind {
    /// Number of bytes from the start of a file that [`FileKind::of`] uses.
    pub const LOOK: usize = 64;

    /// The kind of the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read or is not a regular file.
    pub fn of_file(path: &Path) -> io::Result<FileKind> {
        // Checked before opening: opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            let what = if metadata.is_dir() { "is a directory, not a file" } else { "is not a regular file" };
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let mut head = Vec::new();
        File::open(path)?.take(FileKind::LOOK as u64).read_to_end(&mut head)?;
        Ok(FileKind::of(&head))
    }

    /// The kind of file that starts with `bytes`.
    pub fn of(bytes: &[u8]) -> FileKind {
        let head = &bytes[..bytes.len().min(FileKind::LOOK)];
        let text = head.trim_ascii_start().to_ascii_lowercase();
        let starts = |prefix: &[u8]| head.starts_with(prefix);
        if head.is_empty() {
            FileKind::Empty
        } else if head.get(4..9) == Some(b"\0\0\0\0{") {
            // A header of less than 4 GiB, and its first character. Checked before the others: the length may
            // begin with any bytes; a header of 640 bytes begins like a pickle.
            FileKind::Safetensors
        } else if starts(&crate::sdq::MAGIC) {
            FileKind::Sdq
        } else if starts(b"version https://git-lfs") {
            FileKind::GitLfsPointer
        } else if text.starts_with(b"<!doctype html") || text.starts_with(b"<html") {
            FileKind::Html
        } else if starts(b"PK\x03\x04") {
            FileKind::Zip
        } else if starts(b"\x80\x02") || starts(b"\x80\x03") || starts(b"\x80\x04") {
            FileKind::Pickle
        } else if starts(b"GGUF") {
            FileKind::Gguf
        } else if starts(b"\x89PNG\r\n\x1a\n") {
            FileKind::Png
        } else if starts(b"\xff\xd8\xff") {
            FileKind::Jpeg
        } else if starts(b"RIFF") && head.get(8..12) == Some(b"WEBP") {
            FileKind::WebP
        } else {
            FileKind::Other
        }
    }
}

/// Completes "it is …", with advice where there is any.
impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileKind::Empty => "empty",
            FileKind::Sdq => "an .sdq file",
            FileKind::GitLfsPointer => "a git-lfs pointer: fetch the file itself with `git lfs pull`",
            FileKind::Html => "a web page: the download went wrong",
            FileKind::Zip => "a zip archive, as PyTorch's .bin and .ckpt are",
            FileKind::Pickle => "a Python pickle",
            FileKind::Gguf => "a GGUF file",
            FileKind::Png => "a PNG picture",
            FileKind::Jpeg => "a JPEG picture",
            FileKind::WebP => "a WebP picture",
            FileKind::Safetensors => "a safetensors file",
            FileKind::Other => "of no known kind",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_usual_mistakes_apart() {
        for (bytes, kind) in [
            (&b""[..], FileKind::Empty),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", FileKind::GitLfsPointer),
            (b"\n <!DOCTYPE HTML><html>", FileKind::Html),
            (b"<html lang=en>", FileKind::Html),
            (b"PK\x03\x04....", FileKind::Zip),
            (b"\x80\x02}q\x00", FileKind::Pickle),
            (b"GGUF\x03\0\0\0", FileKind::Gguf),
            (b"\x10\0\0\0\0\0\0\0{}", FileKind::Safetensors),
            (b"\x80\x02\0\0\0\0\0\0{\"w\"", FileKind::Safetensors),
            (b"\xff\xd8\xff\xe0", FileKind::Jpeg),
            (b"RIFF\0\0\0\0WEBPVP8L", FileKind::WebP),
            (b"RIFF\0\0\0\0WAVE", FileKind::Other),
            (b"{\"a\": 1}", FileKind::Other),
        ] {
            assert_eq!(FileKind::of(bytes), kind);
        }
    }
}
