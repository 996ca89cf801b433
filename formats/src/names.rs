//! Text from a file within a one-line error: printable, and of bounded length.

use crate::text::printable;

/// Maximum length of the name of a tensor, component or embedded file, in bytes.
pub(crate) const MAX_NAME_LEN: usize = 1024;

/// Maximum number of characters of foreign text that an error quotes.
const MAX_QUOTE: usize = 160;

/// The rule that [`is_printable`] checks, as errors state it.
pub(crate) const NAME_RULE: &str = "a name has 1 to 1024 bytes and no control characters";

/// The rule that [`is_relative_path`] checks, as errors state it.
pub(crate) const PATH_RULE: &str = "a path is relative, with `/` between its parts and without `.` or `..`";

/// Whether `name` is suitable for tables and errors: not empty, at most [`MAX_NAME_LEN`] bytes, no control
/// characters (which would break lines and control terminals).
pub(crate) fn is_printable(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME_LEN && !name.chars().any(char::is_control)
}

/// Whether `name` is a plain relative path with `/` between its parts. On every system, such a path stays
/// inside the folder that it is joined to.
pub fn is_relative_path(name: &str) -> bool {
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\\', ':']);
    is_printable(name) && name.split('/').all(plain)
}

/// `text` as [`printable`], cut to a length that fits a line.
pub fn quote(text: &str) -> String {
    printable(text, MAX_QUOTE).into_owned()
}

/// The message of `error` as one line of bounded length; it may quote long parts of the file.
pub fn json_reason(error: &serde_json::Error) -> String {
    quote(&error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_stay_inside() {
        for good in ["LICENSE", "tokenizer/vocab.json", "a/..b/c", "name with spaces"] {
            assert!(is_relative_path(good), "{good}");
        }
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", ".", "c:\\x", "a\\b", "a\nb"] {
            assert!(!is_relative_path(bad), "{bad}");
        }
        assert!(!is_printable(&"a".repeat(MAX_NAME_LEN + 1)));
        assert!(NAME_RULE.contains(&MAX_NAME_LEN.to_string()));
    }

    #[test]
    fn quotes_are_one_bounded_line() {
        assert_eq!(quote("a\nb\u{1b}[2J"), "a\\nb\\u{1b}[2J");
        assert!(quote(&"é".repeat(10_000)).chars().count() < 200);
    }
}
