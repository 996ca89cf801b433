//! Reads the small files of a model directory.

use std::path::Path;

use serde_json::Value;

use super::error::PublishedError;
use sdq_formats::links;
use sdq_formats::names::{json_reason, quote};
use sdq_formats::text_file;

/// Maximum length of a text file. The largest in use, SDXL's `tokenizer.json`, has four megabytes.
const MAX_TEXT_LEN: u64 = 64 * 1024 * 1024;

/// Maximum length of a JSON file.
const MAX_CONFIG_LEN: u64 = 1024 * 1024;

/// Checks that there is something at `path`.
pub(super) fn check_exists(path: &Path) -> Result<(), PublishedError> {
    match links::metadata(path) {
        Ok(_) => Ok(()),
        Err(_) if !links::is_there(path) && !path.ancestors().any(Path::is_symlink) => {
            Err(PublishedError::NotFound { path: path.to_path_buf() })
        }
        Err(source) => Err(PublishedError::Io { path: path.to_path_buf(), source }),
    }
}

/// The text of a required file.
pub(super) fn read_text(path: &Path) -> Result<String, PublishedError> {
    text_file::read(path, MAX_TEXT_LEN)
        .map_err(|problem| PublishedError::Text { path: path.to_path_buf(), problem })
}

/// The JSON object in a required file.
pub(super) fn read_json_object(path: &Path) -> Result<Value, PublishedError> {
    let text = text_file::read(path, MAX_CONFIG_LEN)
        .map_err(|problem| PublishedError::Text { path: path.to_path_buf(), problem })?;
    let invalid = |reason| PublishedError::Json { path: path.to_path_buf(), reason };
    let value: Value = serde_json::from_str(&text).map_err(|error| invalid(json_reason(&error)))?;
    let Some(object) = value.as_object() else { return Err(invalid("expected an object".into())) };
    if let (1, Some(message)) = (object.len(), object.get("error").and_then(Value::as_str)) {
        let message = quote(message);
        return Err(invalid(format!("it is a server's message, \"{message}\"; download the model again")));
    }
    Ok(value)
}
