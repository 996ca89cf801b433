//! Values of a config's keys, and words that are similar to a wrong one.

use serde_json::Value;

use crate::error::SchedulerError;

/// Parses an option's text from a command line: as JSON if it is valid (`0.5`, `true`), otherwise as a
/// string.
pub fn value_from_text(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// The word of `words` that is most similar to `word`, if any is similar enough.
pub(crate) fn nearest<'a>(word: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    words
        .into_iter()
        .map(|candidate| (similarity(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= MIN_SIMILARITY)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// Minimum similarity of a word that is suggested for another.
pub(crate) const MIN_SIMILARITY: f64 = 0.5;

/// The similarity of two words, from 0 to 1.
pub(crate) fn similarity(word: &str, other: &str) -> f64 {
    strsim::normalized_damerau_levenshtein(word, other)
}

/// The value of a word among `names`.
pub(crate) fn one_of<T: Copy>(key: &str, value: &Value, names: &[(&str, T)]) -> Result<T, SchedulerError> {
    value
        .as_str()
        .and_then(|word| names.iter().find(|(name, _)| *name == word))
        .map(|(_, meaning)| *meaning)
        .ok_or_else(|| {
            let words: Vec<&str> = names.iter().map(|(name, _)| *name).collect();
            invalid(key, format!("one of {}", words.join(", ")), value)
        })
}

pub(crate) fn optional<T>(
    key: &str,
    value: &Value,
    read: impl Fn(&str, &Value) -> Result<T, SchedulerError>,
) -> Result<Option<T>, SchedulerError> {
    if value.is_null() { Ok(None) } else { read(key, value).map(Some) }
}

pub(crate) fn text<'a>(key: &str, value: &'a Value) -> Result<&'a str, SchedulerError> {
    value.as_str().ok_or_else(|| invalid(key, "a string", value))
}

pub(crate) fn flag(key: &str, value: &Value) -> Result<bool, SchedulerError> {
    value.as_bool().ok_or_else(|| invalid(key, "true or false", value))
}

pub(crate) fn number(key: &str, value: &Value) -> Result<f64, SchedulerError> {
    value.as_f64().filter(|number| number.is_finite()).ok_or_else(|| invalid(key, "a number", value))
}

pub(crate) fn whole(key: &str, value: &Value, min: u64, max: u64) -> Result<usize, SchedulerError> {
    value
        .as_u64()
        .filter(|number| (min..=max).contains(number))
        .and_then(|number| usize::try_from(number).ok())
        .ok_or_else(|| invalid(key, format!("a whole number from {min} to {max}"), value))
}

pub(crate) fn beta(key: &str, value: &Value) -> Result<f64, SchedulerError> {
    let expected = "a number between 0 and 1";
    value.as_f64().filter(|beta| 0.0 < *beta && *beta < 1.0).ok_or_else(|| invalid(key, expected, value))
}

pub(crate) fn betas(key: &str, value: &Value) -> Result<Vec<f64>, SchedulerError> {
    let values = value.as_array().ok_or_else(|| invalid(key, "a list of numbers", value))?;
    values.iter().map(|value| beta(key, value)).collect()
}

pub(crate) fn invalid(
    key: &str,
    expected: impl Into<String>,
    found: impl std::fmt::Display,
) -> SchedulerError {
    let mut found = found.to_string();
    // A list or an object could have any length, and the message is one line.
    if let Some((end, _)) = found.char_indices().nth(60) {
        found.truncate(end);
        found.push('…');
    }
    SchedulerError::InvalidValue { key: key.to_owned(), expected: expected.into(), found }
}
