//! Pictures as text that a terminal shows as a picture.

use std::{env, fmt::Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sdq::{
    Picture,
    picture::{self, PictureFormat},
};

use super::{enlarged, sixel};

/// Maximum width of a picture of half blocks, in columns; of larger ones every other pixel is shown.
const MAX_COLUMNS: usize = 64;
/// Height of a picture that the terminal scales itself, in lines.
const LINES: usize = 16;
/// Maximum number of characters of a part of a picture in kitty's protocol.
const CHUNK: usize = 4096;
/// Maximum width and height of a sixel picture, in pixels: the height of [`LINES`] in a small font.
const MAX_SIXEL_SIDE: usize = 192;
/// The first version of Konsole that shows sixels, as in `KONSOLE_VERSION`.
const KONSOLE_WITH_SIXEL: u32 = 220_400;
/// The values of red, green and blue in xterm's cube of 6x6x6 colours.
pub(super) const LEVELS: [u8; 6] = [0, 95, 135, 175, 215, 255];

/// The way in which a terminal shows pictures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// The graphics protocol of kitty, which Ghostty has too.
    Kitty,
    /// The inline images of iTerm2, which WezTerm has too.
    Iterm,
    /// DEC's sixels, which foot, mlterm, Contour and Konsole have.
    Sixel,
    /// Half blocks in 24-bit colours.
    Blocks,
    /// Half blocks in the 256 colours of xterm.
    Blocks256,
}

impl Protocol {
    /// The best one of the terminal that the environment describes; `None` if it has none.
    pub(super) fn of_environment() -> Option<Protocol> {
        Protocol::of(|name| env::var(name).unwrap_or_default())
    }

    fn of(variable: impl Fn(&str) -> String) -> Option<Protocol> {
        let (term, program) = (variable("TERM"), variable("TERM_PROGRAM"));
        // Multiplexers do not pass pictures on.
        let is_multiplexed =
            !variable("TMUX").is_empty() || term.starts_with("screen") || term.starts_with("tmux");
        if !is_multiplexed && (term == "xterm-kitty" || term == "xterm-ghostty" || program == "ghostty") {
            Some(Protocol::Kitty)
        } else if !is_multiplexed && (program == "iTerm.app" || program == "WezTerm") {
            Some(Protocol::Iterm)
        } else if !is_multiplexed && has_sixel(&term, &program, &variable) {
            Some(Protocol::Sixel)
        } else if matches!(variable("COLORTERM").as_str(), "truecolor" | "24bit") {
            Some(Protocol::Blocks)
        } else {
            term.contains("256color").then_some(Protocol::Blocks256)
        }
    }

    /// The text that shows `picture`, without the end of its last line, and the number of its lines.
    pub(super) fn show(self, picture: &Picture) -> Option<(String, usize)> {
        let text = match self {
            Protocol::Blocks => half_blocks(picture, |[r, g, b]| format!("2;{r};{g};{b}")),
            Protocol::Blocks256 => half_blocks(picture, |pixel| format!("5;{}", palette(pixel))),
            Protocol::Kitty => return Some((kitty(&png(picture)?), LINES)),
            Protocol::Iterm => return Some((iterm(&png(picture)?), LINES)),
            Protocol::Sixel => return Some((sixels(picture), LINES)),
        };
        let lines = text.lines().count();
        Some((text.trim_end_matches('\n').to_owned(), lines))
    }
}

/// Whether the terminal that the environment describes shows sixels.
fn has_sixel(term: &str, program: &str, variable: impl Fn(&str) -> String) -> bool {
    let konsole = variable("KONSOLE_VERSION").parse().unwrap_or(0);
    term.starts_with("foot")
        || term.starts_with("mlterm")
        || program == "contour"
        || term.starts_with("contour")
        || konsole >= KONSOLE_WITH_SIXEL
}

/// `picture` as a PNG in base64.
fn png(picture: &Picture) -> Option<String> {
    picture::to_bytes(picture, PictureFormat::Png, &[]).ok().map(|bytes| STANDARD.encode(bytes))
}

/// `drawing`, which leaves the cursor where it is, in [`LINES`] lines: room is made for them before, and they are skipped
/// after.
fn in_lines(drawing: &str) -> String {
    let below = LINES - 1;
    format!("{}\x1b[{below}A{drawing}\x1b[{below}B", "\n".repeat(below))
}

/// sw.kovidgoyal.net/kitty/graphics-protocol: transmit and display a PNG in some lines, in parts, without an answer and
/// without moving the cursor (C=1).
fn kitty(data: &str) -> String {
    let mut text = String::new();
    let mut rest = data;
    let mut keys = format!("a=T,f=100,r={LINES},q=2,C=1,");
    while !rest.is_empty() {
        let (part, later) = rest.split_at(rest.len().min(CHUNK));
        rest = later;
        let _ = write!(text, "\x1b_G{keys}m={};{part}\x1b\\", u8::from(!rest.is_empty()));
        keys.clear();
    }
    in_lines(&text)
}

/// Sixels in a picture as large as fits; the cursor is saved and restored.
fn sixels(picture: &Picture) -> String {
    let Picture { width, height, rgb } = picture;
    // Every pixel of a small picture is repeated; of a large one some are left out.
    let step = width.max(height).div_ceil(MAX_SIXEL_SIDE).max(1);
    let rows = (0..*height).step_by(step);
    let starts = rows.flat_map(|y| (0..*width).step_by(step).map(move |x| (y * width + x) * 3));
    let rgb = starts.flat_map(|start| rgb[start..start + 3].iter().copied()).collect();
    let shown = Picture { width: width.div_ceil(step), height: height.div_ceil(step), rgb };
    let factor = MAX_SIXEL_SIDE / shown.width.max(shown.height).max(1);
    let large = enlarged(&shown, factor * shown.width.min(shown.height));
    in_lines(&format!("\x1b7{}\x1b8", sixel::encode(&large)))
}

/// iterm2.com/documentation-images.html.
fn iterm(data: &str) -> String {
    format!("\x1b]1337;File=inline=1;height={LINES};preserveAspectRatio=1:{data}\x07")
}

/// The nearest colour of xterm's cube of 6x6x6, which begins at 16 in its palette.
pub(super) fn palette(pixel: [u8; 3]) -> usize {
    let level = |value: u8| (0..6).min_by_key(|level| LEVELS[*level].abs_diff(value)).unwrap_or(0);
    pixel.into_iter().fold(0, |index, value| index * 6 + level(value)) + 16
}

/// Two pixels per character: the upper one in the foreground colour, the lower one in the background colour.
fn half_blocks(picture: &Picture, color: impl Fn([u8; 3]) -> String) -> String {
    let step = picture.width.div_ceil(MAX_COLUMNS).max(1);
    let pixel = |x: usize, y: usize| {
        let start = (y.min(picture.height - 1) * picture.width + x) * 3;
        color([picture.rgb[start], picture.rgb[start + 1], picture.rgb[start + 2]])
    };
    let mut text = String::new();
    for y in (0..picture.height).step_by(2 * step) {
        for x in (0..picture.width).step_by(step) {
            let _ = write!(text, "\x1b[38;{}m\x1b[48;{}m▀", pixel(x, y), pixel(x, y + step));
        }
        text.push_str("\x1b[0m\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gray(width: usize, height: usize) -> Picture {
        Picture { width, height, rgb: vec![100; width * height * 3] }
    }

    #[test]
    fn two_rows_make_a_line() {
        let picture = Picture { width: 1, height: 3, rgb: vec![1, 2, 3, 4, 5, 6, 7, 8, 9] };
        let (text, lines) = Protocol::Blocks.show(&picture).unwrap();
        let expected = "\x1b[38;2;1;2;3m\x1b[48;2;4;5;6m▀\x1b[0m\n\x1b[38;2;7;8;9m\x1b[48;2;7;8;9m▀\x1b[0m";
        assert_eq!((text.as_str(), lines), (expected, 2));
        let (text, _) = Protocol::Blocks256.show(&gray(1, 2)).unwrap();
        assert_eq!(text, "\x1b[38;5;59m\x1b[48;5;59m▀\x1b[0m");
    }

    #[test]
    fn wide_pictures_keep_to_the_terminal() {
        let (text, lines) = Protocol::Blocks.show(&gray(130, 100)).unwrap();
        assert_eq!(lines, 17);
        assert!(text.lines().all(|line| line.matches('▀').count() == 44));
    }

    #[test]
    fn colours_of_the_palette_are_the_nearest() {
        let colors = [[0, 0, 0], [255, 255, 255], [95, 0, 0], [0, 115, 0], [0, 116, 0], [7, 9, 250]];
        assert_eq!(colors.map(palette), [16, 231, 52, 22, 28, 21]);
    }

    #[test]
    fn pictures_are_sent_in_parts_that_decode_to_a_png() {
        // Noise, which does not compress.
        let mut state = 1_u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let picture = Picture { width: 64, height: 64, rgb: (0..64 * 64 * 3).map(|_| noise()).collect() };
        let (text, lines) = Protocol::Kitty.show(&picture).unwrap();
        assert_eq!((lines, text.matches('\n').count()), (LINES, LINES - 1));
        let parts: Vec<(&str, &str)> = text
            .trim_start()
            .trim_start_matches("\x1b[15A")
            .trim_end_matches("\x1b[15B")
            .split_terminator("\x1b\\")
            .map(|part| part.strip_prefix("\x1b_G").unwrap().split_once(';').unwrap())
            .collect();
        assert!(parts.len() > 2 && parts.iter().all(|(_, data)| data.len() <= CHUNK));
        let (last, first) = (parts.last().unwrap(), parts[0]);
        assert_eq!((first.0, last.0), ("a=T,f=100,r=16,q=2,C=1,m=1", "m=0"));
        let data: String = parts.iter().map(|(_, data)| *data).collect();
        assert!(STANDARD.decode(data).unwrap().starts_with(b"\x89PNG"));
        let (text, _) = Protocol::Iterm.show(&gray(8, 8)).unwrap();
        let data = text.strip_prefix("\x1b]1337;File=inline=1;height=16;preserveAspectRatio=1:").unwrap();
        assert!(STANDARD.decode(data.strip_suffix('\x07').unwrap()).unwrap().starts_with(b"\x89PNG"));
    }

    #[test]
    fn sixel_pictures_fit_into_their_lines() {
        for (size, expected) in
            [((64, 64), "192;192"), ((100, 50), "100;50"), ((1000, 512), "167;86"), ((1, 1), "192;192")]
        {
            let (text, lines) = Protocol::Sixel.show(&gray(size.0, size.1)).unwrap();
            assert_eq!((lines, text.matches('\n').count()), (LINES, LINES - 1));
            assert!(text.contains(&format!("\x1b[15A\x1b7\x1bP0;1;0q\"1;1;{expected}#")), "{size:?}: {text}");
            assert!(text.ends_with("\x1b\\\x1b8\x1b[15B"));
        }
    }

    #[test]
    fn the_protocol_is_that_of_the_terminal() {
        let of = |variables: &[(&str, &str)]| {
            Protocol::of(|name| {
                variables.iter().find(|(other, _)| *other == name).map_or("", |(_, value)| value).to_owned()
            })
        };
        assert_eq!(of(&[("TERM", "xterm-kitty"), ("COLORTERM", "truecolor")]), Some(Protocol::Kitty));
        assert_eq!(of(&[("TERM", "xterm-256color"), ("TERM_PROGRAM", "iTerm.app")]), Some(Protocol::Iterm));
        assert_eq!(
            of(&[("TERM", "xterm-kitty"), ("TMUX", "/tmp/x"), ("COLORTERM", "24bit")]),
            Some(Protocol::Blocks)
        );
        assert_eq!(of(&[("TERM", "tmux-256color"), ("TERM_PROGRAM", "WezTerm")]), Some(Protocol::Blocks256));
        assert_eq!(of(&[("TERM", "foot"), ("COLORTERM", "truecolor")]), Some(Protocol::Sixel));
        let konsole = |version| of(&[("TERM", "xterm-256color"), ("KONSOLE_VERSION", version)]);
        assert_eq!(konsole("220400"), Some(Protocol::Sixel));
        assert_eq!(konsole("211203"), Some(Protocol::Blocks256));
        assert_eq!(of(&[("TERM", "xterm")]), None);
    }
}
