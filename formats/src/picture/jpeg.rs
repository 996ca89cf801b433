//! JPEG: comments, in which some programs write texts as PNG has them. ITU-T T.81, appendix B.

use std::io::{self, BufRead, Seek, SeekFrom};

use super::PARAMETERS;

/// The second bytes of markers: the comment, the start of the pixels, the end of the file.
const COMMENT: u8 = 0xfe;
const PIXELS: u8 = 0xda;
const END: u8 = 0xd9;

/// The text under [`PARAMETERS`] in a comment before the pixels, with its keyword: the keyword, a zero and the text.
/// stable-diffusion.cpp writes it so.
///
/// # Errors
/// When `picture` cannot be read. A damaged structure holds no text.
pub(super) fn text(mut picture: impl BufRead + Seek) -> io::Result<Option<(String, String)>> {
    match find_text(&mut picture) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        found => found,
    }
}

fn find_text(picture: &mut (impl BufRead + Seek)) -> io::Result<Option<(String, String)>> {
    // The start of the file, a marker without contents.
    picture.seek(SeekFrom::Start(2))?;
    loop {
        let [start, marker] = read(picture)?;
        if start != 0xff || matches!(marker, PIXELS | END) {
            return Ok(None);
        }
        let Some(len) = u16::from_be_bytes(read(picture)?).checked_sub(2) else { return Ok(None) };
        if marker != COMMENT {
            picture.seek_relative(i64::from(len))?;
            continue;
        }
        let mut contents = vec![0; usize::from(len)];
        picture.read_exact(&mut contents)?;
        let text = contents.strip_prefix(PARAMETERS.as_bytes()).and_then(|rest| rest.strip_prefix(&[0]));
        if let Some(text) = text {
            let text = String::from_utf8_lossy(text);
            return Ok(Some((PARAMETERS.to_owned(), text.trim_end_matches('\0').to_owned())));
        }
    }
}

fn read(picture: &mut impl BufRead) -> io::Result<[u8; 2]> {
    let mut bytes = [0; 2];
    picture.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(marker: u8, contents: &[u8]) -> Vec<u8> {
        [&[0xff, marker][..], &(contents.len() as u16 + 2).to_be_bytes(), contents].concat()
    }

    #[test]
    fn a_comment_with_the_keyword_is_found_before_the_pixels() {
        let other = segment(COMMENT, b"made with care");
        let ours = segment(COMMENT, "parameters\0a 狐\nSteps: 20\0".as_bytes());
        let (tables, pixels) = (segment(0xdb, &[1; 65]), segment(PIXELS, &[1; 10]));
        let file = |segments: &[&[u8]]| [&b"\xff\xd8"[..], &segments.concat(), b"\x12\xff\xd9"].concat();
        let find = |file: &[u8]| text(io::Cursor::new(file)).unwrap().map(|(_, text)| text);
        let found = file(&[&tables, &other, &ours, &pixels]);
        assert_eq!(find(&found).as_deref(), Some("a 狐\nSteps: 20"));
        for without in [file(&[&tables, &other, &pixels]), file(&[&pixels, &ours]), file(&[])] {
            assert_eq!(find(&without), None);
        }
        for len in 0..found.len() {
            let _ = find(&found[..len]);
        }
        for place in 0..found.len() {
            for value in [0, 0xff] {
                let mut damaged = found.clone();
                damaged[place] = value;
                let _ = find(&damaged);
            }
        }
    }
}
