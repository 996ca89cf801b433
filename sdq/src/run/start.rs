//! The start picture and the mask of a run: files → parts of the request.

use std::path::Path;

use sdq_engine::{
    Mask, Request, memory,
    pipeline::{MAX_SIDE, SIZE_STEP},
};
use sdq_formats::picture::{self, Picture, PictureError, SeenPicture};

use crate::{Error, Note, Watch};

/// Reads the start picture and the mask, scaled to the size to be drawn; if the size is open, the picture
/// sets it. With [`Request::only_masked`] they keep the picture's size, of which only a part is drawn.
/// White shows through transparent pixels of the picture, which `watch` is told.
///
/// The process holds at most `max_memory` bytes meanwhile, by default what the system has.
///
/// # Errors
/// When a file is not a picture, or takes more memory than that.
pub fn read_start(
    request: &mut Request,
    init_image: Option<&Path>,
    mask: Option<&Path>,
    max_memory: Option<u64>,
    watch: &mut Watch<'_>,
) -> Result<(), Error> {
    let Some(path) = init_image else { return Ok(()) };
    let left = || memory::left(max_memory).unwrap_or(u64::MAX);
    let SeenPicture { picture: image, was_transparent } = picture::read_within(path, left())?;
    let own = (image.width, image.height);
    if was_transparent {
        watch.note(Note::Transparent { path: path.to_path_buf() });
    }
    if let (Some(_), Some(mask)) = (request.only_masked, mask) {
        request.init_image = Some(image);
        request.mask = Some(read_mask(mask, own, own, left(), watch)?);
        return Ok(());
    }
    let side = |asked: Option<usize>, own: usize| match asked {
        Some(side) => side,
        None => (own / SIZE_STEP * SIZE_STEP).max(SIZE_STEP),
    };
    let (width, height) = (side(request.width, image.width), side(request.height, image.height));
    (request.width, request.height) = (Some(width), Some(height));
    // An invalid size is refused with the request; nothing is scaled to it.
    if (1..=MAX_SIDE).contains(&width) && (1..=MAX_SIDE).contains(&height) {
        request.init_image = Some(fill(path, &image, (width, height), left())?);
        drop(image);
        let mask = mask.map(|path| read_mask(path, own, (width, height), left(), watch));
        request.mask = mask.transpose()?;
    }
    Ok(())
}

/// The mask at `path` for a start picture of the size `picture`, scaled to `width` and `height`.
fn read_mask(
    path: &Path,
    picture: (usize, usize),
    (width, height): (usize, usize),
    max_bytes: u64,
    watch: &mut Watch<'_>,
) -> Result<Mask, Error> {
    let image = picture::read_mask(path, max_bytes)?;
    let size = (image.width, image.height);
    if !have_one_shape(size, picture) && !have_one_shape(size, (width, height)) {
        watch.note(Note::MaskCut { path: path.to_path_buf(), mask: size, picture });
    }
    let room = max_bytes.saturating_sub(image.rgb.len() as u64);
    let values = fill(path, &image, (width, height), room)?.luma();
    let mask = Mask { width, height, values };
    if mask.draws_nothing() {
        watch.note(Note::NothingToDraw { path: path.to_path_buf() });
    }
    Ok(mask)
}

/// Whether two sizes have the same proportions, up to a pixel.
fn have_one_shape(first: (usize, usize), second: (usize, usize)) -> bool {
    let off = (first.0 * second.1).abs_diff(first.1 * second.0);
    off <= first.0.max(first.1).max(second.0).max(second.1)
}

fn fill(
    path: &Path,
    image: &Picture,
    (width, height): (usize, usize),
    max_bytes: u64,
) -> Result<Picture, Error> {
    let filled = image.fill_within(width, height, max_bytes);
    Ok(filled.map_err(|problem| PictureError { path: path.to_path_buf(), problem })?)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::Cancel;

    /// [`read_start`] without an observer.
    fn start_of(
        request: &mut Request,
        init_image: Option<&Path>,
        mask: Option<&Path>,
        max_memory: Option<u64>,
    ) -> Result<(), Error> {
        read_start(request, init_image, mask, max_memory, &mut Watch::new(&mut |_| {}, &Cancel::new()))
    }

    fn gray(folder: &TempDir, name: &str, (width, height): (usize, usize), value: u8) -> std::path::PathBuf {
        let path = folder.path().join(name);
        let picture = Picture { width, height, rgb: vec![value; 3 * width * height] };
        picture::write(&path, &picture, &[]).unwrap();
        path
    }

    #[test]
    fn the_picture_gives_the_size_that_is_left_open() {
        let folder = tempfile::tempdir().unwrap();
        for (own, asked, expected) in [
            ((16, 24), (None, None), (16, 24)),
            // Cropped to whole steps, but at least one.
            ((23, 31), (None, None), (16, 24)),
            ((1, 7), (None, None), (8, 8)),
            ((64, 64), (Some(32), None), (32, 64)),
            ((64, 64), (None, Some(16)), (64, 16)),
            ((64, 64), (Some(24), Some(40)), (24, 40)),
        ] {
            let path = gray(&folder, "start.png", own, 99);
            let mut request = Request { width: asked.0, height: asked.1, ..Request::default() };
            start_of(&mut request, Some(&path), None, None).unwrap();
            assert_eq!(
                (request.width, request.height),
                (Some(expected.0), Some(expected.1)),
                "{own:?} {asked:?}"
            );
            let image = request.init_image.unwrap();
            assert_eq!((image.width, image.height), expected);
            assert!(
                image.rgb.len() == 3 * expected.0 * expected.1 && image.rgb.iter().all(|value| *value == 99)
            );
            assert_eq!(request.mask, None);
        }
    }

    #[test]
    fn nothing_is_scaled_to_a_size_that_cannot_be_drawn() {
        let folder = tempfile::tempdir().unwrap();
        let path = gray(&folder, "start.png", (8, 8), 0);
        for side in [0, MAX_SIDE + 1, usize::MAX] {
            for (width, height) in [(side, 8), (8, side)] {
                let mut request = Request::default().size(width, height);
                start_of(&mut request, Some(&path), Some(&path), None).unwrap();
                assert_eq!((request.width, request.height), (Some(width), Some(height)));
                assert_eq!((request.init_image, request.mask), (None, None));
            }
        }
    }

    #[test]
    fn a_mask_is_fitted_to_the_picture() {
        let folder = tempfile::tempdir().unwrap();
        let (start, mask) =
            (gray(&folder, "start.png", (16, 8), 0), gray(&folder, "mask.png", (40, 40), 200));
        let mut request = Request::default();
        start_of(&mut request, Some(&start), Some(&mask), None).unwrap();
        assert_eq!(request.mask, Some(Mask { width: 16, height: 8, values: vec![200; 16 * 8] }));
        // Without a picture there is nothing to mask; the request is not changed.
        let mut request = Request::default();
        start_of(&mut request, None, Some(&folder.path().join("none.png")), None).unwrap();
        assert_eq!(request, Request::default());
    }

    #[test]
    fn a_picture_of_which_a_part_is_drawn_keeps_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let (start, mask) =
            (gray(&folder, "start.png", (23, 9), 7), gray(&folder, "mask.png", (40, 40), 200));
        for asked in [Request::default(), Request::default().size(64, 32)] {
            let mut request = asked.clone().only_masked(4);
            start_of(&mut request, Some(&start), Some(&mask), None).unwrap();
            assert_eq!((request.width, request.height), (asked.width, asked.height));
            assert_eq!(request.mask, Some(Mask { width: 23, height: 9, values: vec![200; 23 * 9] }));
            let image = request.init_image.unwrap();
            assert_eq!((image.width, image.height, image.rgb), (23, 9, vec![7; 3 * 23 * 9]));
        }
    }

    #[test]
    fn a_mask_of_another_shape_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let start = gray(&folder, "start.png", (64, 64), 0);
        for (size, asked, is_told) in [
            ((64, 64), None, false),
            ((32, 32), None, false),
            ((65, 64), None, false),
            ((64, 128), None, true),
            ((128, 64), None, true),
            // That of the picture to be drawn.
            ((64, 128), Some((64, 128)), false),
            ((64, 64), Some((64, 128)), false),
        ] {
            let mask = gray(&folder, "mask.png", size, 200);
            let (width, height) = asked.unzip();
            let mut request = Request { width, height, ..Request::default() };
            let mut notes = Vec::new();
            let observer = &mut |event: crate::Event| notes.push(event);
            let watch = &mut Watch::new(observer, &Cancel::new());
            read_start(&mut request, Some(&start), Some(&mask), None, watch).unwrap();
            let told = Note::MaskCut { path: mask, mask: size, picture: (64, 64) };
            assert_eq!(notes, if is_told { vec![crate::Event::Note(told)] } else { vec![] }, "{size:?}");
        }
    }

    #[test]
    fn a_mask_that_keeps_everything_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let start = gray(&folder, "start.png", (8, 8), 0);
        for (value, is_told) in [(0, true), (127, true), (128, false)] {
            let mask = gray(&folder, "mask.png", (8, 8), value);
            let mut notes = Vec::new();
            let observer = &mut |event: crate::Event| notes.push(event);
            let watch = &mut Watch::new(observer, &Cancel::new());
            read_start(&mut Request::default(), Some(&start), Some(&mask), None, watch).unwrap();
            let told = crate::Event::Note(Note::NothingToDraw { path: mask });
            assert_eq!(notes, if is_told { vec![told] } else { vec![] }, "{value}");
        }
    }

    #[test]
    fn a_file_that_is_no_picture_is_an_error_of_the_picture() {
        let folder = tempfile::tempdir().unwrap();
        let (start, text) = (gray(&folder, "start.png", (8, 8), 0), folder.path().join("text.png"));
        std::fs::write(&text, "not a picture").unwrap();
        for (image, mask) in [(&text, None), (&folder.path().join("none.png"), None), (&start, Some(&text))] {
            let error =
                start_of(&mut Request::default(), Some(image), mask.map(|path| &**path), None).unwrap_err();
            let named = mask.unwrap_or(image).display().to_string();
            assert!(error.code() == "picture.invalid" && error.to_string().contains(&named), "{error}");
        }
    }

    /// A long file of few bytes, as a start picture and as a mask: cut before it is scaled, and never beyond the memory.
    #[test]
    fn pictures_that_would_grow_are_cut_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (start, thin) =
            (gray(&folder, "start.png", (64, 64), 0), gray(&folder, "thin.png", (1, 32_768), 200));
        let read = |image: &Path, mask: Option<&Path>, max_memory| {
            let mut request = Request::default().size(64, 64);
            start_of(&mut request, Some(image), mask, max_memory).map(|()| request)
        };
        for (image, mask) in [(&thin, None), (&start, Some(&*thin)), (&thin, Some(&*thin))] {
            let request = read(image, mask, None).unwrap();
            assert_eq!(request.init_image.unwrap().rgb.len(), 3 * 64 * 64);
            assert!(request.mask.is_none_or(|mask| mask.values == vec![200; 64 * 64]));
            // The process holds more than a byte already.
            let error = read(image, mask, Some(1)).unwrap_err();
            assert!(
                error.code() == "picture.invalid" && error.to_string().contains("0 MiB allowed"),
                "{error}"
            );
        }
    }

    #[test]
    fn transparent_pixels_are_white_in_a_picture_and_kept_in_a_mask() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, rgba: [[u8; 4]; 2]| {
            let path = folder.path().join(name);
            let pixels: Vec<u8> = rgba.iter().cycle().take(64).flatten().copied().collect();
            let mut encoder = png::Encoder::new(std::fs::File::create(&path).unwrap(), 8, 8);
            encoder.set_color(png::ColorType::Rgba);
            encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
            path
        };
        let start = write("start.png", [[9, 9, 9, 255], [9, 9, 9, 0]]);
        let mask = write("mask.png", [[255, 255, 255, 0], [255, 255, 255, 255]]);
        let (mut request, mut notes) = (Request::default(), Vec::new());
        let observer = &mut |event: crate::Event| notes.push(format!("{event:?}"));
        let watch = &mut Watch::new(observer, &Cancel::new());
        read_start(&mut request, Some(&start), Some(&mask), None, watch).unwrap();
        assert_eq!(request.init_image.unwrap().rgb[..6], [9, 9, 9, 255, 255, 255]);
        assert_eq!(request.mask.unwrap().values[..2], [0, 255]);
        assert!(notes.len() == 1 && notes[0].contains("Transparent"), "{notes:?}");

        let photo = write("photo.png", [[200, 30, 40, 255], [0; 4]]);
        let error = start_of(&mut Request::default(), Some(&start), Some(&photo), None).unwrap_err();
        assert!(
            error.to_string().contains("photo.png: the mask has both transparent pixels and others"),
            "{error}"
        );
    }
}
