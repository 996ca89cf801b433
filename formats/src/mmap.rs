//! The bytes of a file, without copying them: memory-mapped, built into the program, or owned.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

use bytemuck::{Pod, Zeroable};
use memmap2::Mmap;

/// Alignment of every [`Bytes`] that this crate allocates or maps, and of every tensor in an `.sdq` file.
pub const ALIGNMENT: usize = 64;

/// Read-only bytes. Dereferences to `[u8]`.
#[derive(Debug)]
pub struct Bytes(Source);

#[derive(Debug)]
enum Source {
    Mapped(Mmap),
    Static(&'static [u8]),
    Owned { chunks: Vec<Chunk>, len: usize },
}

/// The unit in which owned bytes are allocated, so that they start at a multiple of [`ALIGNMENT`].
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(64))]
struct Chunk([u8; ALIGNMENT]);

impl Bytes {
    /// Maps the file at `path`. The kernel reads pages on first access and drops them when memory is short.
    ///
    /// The file must not change while it is mapped: if another process truncates it, reading the missing
    /// pages terminates this one (SIGBUS), as with every memory-mapped file. This workspace replaces files by
    /// renaming, which leaves existing maps intact.
    ///
    /// # Errors
    /// When the file is missing, unreadable or not a regular file.
    pub fn map(path: &Path) -> io::Result<Bytes> {
        crate::links::regular_file(path)?;
        let file = File::open(path)?;
        // Some systems refuse an empty map.
        let len = file.metadata()?.len();
        if len == 0 {
            return Ok(Bytes(Source::Static(&[])));
        }
        #[allow(unsafe_code, reason = "the one place where a file becomes memory")]
        // SAFETY: the map is read-only and reached only as `&[u8]`, for which every bit pattern is valid. What is
        // parsed out of it (headers, tables, texts) is copied before it is checked, so a concurrent change to the
        // file can spoil values but not invalidate a check.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| does_not_fit(error, len))?;
        Ok(Bytes(Source::Mapped(map)))
    }

    /// Bytes compiled into the program.
    pub fn from_static(bytes: &'static [u8]) -> Bytes {
        Bytes(Source::Static(bytes))
    }

    /// Whether they are compiled into the program.
    pub fn is_static(&self) -> bool {
        matches!(self.0, Source::Static(_))
    }

    /// A copy of `bytes` that starts at a multiple of [`ALIGNMENT`].
    pub fn copy_of(bytes: &[u8]) -> Bytes {
        let mut chunks = vec![Chunk::zeroed(); bytes.len().div_ceil(ALIGNMENT)];
        bytemuck::cast_slice_mut::<Chunk, u8>(&mut chunks)[..bytes.len()].copy_from_slice(bytes);
        Bytes(Source::Owned { chunks, len: bytes.len() })
    }
}

/// `error` of mapping a file of `len` bytes, in words where the address space is too small.
fn does_not_fit(error: io::Error, len: u64) -> io::Error {
    if error.kind() != io::ErrorKind::OutOfMemory {
        return error;
    }
    let problem = format!(
        "the file has {} MB, for which the address space has no room; raise the limit (`ulimit -v`)",
        len.div_ceil(1_000_000)
    );
    io::Error::new(io::ErrorKind::OutOfMemory, problem)
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Source::Mapped(map) => map,
            Source::Static(bytes) => bytes,
            Source::Owned { chunks, len } => &bytemuck::cast_slice(chunks)[..*len],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_a_file_and_outlives_its_replacement() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, b"first").unwrap();
        let bytes = Bytes::map(&path).unwrap();
        let other = folder.path().join("b");
        std::fs::write(&other, b"second").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(&*bytes, b"first");
    }

    #[test]
    fn empty_files_and_directories_do_not_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        assert!(Bytes::map(&path).unwrap().is_empty());
        assert!(Bytes::map(folder.path()).is_err());
    }

    #[test]
    fn copies_are_aligned_whatever_their_length() {
        for len in [0, 1, 63, 64, 65] {
            let source: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let bytes = Bytes::copy_of(&source);
            assert_eq!(&*bytes, source);
            assert_eq!(bytes.as_ptr().addr() % ALIGNMENT, 0);
        }
    }
}
