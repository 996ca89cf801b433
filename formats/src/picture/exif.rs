//! Exif, as far as recipes need it: texts in a TIFF structure. CIPA DC-008-2023; TIFF 6.0, section 2.
//!
//! JPEG and WebP have no texts of their own. The web UI's line is written to `UserComment`, where other tools
//! read it; the recipe's JSON to `ImageDescription`.

use std::marker::PhantomData;

use byteorder::{BigEndian, ByteOrder, LittleEndian};

use super::{GRAPH, PARAMETERS, RECIPE};

const IMAGE_DESCRIPTION: u16 = 0x010e;
const MODEL: u16 = 0x0110;
const EXIF_DIRECTORY: u16 = 0x8769;
const USER_COMMENT: u16 = 0x9286;

/// Types of values: single bytes (which some programs use for a comment), ASCII bytes with a zero at the end,
/// a 32-bit number, bytes of undefined type.
const BYTE: u16 = 1;
const ASCII: u16 = 2;
const LONG: u16 = 4;
const UNDEFINED: u16 = 7;

const HEADER_LEN: usize = 8;
const ENTRY_LEN: usize = 12;
/// Bytes of a directory beside its entries: their number before them, and the offset of the next directory
/// after them.
const DIRECTORY_OVERHEAD: usize = 2 + 4;

/// Maximum length of the data in a JPEG segment, without the mark at its start.
const MAX_LEN: usize = 0xffff - 64;

/// Exif with `recipe`, a JSON text, and `parameters`; without `parameters`, or both, if they are too long.
pub(super) fn write(recipe: Option<&str>, parameters: Option<&str>) -> Option<Vec<u8>> {
    let recipe = recipe.map(ascii_json);
    let whole = [(recipe.as_deref(), parameters), (recipe.as_deref(), None)];
    whole.into_iter().filter(|texts| *texts != (None, None)).find_map(|(recipe, parameters)| {
        let exif = build(recipe, parameters);
        (exif.len() <= MAX_LEN).then_some(exif)
    })
}

fn build(recipe: Option<&str>, parameters: Option<&str>) -> Vec<u8> {
    let entries = usize::from(recipe.is_some()) + usize::from(parameters.is_some());
    let mut directory = vec![];
    let mut values = vec![];
    let values_at = HEADER_LEN + DIRECTORY_OVERHEAD + entries * ENTRY_LEN;
    directory.extend((entries as u16).to_le_bytes());
    if let Some(recipe) = recipe {
        entry(&mut directory, IMAGE_DESCRIPTION, ASCII, recipe.len() + 1, values_at);
        values.extend_from_slice(recipe.as_bytes());
        values.push(0);
        // Values start at even offsets.
        values.resize(values.len().next_multiple_of(2), 0);
    }
    if let Some(parameters) = parameters {
        let inner_at = values_at + values.len();
        entry(&mut directory, EXIF_DIRECTORY, LONG, 1, inner_at);
        // Always big endian, as the most common library writes and reads it.
        let text: Vec<u8> = parameters.encode_utf16().flat_map(u16::to_be_bytes).collect();
        let mut inner = 1u16.to_le_bytes().to_vec();
        let comment_at = inner_at + DIRECTORY_OVERHEAD + ENTRY_LEN;
        entry(&mut inner, USER_COMMENT, UNDEFINED, 8 + text.len(), comment_at);
        inner.extend([0; 4]);
        values.extend([inner.as_slice(), b"UNICODE\0", &text].concat());
    }
    directory.extend([0; 4]);
    [&b"II*\0\x08\0\0\0"[..], &directory, &values].concat()
}

fn entry(directory: &mut Vec<u8>, tag: u16, kind: u16, count: usize, value: usize) {
    directory.extend(tag.to_le_bytes());
    directory.extend(kind.to_le_bytes());
    directory.extend((count as u32).to_le_bytes());
    directory.extend((value as u32).to_le_bytes());
}

/// The same JSON in ASCII. Outside its strings JSON has no other characters.
fn ascii_json(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for character in json.chars() {
        match character.is_ascii() {
            true => ascii.push(character),
            false => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    ascii.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    ascii
}

/// Texts about the creation of the picture, under the keywords of PNG files: those that [`write`] stores, and
/// the comments of other programs. Other values are ignored.
pub(super) fn texts(exif: &[u8]) -> Vec<(String, String)> {
    // WebP files of some programs repeat the mark of a JPEG segment.
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    match tiff.get(..4) {
        Some(b"II*\0") => Tiff::<LittleEndian>(tiff, PhantomData).texts(),
        Some(b"MM\0*") => Tiff::<BigEndian>(tiff, PhantomData).texts(),
        _ => Vec::new(),
    }
}

/// A TIFF structure with numbers in byte order `Order`.
struct Tiff<'a, Order>(&'a [u8], PhantomData<Order>);

impl<'a, Order: ByteOrder> Tiff<'a, Order> {
    fn texts(&self) -> Vec<(String, String)> {
        let main = self.at(4, 4).map(|place| Order::read_u32(place) as usize);
        let entry = |tag| self.entry(main?, tag);
        let ascii = |tag| {
            String::from_utf8(self.value(entry(tag)?, &[ASCII])?.split(|&byte| byte == 0).next()?.to_vec())
                .ok()
        };
        let comment = entry(EXIF_DIRECTORY)
            .and_then(|directory| self.entry(Order::read_u32(&directory[8..]) as usize, USER_COMMENT))
            .and_then(|comment| {
                user_comment(self.value(comment, &[UNDEFINED, BYTE, ASCII])?, Order::read_u16(&[0, 1]) == 1)
            });
        let recipe = ascii(IMAGE_DESCRIPTION).filter(|text| text.starts_with('{'));
        // ComfyUI writes the name of its graph into the value.
        let graph = ascii(MODEL).and_then(|text| text.strip_prefix("prompt:").map(str::to_owned));
        [(RECIPE, recipe), (PARAMETERS, comment), (GRAPH, graph)]
            .into_iter()
            .filter_map(|(keyword, text)| Some((keyword.to_owned(), text?)))
            .collect()
    }

    /// The first entry for `tag` in the directory at `start`.
    fn entry(&self, start: usize, tag: u16) -> Option<&'a [u8]> {
        let count = usize::from(Order::read_u16(self.at(start, 2)?));
        let entries = self.0.get(start + 2..)?.chunks_exact(ENTRY_LEN).take(count);
        entries.into_iter().find(|entry| Order::read_u16(entry) == tag)
    }

    /// The value of an entry of one of `kinds`, one byte per element, if it is stored outside the entry.
    fn value(&self, entry: &[u8], kinds: &[u16]) -> Option<&'a [u8]> {
        let (len, start) = (Order::read_u32(&entry[4..]) as usize, Order::read_u32(&entry[8..]) as usize);
        (kinds.contains(&Order::read_u16(&entry[2..])) && len > 4).then(|| self.at(start, len))?
    }

    fn at(&self, start: usize, len: usize) -> Option<&'a [u8]> {
        self.0.get(start..start.checked_add(len)?)
    }
}

/// The text of a `UserComment`: eight bytes with the name of its character code, followed by the characters.
fn user_comment(value: &[u8], big_endian: bool) -> Option<String> {
    let (code, text) = value.split_at_checked(8)?;
    let text = match code {
        b"UNICODE\0" if !is_utf8(text) => utf16(text, big_endian),
        // Some programs write UTF-8 with either name.
        b"UNICODE\0" | b"ASCII\0\0\0" | [0, 0, 0, 0, 0, 0, 0, 0] => {
            String::from_utf8_lossy(text).into_owned()
        }
        _ => return None,
    };
    let text = text.trim_end_matches(['\0', ' ']);
    (!text.is_empty()).then(|| text.to_owned())
}

/// Whether `bytes` are UTF-8 and not UTF-16, where each character of ASCII has a zero byte.
fn is_utf8(bytes: &[u8]) -> bool {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    !bytes[..end].contains(&0) && std::str::from_utf8(&bytes[..end]).is_ok()
}

/// Decodes UTF-16 in the byte order of its mark. Without a mark, the order with more ASCII characters is
/// used: programs disagree on whether the file's byte order applies, so it only decides if the numbers are
/// equal.
fn utf16(bytes: &[u8], big_endian: bool) -> String {
    let is_ascii = |high: u8, low: u8| usize::from(high == 0 && low.is_ascii());
    let pairs = || bytes.chunks_exact(2).map(|pair| (pair[0], pair[1]));
    let (big, little) = pairs().fold((0, 0), |(big, little), (first, second)| {
        (big + is_ascii(first, second), little + is_ascii(second, first))
    });
    let (big_endian, bytes) = match bytes {
        [0xfe, 0xff, rest @ ..] => (true, rest),
        [0xff, 0xfe, rest @ ..] => (false, rest),
        _ if big == little => (big_endian, bytes),
        _ => (big > little, bytes),
    };
    let unit = |pair: &[u8]| match big_endian {
        true => BigEndian::read_u16(pair),
        false => LittleEndian::read_u16(pair),
    };
    let units = bytes.chunks_exact(2).map(unit);
    char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(exif: &[u8]) -> Option<String> {
        texts(exif).into_iter().find(|(keyword, _)| keyword == RECIPE).map(|(_, text)| text)
    }

    /// Exif of the given byte order with `comment` as its user comment.
    fn with_comment(big_endian: bool, kind: u16, comment: &[u8]) -> Vec<u8> {
        let long = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let short = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let entry = |tag, kind, count: usize, value: u32| {
            [&short(tag)[..], &short(kind), &long(count as u32), &long(value)].concat()
        };
        let start: &[u8] = if big_endian { b"MM\0*" } else { b"II*\0" };
        let main = [&short(1)[..], &entry(EXIF_DIRECTORY, LONG, 1, 26), &long(0)].concat();
        let inner = [&short(1)[..], &entry(USER_COMMENT, kind, comment.len(), 44), &long(0)].concat();
        [start, &long(8), &main, &inner, comment].concat()
    }

    #[test]
    fn comments_are_read_in_every_encoding() {
        let text = "a 狐, café\nSteps: 20";
        let utf16 = |unit: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(unit).collect::<Vec<u8>>();
        let (big, little) = (utf16(u16::to_be_bytes), utf16(u16::to_le_bytes));
        for (order, kind) in [(false, UNDEFINED), (true, UNDEFINED), (true, BYTE), (false, ASCII)] {
            for comment in [
                [b"UNICODE\0", big.as_slice()].concat(),
                [b"UNICODE\0", little.as_slice()].concat(),
                [b"UNICODE\0\xfe\xff", big.as_slice()].concat(),
                [b"UNICODE\0\xff\xfe", little.as_slice()].concat(),
                [b"ASCII\0\0\0", text.as_bytes()].concat(),
                [b"UNICODE\0", text.as_bytes()].concat(),
                [b"UNICODE\0", text.as_bytes(), b"\0"].concat(),
                [b"\0\0\0\0\0\0\0\0", text.as_bytes(), b"\0 \0"].concat(),
            ] {
                let exif = with_comment(order, kind, &comment);
                let expected = vec![(PARAMETERS.to_owned(), text.to_owned())];
                assert_eq!(texts(&exif), expected, "{order} {comment:?}");
                assert_eq!(texts(&[b"Exif\0\0", exif.as_slice()].concat()), expected);
            }
            for comment in [&b"JIS\0\0\0\0\0abcd"[..], b"ASCII\0\0\0", b"UNICODE\0", b"abcde"] {
                assert_eq!(texts(&with_comment(order, kind, comment)), [], "{comment:?}");
            }
        }
        // Without ASCII characters the file's byte order is used.
        let fox: Vec<u8> = "狐".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let exif = with_comment(false, UNDEFINED, &[b"UNICODE\0", fox.as_slice()].concat());
        assert_eq!(texts(&exif)[0].1, "狐");
    }

    #[test]
    fn texts_too_long_for_a_segment_are_left_out() {
        let long = "x".repeat(60_000);
        let both = write(Some("{\"a\": 1}"), Some("short")).unwrap();
        let recipe_alone = write(Some("{\"a\": 1}"), Some(&long)).unwrap();
        assert!(recipe_alone.len() < both.len());
        assert_eq!(recipe(&recipe_alone).as_deref(), Some("{\"a\": 1}"));
        assert_eq!(write(Some(&long.repeat(2)), None), None);
        assert_eq!(write(None, None), None);
    }

    #[test]
    fn damaged_structures_hold_no_recipe() {
        let exif = write(Some("{\"prompt\": \"☕\"}"), Some("☕")).unwrap();
        assert_eq!(recipe(&exif).as_deref(), Some("{\"prompt\": \"\\u2615\"}"));
        for len in 0..exif.len() {
            let _ = recipe(&exif[..len]);
        }
        for place in 0..exif.len() {
            for value in [0, 0xff] {
                let mut damaged = exif.clone();
                damaged[place] = value;
                let _ = recipe(&damaged);
            }
        }
    }
}
