//! Pictures: 8-bit RGB in PNG, with texts that carry the recipe.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};

use crate::atomic::AtomicFile;
use crate::names::quote;

/// Keyword of the text that other tools read: the prompt and the settings, as AUTOMATIC1111's web UI writes them.
pub const PARAMETERS: &str = "parameters";

/// Keyword of our own text: the recipe as JSON.
pub const RECIPE: &str = "sdq";

/// What a picture's texts may take in memory, compressed and not.
const MAX_TEXT_LEN: usize = 16 * 1024 * 1024;

/// A picture that cannot be read or written: which, and why.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct PngError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: PngProblem,
}

/// What is wrong with a picture.
#[derive(Debug, thiserror::Error)]
pub enum PngProblem {
    /// The system refused to read or write.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The size is zero, or the pixels are more or fewer than it asks for.
    #[error("{found} bytes of pixels do not make a picture of {width}x{height}")]
    Size {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// Length of the pixels in bytes.
        found: usize,
    },
    /// A keyword of a text that PNG does not allow, or a text with a zero byte.
    #[error("text `{0}` cannot be stored in a picture")]
    Text(String),
    /// Not a PNG file, or a damaged one.
    #[error("not a readable PNG picture: {0}")]
    Decode(String),
}

impl From<png::EncodingError> for PngProblem {
    fn from(error: png::EncodingError) -> PngProblem {
        match error {
            png::EncodingError::IoError(error) => PngProblem::Io(error),
            other => PngProblem::Io(io::Error::other(other.to_string())),
        }
    }
}

impl From<png::DecodingError> for PngProblem {
    fn from(error: png::DecodingError) -> PngProblem {
        match error {
            png::DecodingError::IoError(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                PngProblem::Io(error)
            }
            other => PngProblem::Decode(quote(&other.to_string())),
        }
    }
}

/// Writes a picture: beside its destination first, then renamed.
///
/// `pixels` are rows from the top, `[height, width, 3]`, red, green, blue, 0 to 255 in sRGB. `texts` are keywords of 1
/// to 79 Latin-1 characters with their texts, which may hold any character but the zero; those within Latin-1 are
/// stored as `tEXt`, as most tools expect, the others as `iTXt`.
///
/// # Errors
/// When the pixels do not fit the size, a text cannot be stored, or the file cannot be written.
pub fn write(
    path: impl AsRef<Path>,
    width: usize,
    height: usize,
    pixels: &[u8],
    texts: &[(&str, &str)],
) -> Result<(), PngError> {
    let path = path.as_ref();
    try_write(path, width, height, pixels, texts)
        .map_err(|problem| PngError { path: path.to_path_buf(), problem })
}

fn try_write(
    path: &Path,
    width: usize,
    height: usize,
    pixels: &[u8],
    texts: &[(&str, &str)],
) -> Result<(), PngProblem> {
    let wrong_size = || PngProblem::Size { width, height, found: pixels.len() };
    let bytes = width.checked_mul(height).and_then(|count| count.checked_mul(3)).filter(|&count| count > 0);
    if bytes != Some(pixels.len()) {
        return Err(wrong_size());
    }
    let columns = u32::try_from(width).map_err(|_| wrong_size())?;
    let rows = u32::try_from(height).map_err(|_| wrong_size())?;

    let mut file = BufWriter::new(AtomicFile::create(path)?);
    let mut encoder = png::Encoder::new(&mut file, columns, rows);
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
            return Err(PngProblem::Text(quote(keyword)));
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
    file.into_inner().map_err(|failed| failed.into_error())?.commit()?;
    Ok(())
}

/// Reads the texts that stand before the pixels of the PNG file at `path`: keywords and contents. The pixels are not
/// read.
///
/// # Errors
/// When the file cannot be read, is not a PNG picture, or its texts would take more than 16 MiB.
pub fn read_texts(path: impl AsRef<Path>) -> Result<Vec<(String, String)>, PngError> {
    let path = path.as_ref();
    try_read_texts(path).map_err(|problem| PngError { path: path.to_path_buf(), problem })
}

fn try_read_texts(path: &Path) -> Result<Vec<(String, String)>, PngProblem> {
    // Before opening: opening a pipe would wait for a writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(PngProblem::Io(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    texts_of(BufReader::new(File::open(path)?))
}

fn texts_of(picture: impl io::BufRead + io::Seek) -> Result<Vec<(String, String)>, PngProblem> {
    let decoder = png::Decoder::new_with_limits(picture, png::Limits { bytes: MAX_TEXT_LEN });
    let reader = decoder.read_info()?;
    let info = reader.info();
    let mut texts: Vec<(String, String)> = Vec::new();
    let mut left = MAX_TEXT_LEN;
    let mut keep = |keyword: &str, text: String| {
        left = left
            .checked_sub(text.len())
            .ok_or_else(|| PngProblem::Decode("its texts are too long".into()))?;
        texts.push((keyword.to_owned(), text));
        Ok::<usize, PngProblem>(left)
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

    fn pixels(width: usize, height: usize) -> Vec<u8> {
        (0..width * height * 3).map(|i| (i * 7 % 256) as u8).collect()
    }

    #[test]
    fn pixels_and_texts_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let texts = [
            (PARAMETERS, "a café\nSteps: 20, Seed: 1"),
            (RECIPE, "{\"prompt\":\"un café ☕\"}"),
            ("empty", ""),
        ];
        write(&path, 5, 3, &pixels(5, 3), &texts).unwrap();
        let mut found = read_texts(&path).unwrap();
        found.sort();
        let mut expected = texts.map(|(keyword, text)| (keyword.to_owned(), text.to_owned()));
        expected.sort();
        assert_eq!(found, expected);

        let file = std::fs::read(&path).unwrap();
        // `parameters` fits Latin-1 and stays where other tools look for it.
        assert!(file.windows(14).any(|w| w == b"tEXtparameters") && file.windows(7).any(|w| w == b"iTXtsdq"));
        let mut reader = png::Decoder::new(io::Cursor::new(&file)).read_info().unwrap();
        let mut decoded = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut decoded).unwrap();
        assert_eq!((info.width, info.height, info.color_type), (5, 3, png::ColorType::Rgb));
        assert_eq!(decoded, pixels(5, 3));
    }

    #[test]
    fn refuses_pixels_that_do_not_fit_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        for (width, height, len) in [(5, 3, 44), (0, 3, 0), (usize::MAX, 2, 6), (1 << 40, 1, 3)] {
            let error = write(&path, width, height, &vec![0; len], &[]).unwrap_err();
            assert!(matches!(error.problem, PngProblem::Size { .. }), "{error}");
        }
        let long = "k".repeat(80);
        for (keyword, text) in [("", "x"), (long.as_str(), "x"), ("k", "a\0b"), ("☕", "x")] {
            let error = write(&path, 1, 1, &[0; 3], &[(keyword, text)]).unwrap_err();
            assert!(matches!(error.problem, PngProblem::Text(_)), "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_compressed_text_cannot_fill_the_memory() {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 1, 1);
        encoder.set_color(png::ColorType::Rgb);
        encoder.add_ztxt_chunk("bomb".into(), "a".repeat(MAX_TEXT_LEN + 1)).unwrap();
        encoder.write_header().unwrap().write_image_data(&[0; 3]).unwrap();
        assert!(file.len() < 1 << 20);
        assert!(matches!(texts_of(io::Cursor::new(&file)), Err(PngProblem::Decode(_))));
    }

    #[test]
    fn broken_pictures_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        write(&path, 4, 4, &pixels(4, 4), &[("k", "ü☕")]).unwrap();
        let file = std::fs::read(&path).unwrap();
        for len in 0..file.len() {
            // Texts stand before the pixels, so a cut in the pixels may go unnoticed here; it must not panic.
            let _ = texts_of(io::Cursor::new(&file[..len]));
        }
        for (content, name) in [(&b"text"[..], "text"), (&file[..20], "cut")] {
            std::fs::write(&path, content).unwrap();
            assert!(matches!(read_texts(&path).unwrap_err().problem, PngProblem::Decode(_)), "{name}");
        }
        assert!(matches!(read_texts(folder.path()).unwrap_err().problem, PngProblem::Io(_)));
        assert!(matches!(read_texts(folder.path().join("b")).unwrap_err().problem, PngProblem::Io(_)));
    }
}
