use super::*;

fn picture(width: usize, height: usize) -> Picture {
    Picture { width, height, rgb: (0..width * height * 3).map(|i| (i * 7 % 256) as u8).collect() }
}

fn sorted(texts: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut texts: Vec<_> =
        texts.iter().map(|&(keyword, text)| (keyword.to_owned(), text.to_owned())).collect();
    texts.sort();
    texts
}

#[test]
fn the_size_is_read_without_the_pixels() {
    let folder = tempfile::tempdir().unwrap();
    let picture = Picture { width: 5, height: 3, rgb: vec![9; 45] };
    for name in ["a.png", "a.jpg", "a.webp"] {
        let path = folder.path().join(name);
        write(&path, &picture, &[]).unwrap();
        assert_eq!(read_size(&path).unwrap(), (5, 3), "{name}");
    }
    let path = folder.path().join("text.png");
    std::fs::write(&path, "text").unwrap();
    assert!(read_size(&path).unwrap_err().to_string().contains("text.png"));
}

#[test]
fn pixels_and_texts_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let texts =
        [(PARAMETERS, "a café\nSteps: 20, Seed: 1"), (RECIPE, "{\"prompt\":\"un café ☕\"}"), ("empty", "")];
    write(&path, &picture(5, 3), &texts).unwrap();
    let mut found = read_texts(&path).unwrap();
    found.sort();
    assert_eq!(found, sorted(&texts));
    assert_eq!(read(&path).unwrap(), picture(5, 3));

    let file = std::fs::read(&path).unwrap();
    // `parameters` fits Latin-1 and is stored where other tools look for it.
    assert!(file.windows(14).any(|w| w == b"tEXtparameters") && file.windows(7).any(|w| w == b"iTXtsdq"));
}

#[test]
fn the_bytes_of_a_file_need_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let texts = [(PARAMETERS, "a cat"), (RECIPE, "{}")];
    for (name, format) in
        [("a.png", PictureFormat::Png), ("a.jpg", PictureFormat::Jpeg), ("a.webp", PictureFormat::WebP)]
    {
        let path = folder.path().join(name);
        write(&path, &picture(5, 3), &texts).unwrap();
        assert_eq!(
            to_bytes(&picture(5, 3), format, &texts).unwrap(),
            std::fs::read(&path).unwrap(),
            "{name}"
        );
    }
    let wrong = Picture { width: 2, height: 2, rgb: vec![0; 3] };
    assert!(matches!(to_bytes(&wrong, PictureFormat::Png, &[]), Err(PictureProblem::Size { .. })));
}

#[test]
fn transparency_is_a_mask_of_what_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    image::RgbaImage::from_raw(2, 1, vec![9, 9, 9, 255, 9, 9, 9, 0]).unwrap().save(&path).unwrap();
    let mask = read_transparency(&path, MAX_BYTES).unwrap();
    assert_eq!((mask.width, mask.height, &mask.rgb[..]), (2, 1, &[0, 0, 0, 255, 255, 255][..]));
    let opaque_with_alpha = || image::RgbaImage::from_raw(1, 1, vec![9, 9, 9, 255]).unwrap();
    for is_rgb in [true, false] {
        match is_rgb {
            true => write(&path, &picture(5, 3), &[]).unwrap(),
            false => opaque_with_alpha().save(&path).unwrap(),
        }
        let opaque = read_transparency(&path, MAX_BYTES).unwrap_err();
        assert!(matches!(opaque.problem, PictureProblem::Opaque), "{opaque}");
    }
}

#[test]
fn a_file_that_is_no_picture_is_called_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    for (contents, found) in [
        (&b"<!DOCTYPE html><html>"[..], "a web page; download the file again"),
        (b"version https://git-lfs.github.com/spec/v1", "a git-lfs pointer"),
        (b"", "an empty file"),
        (b"a letter", "a text"),
        (b"PK\x03\x04....", "a zip archive"),
    ] {
        std::fs::write(&path, contents).unwrap();
        let expected = format!("a.png: expected a PNG, JPEG or WebP picture, found {found}");
        for error in [
            read(&path).unwrap_err(),
            read_mask(&path, MAX_BYTES).unwrap_err(),
            read_texts(&path).unwrap_err(),
        ] {
            assert!(error.to_string().contains(&expected), "{error}");
        }
    }
}

#[test]
fn jpeg_and_webp_carry_the_recipe() {
    let folder = tempfile::tempdir().unwrap();
    let even = vec![90; 16 * 8 * 3];
    let texts = [(PARAMETERS, "a café ☕\nSteps: 20"), (RECIPE, "{\"prompt\":\"☕\"}")];
    for (name, magic) in [("a.jpg", &b"\xff\xd8\xff"[..]), ("a.JPEG", b"\xff\xd8\xff"), ("a.webp", b"RIFF")] {
        let path = folder.path().join(name);
        write(&path, &Picture { width: 16, height: 8, rgb: even.clone() }, &texts).unwrap();
        let file = std::fs::read(&path).unwrap();
        assert!(file.starts_with(magic), "{name}");
        let comment: Vec<u8> = "a café ☕".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert!(file.windows(comment.len()).any(|w| w == comment), "{name}");
        let expected = [(PARAMETERS, texts[0].1), (RECIPE, "{\"prompt\":\"\\u2615\"}")];
        let mut found = read_texts(&path).unwrap();
        found.sort();
        assert_eq!(found, sorted(&expected), "{name}");
        let found = read(&path).unwrap();
        assert_eq!((found.width, found.height), (16, 8), "{name}");
        assert!(found.rgb.iter().all(|value| value.abs_diff(90) <= 1), "{name}");
    }
}

/// The format is lossless, so it does not matter which of its two encodings is used.
#[test]
fn webp_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.webp");
    write(&path, &picture(7, 9), &[]).unwrap();
    assert_eq!(read(&path).unwrap(), picture(7, 9));
    assert_eq!(read_texts(&path).unwrap(), []);
}

#[test]
fn refuses_what_does_not_fit_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    for (width, height, len) in [(5, 3, 44), (0, 3, 0), (usize::MAX, 2, 6), (1 << 40, 1, 3)] {
        let error = write(&path, &Picture { width, height, rgb: vec![0; len] }, &[]).unwrap_err();
        assert!(matches!(error.problem, PictureProblem::Size { .. }), "{error}");
    }
    let long = "k".repeat(80);
    for (keyword, text) in [("", "x"), (long.as_str(), "x"), ("k", "a\0b"), ("☕", "x")] {
        let error = write(&path, &picture(1, 1), &[(keyword, text)]).unwrap_err();
        assert!(matches!(error.problem, PictureProblem::Text(_)), "{error}");
    }
    for name in ["a", "a.gif", "a.png.bak"] {
        let error = write(folder.path().join(name), &picture(1, 1), &[]).unwrap_err();
        assert!(matches!(error.problem, PictureProblem::Extension), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn broken_pictures_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.png", "a.jpg", "a.webp"] {
        let path = folder.path().join(name);
        write(&path, &picture(8, 8), &[(RECIPE, "{\"k\":\"ü☕\"}")]).unwrap();
        let file = std::fs::read(&path).unwrap();
        for len in 0..file.len() {
            std::fs::write(&path, &file[..len]).unwrap();
            // Truncation at the end may go undetected; it must not panic.
            let _ = (read_texts(&path), read(&path));
        }
        for (content, what) in [(&b"text"[..], "text"), (&file[..20], "cut")] {
            std::fs::write(&path, content).unwrap();
            for error in [read_texts(&path).unwrap_err(), read(&path).unwrap_err()] {
                let is_named = match what {
                    "text" => matches!(error.problem, PictureProblem::Kind(FileKind::Text)),
                    _ => matches!(error.problem, PictureProblem::Decode(_)),
                };
                assert!(is_named, "{name}, {what}: {error}");
            }
        }
    }
    for path in [folder.path().to_owned(), folder.path().join("none")] {
        assert!(matches!(read_texts(&path).unwrap_err().problem, PictureProblem::Io(_)));
        assert!(matches!(read(&path).unwrap_err().problem, PictureProblem::Io(_)));
    }
}

/// A header's size is not trusted beyond the memory limit.
#[test]
fn a_picture_that_claims_to_be_huge_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    write(&path, &picture(1, 1), &[]).unwrap();
    let mut file = std::fs::read(&path).unwrap();
    // IHDR: length, name, width, height, five bytes, checksum.
    file[16..24].copy_from_slice(&[0, 0, 0x7f, 0, 0, 0, 0x7f, 0]);
    let checksum = crc32fast::hash(&file[12..29]);
    file[29..33].copy_from_slice(&checksum.to_be_bytes());
    std::fs::write(&path, &file).unwrap();
    assert!(matches!(read(&path).unwrap_err().problem, PictureProblem::TooLarge { .. }));
}

/// A pixel of one bit takes a byte when it is decoded and three as RGB.
#[test]
fn a_picture_is_measured_as_it_is_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let write_gray = |side: u32| {
        let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
        let mut encoder = ::png::Encoder::new(&mut file, side, side);
        encoder.set_color(::png::ColorType::Grayscale);
        encoder.set_depth(::png::BitDepth::One);
        let rows = vec![0; side.div_ceil(8) as usize * side as usize];
        encoder.write_header().unwrap().write_image_data(&rows).unwrap();
    };
    write_gray(32_768);
    assert!(std::fs::metadata(&path).unwrap().len() < 1 << 20);
    let needed = 2 * 3 * 32_768 * 32_768;
    for error in [read(&path).unwrap_err(), read_within(&path, u64::MAX).unwrap_err()] {
        let PictureProblem::TooLarge { width: 32_768, height: 32_768, needed: found, limit: MAX_BYTES } =
            error.problem
        else {
            panic!("{error}");
        };
        assert_eq!(found, needed);
    }
    // Its texts are before the pixels.
    assert_eq!(read_texts(&path).unwrap(), []);

    write_gray(512);
    let needed = 2 * 3 * 512 * 512;
    assert!(matches!(read_within(&path, needed - 1).unwrap_err().problem, PictureProblem::TooLarge { .. }));
    assert_eq!(read_within(&path, needed).unwrap().picture.rgb, vec![0; 3 * 512 * 512]);
}

#[test]
fn luma_is_that_of_pillow() {
    // PIL.Image.new("RGB", (1, 1), color).convert("L")
    let colors = [([255, 255, 255], 255), ([128, 128, 128], 128), ([255, 0, 0], 76), ([0, 255, 0], 150)];
    for (rgb, luma) in colors.into_iter().chain([([0, 0, 255], 29), ([10, 200, 77], 129)]) {
        assert_eq!(Picture { width: 1, height: 1, rgb: rgb.to_vec() }.luma(), [luma], "{rgb:?}");
    }
}

#[test]
fn filling_keeps_the_middle_and_the_proportions() {
    // Left half black, right half white, twice as wide as high.
    let rgb = (0..32 * 16).flat_map(|i| [if i % 32 < 16 { 0 } else { 255 }; 3]).collect();
    let filled = Picture { width: 32, height: 16, rgb }.fill(8, 8).unwrap();
    assert_eq!((filled.width, filled.height, filled.rgb.len()), (8, 8, 192));
    let row = &filled.luma()[..8];
    assert!(row[0] < 10 && row[7] > 245, "{row:?}");
    assert_eq!(filled.fill(8, 8).unwrap(), filled);
}
