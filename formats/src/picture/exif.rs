//! Exif, as far as a recipe needs it: two texts in a TIFF structure. CIPA DC-008-2023; TIFF 6.0, section 2.
//!
//! JPEG and WebP have no texts of their own. The web UI's line goes where other tools look for it, into `UserComment`;
//! our JSON into `ImageDescription`.

use byteorder::{BigEndian, ByteOrder, LittleEndian};

const IMAGE_DESCRIPTION: u16 = 0x010e;
const EXIF_DIRECTORY: u16 = 0x8769;
const USER_COMMENT: u16 = 0x9286;

/// Types of values: bytes of ASCII with a zero at the end, a 32-bit number, bytes of no type.
const ASCII: u16 = 2;
const LONG: u16 = 4;
const UNDEFINED: u16 = 7;

const HEADER_LEN: usize = 8;
const ENTRY_LEN: usize = 12;
/// Of a directory: its length in entries before them, the place of the next directory after them.
const DIRECTORY_OVERHEAD: usize = 2 + 4;

/// What a JPEG segment holds at most, less the mark at its start.
const MAX_LEN: usize = 0xffff - 64;

/// Exif that holds `recipe`, a JSON text, and `parameters`; without the latter, or both, where they are too long.
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
        // Values start at even places.
        values.resize(values.len().next_multiple_of(2), 0);
    }
    if let Some(parameters) = parameters {
        let inner_at = values_at + values.len();
        entry(&mut directory, EXIF_DIRECTORY, LONG, 1, inner_at);
        // Big endian whatever the order of the rest: so the library that most tools use writes and reads it.
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

/// The text that [`write`] stored as recipe. Whatever does not look like it is none.
pub(super) fn recipe(exif: &[u8]) -> Option<String> {
    match exif.get(..4)? {
        b"II*\0" => description::<LittleEndian>(exif),
        b"MM\0*" => description::<BigEndian>(exif),
        _ => None,
    }
}

fn description<Order: ByteOrder>(exif: &[u8]) -> Option<String> {
    let at = |start: usize, len: usize| exif.get(start..start.checked_add(len)?);
    let directory = Order::read_u32(at(4, 4)?) as usize;
    let entries = usize::from(Order::read_u16(at(directory, 2)?));
    for index in 0..entries {
        let entry = at(directory + 2 + index * ENTRY_LEN, ENTRY_LEN)?;
        if Order::read_u16(entry) == IMAGE_DESCRIPTION && Order::read_u16(&entry[2..]) == ASCII {
            let (len, start) = (Order::read_u32(&entry[4..]) as usize, Order::read_u32(&entry[8..]) as usize);
            let text = at(start, len)?.strip_suffix(b"\0")?;
            return String::from_utf8(text.to_vec()).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_too_long_for_a_segment_are_left_out() {
        let long = "x".repeat(60_000);
        let both = write(Some("{}"), Some("short")).unwrap();
        let recipe_alone = write(Some("{}"), Some(&long)).unwrap();
        assert!(recipe_alone.len() < both.len());
        assert_eq!(recipe(&recipe_alone).as_deref(), Some("{}"));
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
