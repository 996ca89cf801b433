//! Determines the kind of a file from its first bytes, so that an error can name the kind that was given.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::links;

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
    /// A JSON text: a config, or a server's error message saved under the model's name.
    Json,
    /// An XML text: mostly a server's error message.
    Xml,
    /// Any other text.
    Text,
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
    /// An archive or a compressed file, other than a zip.
    Archive,
    /// A program.
    Program,
    /// A file that begins with zeros: one that was made in its full size before it was downloaded.
    Zeros,
    /// Anything else.
    Other,
}

impl FileKind {
    /// Number of bytes from the start of a file that [`FileKind::of`] uses.
    pub const LOOK: usize = 64;

    /// The kind of the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, is not a regular file, or is a link to a file that does not exist.
    pub fn of_file(path: &Path) -> io::Result<FileKind> {
        links::regular_file(path)?;
        let mut head = Vec::new();
        File::open(path)?.take(FileKind::LOOK as u64).read_to_end(&mut head)?;
        Ok(FileKind::of(&head))
    }

    /// The kind of file that starts with `bytes`.
    pub fn of(bytes: &[u8]) -> FileKind {
        let head = &bytes[..bytes.len().min(FileKind::LOOK)];
        let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start().to_ascii_lowercase();
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
        } else if HTML.iter().any(|start| text.starts_with(start)) {
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
        } else if ARCHIVES.iter().any(|start| starts(start)) {
            FileKind::Archive
        } else if starts(b"\x7fELF") || starts(b"MZ") && !is_text(head) {
            FileKind::Program
        } else if head.len() == FileKind::LOOK && head.iter().all(|byte| *byte == 0) {
            FileKind::Zeros
        } else if starts(b"\xff\xfe") || starts(b"\xfe\xff") {
            // The mark of UTF-16.
            FileKind::Text
        } else if !is_text(head) {
            FileKind::Other
        } else if text.starts_with(b"{") || text.starts_with(b"[") {
            FileKind::Json
        } else if text.starts_with(b"<?xml") {
            FileKind::Xml
        } else {
            FileKind::Text
        }
    }

    /// Whether it is a text that may be a model's own: a config, a vocabulary, a licence.
    pub(crate) fn may_be_a_models_text(self) -> bool {
        matches!(self, FileKind::Json | FileKind::Text | FileKind::Other)
    }
}

/// What web pages begin with, in lower case.
const HTML: [&[u8]; 5] = [b"<!doctype html", b"<html", b"<head", b"<body", b"<!--"];

/// What archives and compressed files begin with: gzip, bzip2, xz, zstd, 7z, RAR.
const ARCHIVES: [&[u8]; 6] =
    [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07"];

/// Whether `head`, which may end inside of a character, is UTF-8 without control characters.
fn is_text(head: &[u8]) -> bool {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text.is_empty() && text.chars().all(|letter| !letter.is_control() || letter.is_ascii_whitespace())
}

/// Completes "expected …, found …", with advice where there is any.
impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileKind::Empty => "an empty file",
            FileKind::Sdq => "an .sdq file",
            FileKind::GitLfsPointer => "a git-lfs pointer; fetch the file itself with `git lfs pull`",
            FileKind::Html => "a web page; download the file again",
            FileKind::Json => "a JSON text; download the file again",
            FileKind::Xml => "an XML text; download the file again",
            FileKind::Text => "a text; download the file again",
            FileKind::Zip => "a zip archive, the format of PyTorch's .bin and .ckpt files",
            FileKind::Pickle => "a Python pickle",
            FileKind::Gguf => "a GGUF file",
            FileKind::Png => "a PNG picture",
            FileKind::Jpeg => "a JPEG picture",
            FileKind::WebP => "a WebP picture",
            FileKind::Safetensors => "a safetensors file",
            FileKind::Archive => "an archive; unpack it",
            FileKind::Program => "a program",
            FileKind::Zeros => "a file of zeros, as an unfinished download leaves it; download it again",
            FileKind::Other => "a file of an unknown kind",
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
            (b"{\"a\": 1}", FileKind::Json),
            (b"\xef\xbb\xbf[1]", FileKind::Json),
            (b"<?xml version='1.0'?><Error>", FileKind::Xml),
            (b"<!-- error --><p>", FileKind::Html),
            (b"Entry not found", FileKind::Text),
            // Cut inside of a character.
            (b"caf\xc3", FileKind::Text),
            (b"caf\xc3\0\0", FileKind::Other),
            (b"\0\x01", FileKind::Other),
            (&[0; 64], FileKind::Zeros),
            (&[0; 63], FileKind::Other),
            (b"\x1f\x8b\x08\0", FileKind::Archive),
            (b"7z\xbc\xaf\x27\x1c\0\x04", FileKind::Archive),
            (b"Rar!\x1a\x07\x01\0", FileKind::Archive),
            (b"\x7fELF\x02\x01", FileKind::Program),
            (b"MZ\x90\0\x03", FileKind::Program),
            (b"MZ is a text", FileKind::Text),
            (b"\xff\xfe{\0", FileKind::Text),
        ] {
            assert_eq!(FileKind::of(bytes), kind);
        }
    }
}
