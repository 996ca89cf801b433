//! JSON as Python writes it: also with the numbers that JSON does not have.

use serde_json::Value;

/// What Python writes for these numbers. `-Infinity` contains `Infinity`, so it goes first.
const NOT_JSON: [&str; 3] = ["-Infinity", "Infinity", "NaN"];

/// Parses `json`; numbers that JSON does not have are null.
///
/// # Errors
/// When it is not JSON in other ways either.
pub(super) fn parse(json: &str) -> serde_json::Result<Value> {
    serde_json::from_str(json).or_else(|error| match NOT_JSON.iter().any(|number| json.contains(number)) {
        true => serde_json::from_str(&with_null(json)),
        false => Err(error),
    })
}

/// `json` with `null` in place of each of [`NOT_JSON`] outside of strings.
fn with_null(json: &str) -> String {
    let mut written = String::with_capacity(json.len());
    let (mut in_string, mut is_escaped) = (false, false);
    let mut rest = json;
    while let Some(character) = rest.chars().next() {
        let number = NOT_JSON.iter().find(|number| !in_string && rest.starts_with(**number));
        if let Some(number) = number {
            written.push_str("null");
            rest = &rest[number.len()..];
            continue;
        }
        in_string ^= character == '"' && !is_escaped;
        is_escaped = in_string && character == '\\' && !is_escaped;
        written.push(character);
        rest = &rest[character.len_utf8()..];
    }
    written
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_that_json_lacks_are_null() {
        for (text, expected) in [
            (r#"{"a": [NaN, 1, -Infinity], "b": Infinity}"#, json!({ "a": [null, 1, null], "b": null })),
            (r#"{"a \" NaN": "NaN \\", "b": NaN}"#, json!({ "a \" NaN": "NaN \\", "b": null })),
            (r#"["NaN", "狐"]"#, json!(["NaN", "狐"])),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        for text in ["", "NaN NaN", "{\"a\": NaN", "[Infinity", "nan", "\"NaN"] {
            parse(text).unwrap_err();
        }
    }
}
