//! PNG: texts are stored in chunks of their own, before the pixels.

use std::io;

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

/// The texts before the pixels: keywords and contents. The pixels are not read.
pub(super) fn texts_of(
    picture: impl io::BufRead + io::Seek,
) -> Result<Vec<(String, String)>, PictureProblem> {
    let decoder = png::Decoder::new_with_limits(picture, png::Limits { bytes: MAX_TEXT_LEN });
    let reader = decoder.read_info()?;
    let info = reader.info();
    let mut texts: Vec<(String, String)> = Vec::new();
    let mut left = MAX_TEXT_LEN;
    let mut keep = |keyword: &str, text: String| {
        left = left
            .checked_sub(text.len())
            .ok_or_else(|| PictureProblem::Decode("its texts are too long".into()))?;
        texts.push((keyword.to_owned(), text));
        Ok::<usize, PictureProblem>(left)
    };
    let mut limit = MAX_TEXT_LEN;
    for chunk in &info.uncompressed_latin1_text {
        limit = keep(&chunk.keyword, chunk.text.clone())?;
    }
    for chunk in &info.compressed_latin1_text {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(limit)?;
        limit = keep(&chunk.keyword, chunk.get_text()?)?;
    }
    for chunk in &info.utf8_text {
        let mut chunk = chunk.clone();
        chunk.decompress_text_with_limit(limit)?;
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
        assert!(matches!(texts_of(io::Cursor::new(&file)), Err(PictureProblem::Decode(_))));
    }
}
