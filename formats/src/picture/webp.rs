//! WebP: a file of chunks. <https://developers.google.com/speed/webp/docs/riff_container>.

use std::io::{Read, Seek, SeekFrom};

use byteorder::{LittleEndian, ReadBytesExt as _};

use super::PictureProblem;

/// Bytes of the file's header, and of a chunk's: a name and a length.
const FILE_HEADER: u64 = 12;
const CHUNK_HEADER: u64 = 8;

/// Fails where a chunk is longer than the file: the decoder takes memory for a chunk before it reads it. The position in `file`
/// is its start before and after.
pub(super) fn check_chunks(mut file: impl Read + Seek) -> Result<(), PictureProblem> {
    let len = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(4))?;
    // What follows the length that the header gives is no chunk.
    let end = len.min(u64::from(file.read_u32::<LittleEndian>()?) + CHUNK_HEADER);
    let mut at = FILE_HEADER;
    while at + CHUNK_HEADER <= end {
        file.seek(SeekFrom::Start(at + 4))?;
        let size = u64::from(file.read_u32::<LittleEndian>()?);
        let chunk_end = at + CHUNK_HEADER + size;
        if chunk_end > len {
            let message = format!(
                "the file is truncated: a chunk extends to byte {chunk_end}, but there are only {len} bytes"
            );
            return Err(PictureProblem::Decode(message));
        }
        at = chunk_end + size % 2;
    }
    file.rewind()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn a_chunk_is_not_longer_than_the_file() {
        let file = |chunks: &[(u32, usize)], surplus: usize| {
            let mut bytes = b"RIFF\0\0\0\0WEBP".to_vec();
            for &(size, found) in chunks {
                bytes.extend(b"EXIF");
                bytes.extend(size.to_le_bytes());
                bytes.extend(vec![7; found]);
            }
            let len = bytes.len() as u32 - 8;
            bytes[4..8].copy_from_slice(&len.to_le_bytes());
            bytes.extend(vec![0xff; surplus]);
            check_chunks(Cursor::new(bytes))
        };
        // An odd length is padded; what follows the file's own length is not read.
        for (chunks, surplus) in
            [(&[(4, 4), (3, 4)][..], 0), (&[(0, 0), (3, 3)], 0), (&[(4, 4)], 100), (&[], 5)]
        {
            file(chunks, surplus).unwrap();
        }
        for chunks in [&[(u32::MAX, 4)][..], &[(4, 4), (5, 4)], &[(9, 8)]] {
            assert!(matches!(file(chunks, 0), Err(PictureProblem::Decode(_))), "{chunks:?}");
        }
        assert!(check_chunks(Cursor::new(b"RIFF")).is_err());
    }
}
