//! DEC's sixel graphics (VT3xx Graphics Programming, chapter 14) in the colours of xterm's palette: columns of six pixels
//! per character, one pass over them per colour.

use std::{collections::BTreeSet, fmt::Write as _};

use sdq::Picture;

use super::inline::{LEVELS, palette};

/// Pixels of a character, from top to bottom.
const ROWS: usize = 6;

/// The control string that shows `picture`, from the cursor to the right and downwards.
pub(super) fn encode(picture: &Picture) -> String {
    let Picture { width, height, rgb } = picture;
    let (pixels, _) = rgb.as_chunks::<3>();
    let colors: Vec<usize> = pixels.iter().map(|pixel| palette(*pixel)).collect();
    let mut text = format!("\x1bP0;1;0q\"1;1;{width};{height}");
    for color in colors.iter().collect::<BTreeSet<_>>() {
        let [r, g, b] = percent(*color);
        let _ = write!(text, "#{color};2;{r};{g};{b}");
    }
    for band in colors.chunks((ROWS * width).max(1)) {
        for color in band.iter().collect::<BTreeSet<_>>() {
            let _ = write!(text, "#{color}");
            let bits = |x: usize| {
                let column = band[x..].iter().step_by(*width).enumerate();
                column.fold(0, |bits, (y, other)| bits | u8::from(other == color) << y)
            };
            let columns: Vec<char> = (0..*width).map(|x| char::from(b'?' + bits(x))).collect();
            for run in columns.chunk_by(|one, other| one == other) {
                let _ = write!(text, "!{}{}", run.len(), run[0]);
            }
            text.push('$');
        }
        text.push('-');
    }
    text.push_str("\x1b\\");
    text
}

/// Red, green and blue of a colour of the palette, in percent.
fn percent(color: usize) -> [usize; 3] {
    let index = color - 16;
    [index / 36, index / 6 % 6, index % 6].map(|level| (usize::from(LEVELS[level]) * 100 + 127) / 255)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The colours of the pixels that `text` draws, row by row; `None` for those that it leaves out.
    fn decode(text: &str, width: usize) -> Vec<Option<usize>> {
        let body = text.strip_prefix("\x1bP0;1;0q\"1;1;").unwrap().strip_suffix("\x1b\\").unwrap();
        let (_, mut body) = body.split_at(body.find('#').unwrap());
        let (mut pixels, mut x, mut top, mut color) = (Vec::new(), 0, 0, 0);
        let number = |body: &mut &str| {
            let end = body.find(|c: char| !c.is_ascii_digit()).unwrap_or(body.len());
            let (digits, rest) = body.split_at(end);
            *body = rest;
            digits.parse::<usize>().unwrap()
        };
        while let Some(c) = body.chars().next() {
            body = &body[1..];
            match c {
                '#' => {
                    color = number(&mut body);
                    // A definition has four more numbers.
                    while let Some(rest) = body.strip_prefix(';') {
                        body = rest;
                        number(&mut body);
                    }
                }
                '!' => {
                    let count = number(&mut body);
                    let bits = body.as_bytes()[0] - b'?';
                    body = &body[1..];
                    for row in (0..ROWS).filter(|row| bits >> row & 1 == 1) {
                        let start = (top + row) * width + x;
                        pixels.resize(pixels.len().max(start + count), None);
                        pixels[start..start + count].fill(Some(color));
                    }
                    x += count;
                }
                '$' => x = 0,
                '-' => (x, top) = (0, top + ROWS),
                other => panic!("unexpected {other:?}"),
            }
        }
        pixels
    }

    #[test]
    fn every_pixel_has_the_colour_of_the_palette() {
        for (width, height) in [(1, 1), (5, 13), (7, 6), (3, 7)] {
            let rgb: Vec<u8> = (0..width * height * 3).map(|index| (index * 41 % 256) as u8).collect();
            let expected: Vec<_> = rgb.as_chunks::<3>().0.iter().map(|pixel| Some(palette(*pixel))).collect();
            let text = encode(&Picture { width, height, rgb });
            assert_eq!(decode(&text, width), expected, "{width}x{height}");
        }
    }

    #[test]
    fn colours_are_defined_in_percent() {
        let text = encode(&Picture { width: 1, height: 2, rgb: vec![255, 0, 0, 0, 135, 255] });
        assert_eq!(text, "\x1bP0;1;0q\"1;1;1;2#33;2;0;53;100#196;2;100;0;0#33!1A$#196!1@$-\x1b\\");
    }
}
