//! PNG: texts are stored in chunks of their own, before the pixels.

use std::io::{self, Read as _};

use super::PictureProblem;
use crate::names::quote;

/// Maximum size of a picture's texts in memory, compressed and not.
const MAX_TEXT_LEN: usize = 16 * 1024 * 1024;

impl From<png::EncodingError> for PictureProblem {
    fn from(error: png::EncodingError) -> PictureProblem {
        match error {
            png::EncodingError::IoError(error) => PictureProblem::Io(error),
            other => PictureProblem::Io(io::Error::other(other.to_string())),
        }
    }
}

impl From<png::DecodingError> for PictureProblem {
    fn from(error: png::DecodingError) -> PictureProblem {
        match error {
            png::DecodingError::IoError(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                PictureProblem::Io(error)
            }
            other => PictureProblem::Decode(quote(&other.to_string())),
        }
    }
}

/// Writes `pixels [height, width, 3]` and `texts`: keywords of 1 to 79 Latin-1 characters with texts of any
/// characters except zero. Texts in Latin-1 are stored as `tEXt`, as most tools expect, the others as `iTXt`.
pub(super) fn write(
    file: &mut impl io::Write,
    (columns, rows): (u32, u32),
    pixels: &[u8],
    texts: &[(&str, &str)],
) -> Result<(), PictureProblem> {
    let mut encoder = png::Encoder::new(file, columns, rows);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_source_srgb(png::SrgbRenderingIntent::Perceptual);
    let is_latin1 = |text: &str| text.chars().all(|c| c <= '\u{ff}');
    for &(keyword, text) in texts {
        let keyword_len = keyword.chars().count();
        if !(1..80).contains(&keyword_len)
            || !is_latin1(keyword)
            || keyword.contains('\0')
            || text.contains('\0')
        {
            return Err(PictureProblem::Text(quote(keyword)));
        }
        if is_latin1(text) {
            encoder.add_text_chunk(keyword.to_owned(), text.to_owned())?;
        } else {
            encoder.add_itxt_chunk(keyword.to_owned(), text.to_owned())?;
        }
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(())
}

const SIGNATURE: [u8; 8] = *b"\x89PNG\r\n\x1a\n";
/// The header chunk of a picture of one pixel.
const ONE_PIXEL: [u8; 25] = *b"\0\0\0\x0dIHDR\0\0\0\x01\0\0\0\x01\x08\x02\0\0\0\x90\x77\x53\xde";
/// An empty chunk of pixels.
const NO_DATA: [u8; 12] = *b"\0\0\0\0IDAT\x35\xaf\x06\x1e";

/// The texts before and after the pixels, then those of an Exif chunk: keywords and contents. The pixels are not
/// read.
pub(super) fn texts_of(
    picture: impl io::BufRead + io::Seek,
) -> Result<Vec<(String, String)>, PictureProblem> {
    let (chunks, exif) = text_chunks(picture)?;
    let mut texts = texts_before_the_pixels(io::Cursor::new(chunks))?;
    texts.extend(super::exif::texts(&exif));
    Ok(texts)
}

/// Returns a PNG file of one pixel with the text chunks of `picture`, for the decoder, and the contents of its Exif
/// chunk.
fn text_chunks(mut picture: impl io::BufRead + io::Seek) -> Result<(Vec<u8>, Vec<u8>), PictureProblem> {
    let mut gathered = [&SIGNATURE[..], &ONE_PIXEL].concat();
    let mut exif = Vec::new();
    let mut signature = [0; 8];
    picture.read_exact(&mut signature)?;
    if signature != SIGNATURE {
        return Err(PictureProblem::Decode("the PNG signature is missing".into()));
    }
    let mut has_pixels = false;
    let mut head = [0; 8];
    while read_head(&mut picture, &mut head)? {
        let (len, kind) = head.split_at(4);
        // A checksum follows.
        let rest = u64::from(u32::from_be_bytes(len.try_into().unwrap_or_default())) + 4;
        match kind {
            b"tEXt" | b"zTXt" | b"iTXt" | b"eXIf" => {
                if (gathered.len() + exif.len()) as u64 + rest > MAX_TEXT_LEN as u64 {
                    return Err(texts_too_long());
                }
                let mut contents = Vec::new();
                (&mut picture).take(rest).read_to_end(&mut contents)?;
                if contents.len() as u64 != rest {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                match kind {
                    b"eXIf" => exif = contents[..contents.len() - 4].to_vec(),
                    _ => gathered.extend([&head[..], &contents].concat()),
                }
            }
            b"IEND" => break,
            kind => {
                has_pixels |= kind == b"IDAT";
                picture.seek(io::SeekFrom::Current(rest as i64))?;
            }
        }
    }
    if !has_pixels {
        return Err(PictureProblem::Decode("the picture has no pixels".into()));
    }
    gathered.extend(NO_DATA);
    Ok((gathered, exif))
}

fn texts_too_long() -> PictureProblem {
    PictureProblem::Decode(format!("the texts take more than {} MiB", MAX_TEXT_LEN >> 20))
}

/// The library's error for a text beyond the limit is not to be told from others, and speaks of a limit that nobody can
/// set.
fn not_decompressed() -> PictureProblem {
    let mib = MAX_TEXT_LEN >> 20;
    PictureProblem::Decode(format!("a compressed text is damaged, or the texts take more than {mib} MiB"))
}

/// Reads the length and the kind of the next chunk; returns false at the end of the file.
fn read_head(picture: &mut impl io::Read, head: &mut [u8; 8]) -> io::Result<bool> {
    match picture.read_exact(head) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn texts_before_the_pixels(
    picture: impl io::BufRead + io::Seek,
) -> Result<Vec<(String, String)>, PictureProblem> {
    let decoder = png::Decoder::new_with_limits(picture, png::Limits { bytes: MAX_TEXT_LEN });
    let reader = decoder.read_info()?;
    let info = reader.info();
    let mut texts: Vec<(String, String)> = Vec::new();
    let mut left = MAX_TEXT_LEN;
    let mut keep = |keyword: &str, text: String| {
        left = left.checked_sub(text.len()).ok_or_else(texts_too_long)?;
        texts.push((keyword.to_owned(), text));
        Ok::<usize, PictureProblem>(left)
    };
    let mut limit = MAX_TEXT_LEN;
    for chunk in &info.uncompressed_latin1_text {
        limit = keep(&chunk.keyword, chunk.text.clone())?;
    }
    for chunk in &info.compressed_latin1_text {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(limit).map_err(|_| not_decompressed())?;
        limit = keep(&chunk.keyword, chunk.get_text()?)?;
    }
    for chunk in &info.utf8_text {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(limit).map_err(|_| not_decompressed())?;
        limit = keep(&chunk.keyword, chunk.get_text()?)?;
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_text_cannot_fill_the_memory() {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 1, 1);
        encoder.set_color(png::ColorType::Rgb);
        encoder.add_ztxt_chunk("bomb".into(), "a".repeat(MAX_TEXT_LEN + 1)).unwrap();
        encoder.write_header().unwrap().write_image_data(&[0; 3]).unwrap();
        assert!(file.len() < 1 << 20);
        let error = texts_of(io::Cursor::new(&file)).unwrap_err().to_string();
        assert!(error.contains("more than 16 MiB"), "{error}");
    }

    fn chunk(kind: &[u8; 4], contents: &[u8]) -> Vec<u8> {
        let mut crc = !0_u32;
        for byte in kind.iter().chain(contents) {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            }
        }
        [&(contents.len() as u32).to_be_bytes()[..], kind, contents, &(!crc).to_be_bytes()].concat()
    }

    /// Some programs write texts after the pixels, or Exif into its own chunk.
    #[test]
    fn texts_are_found_wherever_they_are() {
        let mut file = Vec::new();
        write(&mut file, (1, 1), &[0; 3], &[("first", "1")]).unwrap();
        let end = file.len() - 12;
        let exif = super::super::exif::write(Some(r#"{"a": 1}"#), Some("a cat, 狐")).unwrap();
        let late = [
            chunk(b"tEXt", b"late\0caf\xe9"),
            chunk(b"iTXt", "more\0\0\0\0\0狐".as_bytes()),
            chunk(b"eXIf", &exif),
        ];
        let file = [&file[..end], &late.concat(), &file[end..]].concat();
        let text = |keyword: &str, text: &str| (keyword.to_owned(), text.to_owned());
        let expected = [
            text("first", "1"),
            text("late", "café"),
            text("more", "狐"),
            text(super::super::RECIPE, r#"{"a": 1}"#),
            text(super::super::PARAMETERS, "a cat, 狐"),
        ];
        assert_eq!(texts_of(io::Cursor::new(&file)).unwrap(), expected);
        // A truncated file yields the texts before the cut, or an error.
        for len in 0..file.len() {
            if let Ok(texts) = texts_of(io::Cursor::new(&file[..len])) {
                assert_eq!(texts, expected[..texts.len()], "{len}");
            }
        }
    }
}
