//! Pictures in files: 8-bit RGB as PNG, JPEG or lossless WebP, with texts that contain the recipe.

mod exif;
mod fill;
mod jpeg;
mod png;
mod transparency;
mod webp;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek as _, Write};
use std::path::{Path, PathBuf};

use image::codecs::{jpeg::JpegEncoder, webp::WebPEncoder};
use image::{
    DynamicImage, ExtendedColorType, ImageDecoder as _, ImageEncoder, ImageFormat, ImageReader,
    metadata::Orientation,
};

use crate::atomic::AtomicFile;
use crate::links;
use crate::names::quote;
use crate::sniff::FileKind;

/// Keyword of the text that other tools read: the prompt and the settings, in the format of AUTOMATIC1111's
/// web UI.
pub const PARAMETERS: &str = "parameters";

/// Keyword of our own text: the recipe as JSON.
pub const RECIPE: &str = "sdq";

/// Keyword of ComfyUI's text: the graph of the run, as JSON.
pub const GRAPH: &str = "prompt";

/// Keyword of the text that tells a preview, a picture while it is drawn, from pictures that a person may want to keep.
pub const PREVIEW: &str = "sdq-preview";

/// Longest side of a picture that is read, in pixels.
const MAX_SIDE: u32 = 32_768;

/// Most memory that what stands beside the pixels of a picture may take, in bytes.
const MAX_BESIDE_PIXELS: u64 = 16 << 20;

/// Most memory that reading a picture may take, in bytes.
pub const MAX_BYTES: u64 = 1 << 30;

/// JPEG quality, 1 to 100: differences become visible below 90.
const JPEG_QUALITY: u8 = 95;

/// An error of reading or writing a picture, with its path.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct PictureError {
    /// The file.
    pub path: PathBuf,
    /// The problem.
    pub problem: PictureProblem,
}

/// Problems of a picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureProblem {
    /// The operating system could not read or write the file.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file's name ends in none of the extensions of [`PictureFormat`].
    #[error("the file name does not end in .png, .jpg or .webp, the formats that sdq writes")]
    Extension,
    /// The size is zero, or the number of pixels does not match it.
    #[error("{found} bytes of pixels do not make a picture of {width}x{height}")]
    Size {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// Length of the pixels in bytes.
        found: usize,
    },
    /// Reading or scaling it takes more memory than there is for it.
    #[error(
        "a picture of {width}x{height} pixels takes {} MiB of memory, more than the {} MiB allowed; scale it down",
        needed.div_ceil(1 << 20), limit >> 20
    )]
    TooLarge {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Bytes that it takes.
        needed: u64,
        /// Bytes that it may take.
        limit: u64,
    },
    /// PNG does not allow this keyword, or the text contains a zero byte.
    #[error("the text `{0}` cannot be stored in a picture")]
    Text(String),
    /// A mask with transparent pixels whose other pixels are not white, or black and white.
    #[error(
        "the mask has both transparent pixels and others that are not white, so its meaning is not clear; save it without transparency, white where sdq draws and black where it keeps the picture"
    )]
    TwoMasks,
    /// A mask of which nothing can be seen.
    #[error(
        "all of the mask is transparent; save it without transparency, white where sdq draws and black where it keeps the picture"
    )]
    ClearMask,
    /// A picture without transparency where its transparency is the mask.
    #[error("it has no transparent pixels, which would be the part to draw")]
    Opaque,
    /// The file is not a picture.
    #[error("expected a PNG, JPEG or WebP picture, found {0}")]
    Kind(FileKind),
    /// The file is a picture in an unknown format, or is damaged.
    #[error("the picture cannot be decoded: {0}")]
    Decode(String),
}

impl From<image::ImageError> for PictureProblem {
    fn from(error: image::ImageError) -> PictureProblem {
        match error {
            image::ImageError::IoError(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                PictureProblem::Io(error)
            }
            other => PictureProblem::Decode(quote(&other.to_string())),
        }
    }
}

/// File formats of pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PictureFormat {
    /// Lossless, `.png`.
    Png,
    /// Lossy, `.jpg` or `.jpeg`.
    Jpeg,
    /// Always lossless, `.webp`.
    WebP,
}

impl PictureFormat {
    /// The format of files with the extension of `path`; `None` for unknown extensions.
    pub fn of_path(path: &Path) -> Option<PictureFormat> {
        match path.extension().and_then(OsStr::to_str)?.to_ascii_lowercase().as_str() {
            "png" => Some(PictureFormat::Png),
            "jpg" | "jpeg" => Some(PictureFormat::Jpeg),
            "webp" => Some(PictureFormat::WebP),
            _ => None,
        }
    }
}

/// An 8-bit RGB picture: rows from the top, `[height, width, 3]`, red, green, blue, 0 to 255 in sRGB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Width in pixels.
    pub width: usize,
    /// Height in pixels.
    pub height: usize,
    /// `width * height * 3` values.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// Luma, `[height, width]`: the integer form of ITU-R BT.601, as in Pillow's mode "L".
    pub fn luma(&self) -> Vec<u8> {
        self.rgb.chunks_exact(3).map(luma).collect()
    }

    /// Width and height, checked against the pixels.
    fn columns_and_rows(&self) -> Result<(u32, u32), PictureProblem> {
        let &Picture { width, height, ref rgb } = self;
        let bytes = width.checked_mul(height).and_then(|count| count.checked_mul(3));
        match (u32::try_from(width), u32::try_from(height)) {
            (Ok(columns), Ok(rows)) if bytes == Some(rgb.len()) && bytes != Some(0) => Ok((columns, rows)),
            _ => Err(PictureProblem::Size { width, height, found: rgb.len() }),
        }
    }
}

/// Luma of a pixel, red, green and blue.
fn luma(pixel: &[u8]) -> u8 {
    let [red, green, blue] = [pixel[0], pixel[1], pixel[2]].map(u32::from);
    ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16) as u8
}

/// Writes a picture in the format of its extension, to a temporary file that is then renamed.
///
/// `texts` are keywords and texts. PNG can store any (keywords of 1 to 79 Latin-1 characters, texts without a
/// zero); JPEG and WebP store [`PARAMETERS`] and [`RECIPE`] as Exif if they take less than 64 KB together.
///
/// # Errors
/// When the extension is unknown, the pixels do not fit the size, a text cannot be stored, or the file cannot
/// be written.
pub fn write(path: impl AsRef<Path>, picture: &Picture, texts: &[(&str, &str)]) -> Result<(), PictureError> {
    let path = path.as_ref();
    try_write(path, picture, texts).map_err(|problem| PictureError { path: path.to_path_buf(), problem })
}

/// The bytes of a file with this picture, as [`write()`] writes it.
///
/// # Errors
/// As [`write()`], apart from the file.
pub fn to_bytes(
    picture: &Picture,
    format: PictureFormat,
    texts: &[(&str, &str)],
) -> Result<Vec<u8>, PictureProblem> {
    let mut bytes = Vec::new();
    write_to(&mut bytes, picture, format, texts)?;
    Ok(bytes)
}

fn try_write(path: &Path, picture: &Picture, texts: &[(&str, &str)]) -> Result<(), PictureProblem> {
    let format = PictureFormat::of_path(path).ok_or(PictureProblem::Extension)?;
    picture.columns_and_rows()?;
    let mut file = BufWriter::new(AtomicFile::create(path)?);
    write_to(&mut file, picture, format, texts)?;
    file.into_inner().map_err(|failed| failed.into_error())?.commit()?;
    Ok(())
}

fn write_to(
    mut file: &mut impl Write,
    picture: &Picture,
    format: PictureFormat,
    texts: &[(&str, &str)],
) -> Result<(), PictureProblem> {
    let (size, pixels) = (picture.columns_and_rows()?, &picture.rgb);
    match format {
        PictureFormat::Png => png::write(&mut file, size, pixels, texts),
        PictureFormat::Jpeg => {
            encode(JpegEncoder::new_with_quality(&mut file, JPEG_QUALITY), size, pixels, texts)
        }
        PictureFormat::WebP => encode(WebPEncoder::new_lossless(&mut file), size, pixels, texts),
    }
}

fn encode(
    mut encoder: impl ImageEncoder,
    (columns, rows): (u32, u32),
    pixels: &[u8],
    texts: &[(&str, &str)],
) -> Result<(), PictureProblem> {
    let text = |keyword| texts.iter().find(|(key, _)| *key == keyword).map(|(_, text)| *text);
    if let Some(exif) = exif::write(text(RECIPE), text(PARAMETERS)) {
        let unsupported = |error: image::error::UnsupportedError| io::Error::other(error.to_string());
        encoder.set_exif_metadata(exif).map_err(unsupported)?;
    }
    Ok(encoder.write_image(pixels, columns, rows, ExtendedColorType::Rgb8)?)
}

/// A picture from a file, as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenPicture {
    /// Its pixels.
    pub picture: Picture,
    /// Whether pixels in the file are transparent; white shows through them here.
    pub was_transparent: bool,
}

/// Reads a PNG, JPEG or WebP picture, rotated according to its Exif orientation; white shows through transparent pixels.
///
/// # Errors
/// When the file cannot be read, is no such picture, is larger than 32768 pixels a side or takes more than [`MAX_BYTES`].
pub fn read(path: impl AsRef<Path>) -> Result<Picture, PictureError> {
    read_within(path, MAX_BYTES).map(|seen| seen.picture)
}

/// [`read`] in at most `max_bytes` of memory, the pixels as the file has them and as 8-bit RGB together.
///
/// # Errors
/// As [`read`], and [`PictureProblem::TooLarge`] before any pixel is decoded.
pub fn read_within(path: impl AsRef<Path>, max_bytes: u64) -> Result<SeenPicture, PictureError> {
    decoded(path.as_ref(), max_bytes, |image, width, height| {
        let (rgb, was_transparent) = match image {
            image if image.color().has_alpha() => transparency::over_backdrop(&image.into_rgba8()),
            image => (image.into_rgb8().into_raw(), false),
        };
        Ok(SeenPicture { picture: Picture { width, height, rgb }, was_transparent })
    })
}

/// Reads a mask as a picture in grays: white is drawn, black is kept. Transparent pixels are kept if the others are white, or
/// black and white.
///
/// # Errors
/// As [`read_within`], [`PictureProblem::TwoMasks`] where transparency and colours say different things, and
/// [`PictureProblem::ClearMask`] where all pixels are transparent.
pub fn read_mask(path: impl AsRef<Path>, max_bytes: u64) -> Result<Picture, PictureError> {
    decoded(path.as_ref(), max_bytes, |image, width, height| {
        let rgb = match image {
            image if image.color().has_alpha() => transparency::mask(&image.into_rgba8())?,
            image => image.into_rgb8().into_raw(),
        };
        Ok(Picture { width, height, rgb })
    })
}

/// Reads the transparency of a picture as a mask in grays: what is transparent is white, and so drawn.
///
/// # Errors
/// As [`read_within`], and [`PictureProblem::Opaque`] where no pixel of the picture is transparent.
pub fn read_transparency(path: impl AsRef<Path>, max_bytes: u64) -> Result<Picture, PictureError> {
    decoded(path.as_ref(), max_bytes, |image, width, height| match image {
        image if image.color().has_alpha() => {
            let rgb: Vec<u8> = image.into_rgba8().pixels().flat_map(|pixel| [255 - pixel.0[3]; 3]).collect();
            match rgb.iter().any(|value| *value > 0) {
                true => Ok(Picture { width, height, rgb }),
                false => Err(PictureProblem::Opaque),
            }
        }
        _ => Err(PictureProblem::Opaque),
    })
}

/// `finish` of the pixels of the picture at `path`, with width and height.
fn decoded<T>(
    path: &Path,
    max_bytes: u64,
    finish: impl FnOnce(DynamicImage, usize, usize) -> Result<T, PictureProblem>,
) -> Result<T, PictureError> {
    let decoded = decode(path, max_bytes.min(MAX_BYTES));
    let finished = decoded.and_then(|image| {
        let (width, height) = (image.width() as usize, image.height() as usize);
        finish(image, width, height)
    });
    finished.map_err(|problem| PictureError { path: path.to_path_buf(), problem })
}

/// The pixels of a picture, with 8 bits for each value.
fn decode(path: &Path, limit: u64) -> Result<DynamicImage, PictureProblem> {
    let mut reader = guessed(path)?;
    let mut limits = image::Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    // Headers and texts are read before the size is known.
    limits.max_alloc = Some(limit.max(MAX_BESIDE_PIXELS));
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    // A file may have one bit for a pixel that takes a byte when it is decoded, and three as RGB. Turning copies those.
    let has_alpha = decoder.color_type().has_alpha();
    let pixels = if has_alpha { 4 } else { 3 } * u64::from(width) * u64::from(height);
    let needed = decoder.total_bytes().max(pixels).saturating_add(pixels);
    if needed > limit {
        return Err(PictureProblem::TooLarge { width, height, needed, limit });
    }
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let picture = DynamicImage::from_decoder(decoder)?;
    let mut picture = match has_alpha {
        true => DynamicImage::ImageRgba8(picture.into_rgba8()),
        false => DynamicImage::ImageRgb8(picture.into_rgb8()),
    };
    picture.apply_orientation(orientation);
    match picture.width() == 0 || picture.height() == 0 {
        true => Err(PictureProblem::Decode("the picture has no pixels".to_owned())),
        false => Ok(picture),
    }
}

/// Width and height of the picture at `path`, as they are in the file, without reading its pixels.
///
/// # Errors
/// When the file cannot be read, or is no such picture.
pub fn read_size(path: impl AsRef<Path>) -> Result<(usize, usize), PictureError> {
    let path = path.as_ref();
    let size = guessed(path).and_then(|reader| Ok(reader.into_dimensions()?));
    let size = size.map(|(width, height)| (width as usize, height as usize));
    size.map_err(|problem| PictureError { path: path.to_path_buf(), problem })
}

/// Reads the texts of the picture at `path`, keywords and contents, without reading its pixels: all of a PNG file;
/// [`RECIPE`], [`PARAMETERS`] and [`GRAPH`] in the Exif of any format, and [`PARAMETERS`] in a comment of JPEG.
///
/// # Errors
/// When the file cannot be read, is not a picture, or its texts would take more than 16 MiB.
pub fn read_texts(path: impl AsRef<Path>) -> Result<Vec<(String, String)>, PictureError> {
    let path = path.as_ref();
    try_read_texts(path).map_err(|problem| PictureError { path: path.to_path_buf(), problem })
}

fn try_read_texts(path: &Path) -> Result<Vec<(String, String)>, PictureProblem> {
    let reader = guessed(path)?;
    if reader.format() == Some(ImageFormat::Png) {
        let mut file = reader.into_inner();
        file.rewind()?;
        return png::texts_of(file);
    }
    let is_jpeg = reader.format() == Some(ImageFormat::Jpeg);
    let exif = reader.into_decoder()?.exif_metadata()?.unwrap_or_default();
    let mut texts = exif::texts(&exif);
    if is_jpeg {
        texts.extend(jpeg::text(open(path)?)?);
    }
    Ok(texts)
}

/// A reader that knows the format of the file at `path`.
fn guessed(path: &Path) -> Result<ImageReader<BufReader<File>>, PictureProblem> {
    let reader = ImageReader::new(open(path)?).with_guessed_format()?;
    match reader.format() {
        Some(ImageFormat::WebP) => {}
        Some(_) => return Ok(reader),
        None => return Err(PictureProblem::Kind(FileKind::of_file(path)?)),
    }
    let mut file = reader.into_inner();
    webp::check_chunks(&mut file)?;
    Ok(ImageReader::with_format(file, ImageFormat::WebP))
}

fn open(path: &Path) -> Result<BufReader<File>, PictureProblem> {
    links::regular_file(path)?;
    Ok(BufReader::new(File::open(path)?))
}

#[cfg(test)]
mod tests;
