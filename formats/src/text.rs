//! Text from files and networks, made safe to print. Whatever shows foreign text, an error or a description, does it by
//! these functions.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether `character` could be a command for a terminal or change the order in which the text around it is
/// shown: the C0 and C1 controls, DEL, and the marks of bidirectional text.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `text` for a terminal: control characters are escaped as in Rust's literals, and everything after the
/// first `max_chars` characters is replaced by `…`.
///
/// ```
/// assert_eq!(sdq_formats::text::printable("a\u{1b}[2Jb", 80), "a\\u{1b}[2Jb");
/// assert_eq!(sdq_formats::text::printable("abc", 2), "ab…");
/// ```
pub fn printable(text: &str, max_chars: usize) -> Cow<'_, str> {
    match text.char_indices().nth(max_chars) {
        None => escaped(text, is_unsafe, escape),
        Some((end, _)) => Cow::Owned(escaped(&text[..end], is_unsafe, escape).into_owned() + "…"),
    }
}

/// `text` with the characters that `is_unsafe` finds written by `escape`.
fn escaped(text: &str, is_unsafe: impl Fn(char) -> bool, escape: impl Fn(&mut String, char)) -> Cow<'_, str> {
    if !text.contains(&is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut printed = String::with_capacity(text.len() + 64);
    for character in text.chars() {
        match is_unsafe(character) {
            true => escape(&mut printed, character),
            false => printed.push(character),
        }
    }
    Cow::Owned(printed)
}

/// As in Rust's literals.
fn escape(printed: &mut String, character: char) {
    printed.extend(character.escape_default());
}

/// The same where line breaks may stay.
fn is_unsafe_in_lines(character: char) -> bool {
    character != '\n' && is_unsafe(character)
}

/// `text` of several lines for a terminal: as [`printable`], whole and with its line breaks.
///
/// ```
/// assert_eq!(sdq_formats::text::printable_lines("a\n\u{9b}2Jb\n"), "a\n\\u{9b}2Jb\n");
/// ```
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    escaped(text, is_unsafe_in_lines, escape)
}

/// The same JSON without characters that control a terminal. `serde_json` escapes C0 controls in strings;
/// this escapes the others too. Outside of strings JSON has none of them, so the value stays the same.
pub fn printable_json(json: &str) -> Cow<'_, str> {
    // Line breaks are the only controls between values. All unsafe characters are below U+FFFF.
    escaped(json, is_unsafe_in_lines, |printed, character| {
        let _ = write!(printed, "\\u{:04x}", u32::from(character));
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_is_printed() {
        let text: String = (0..0x2100).filter_map(char::from_u32).collect();
        let printed = printable(&text, usize::MAX);
        assert!(!printed.contains(char::is_control) && !printed.contains('\u{202e}'));
        assert!(printed.contains("\\u{1b}") && printed.contains("\\u{9b}") && printed.contains("\\u{7f}"));
        assert!(printed.contains("é") && printed.contains("\\n"));
        assert_eq!(printable("a fox, 狐", 80), "a fox, 狐");
        assert_eq!(printable(&"é\u{7}".repeat(1000), 3), "é\\u{7}é…");
    }

    #[test]
    fn json_keeps_its_value() {
        let value = "a\u{7f}\u{9b}31m\u{1b}\n\"\u{202e}é☕";
        let json = format!("{{\n  \"k\": {}\n}}", serde_json::to_string(value).unwrap());
        let printed = printable_json(&json);
        assert!(printed.chars().all(|c| c == '\n' || !is_unsafe(c)), "{printed}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&printed).unwrap()["k"], value);
        assert_eq!(printable_json("{\"a\": 1}"), "{\"a\": 1}");
    }

    /// Every mark of Unicode's bidirectional algorithm (UAX #9, table 4), which could make a line read as
    /// another.
    #[test]
    fn no_mark_turns_the_text_around() {
        let marks =
            "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";
        for mark in marks.chars() {
            let text = format!("a{mark}b");
            let escaped = format!("\\u{{{:x}}}", u32::from(mark));
            assert_eq!(printable(&text, 80), format!("a{escaped}b"));
            assert_eq!(printable_json(&text), format!("a\\u{:04x}b", u32::from(mark)));
        }
        // The neighbouring characters are ordinary letters and spaces.
        for harmless in ["\u{61b}", "\u{61e}", "\u{200d}", "\u{2010}", "\u{202f}", "\u{2065}", "\u{206a}"] {
            assert_eq!(printable(harmless, 80), harmless);
        }
    }

    #[test]
    fn a_text_is_cut_after_its_last_character_that_fits() {
        for (text, max_chars, printed) in [
            ("", 0, ""),
            ("a", 0, "…"),
            ("狐狐", 2, "狐狐"),
            ("狐狐狐", 2, "狐狐…"),
            ("a\n", 2, "a\\n"),
            ("a\nb", 2, "a\\n…"),
            ("ab\u{1b}", 2, "ab…"),
        ] {
            assert_eq!(printable(text, max_chars), printed, "{text:?} at {max_chars}");
        }
        // A text that needs no change is not copied.
        assert!(matches!(printable("a fox", 5), Cow::Borrowed("a fox")));
        assert!(matches!(printable_json("[1,\n 2]"), Cow::Borrowed(_)));
    }
}
