//! Reading the small files of a model directory.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::DiffusersError;
use crate::names::json_reason;
use crate::text_file;

/// Longest text file that is read. The largest in use, SDXL's `tokenizer.json`, has four megabytes.
const MAX_TEXT_LEN: u64 = 64 * 1024 * 1024;

/// Longest JSON file that is parsed.
const MAX_CONFIG_LEN: u64 = 1024 * 1024;

/// The text of a file that must be there.
pub(super) fn read_text(path: &Path) -> Result<String, DiffusersError> {
    text_file::read(path, MAX_TEXT_LEN)
        .map_err(|problem| DiffusersError::Text { path: path.to_path_buf(), problem })
}

/// The JSON in a file that must be there.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, DiffusersError> {
    let text = text_file::read(path, MAX_CONFIG_LEN)
        .map_err(|problem| DiffusersError::Text { path: path.to_path_buf(), problem })?;
    serde_json::from_str(&text)
        .map_err(|error| DiffusersError::Json { path: path.to_path_buf(), reason: json_reason(&error) })
}

/// The JSON object in a file that must be there.
pub(super) fn read_json_object(path: &Path) -> Result<Value, DiffusersError> {
    let value: Value = read_json(path)?;
    if !value.is_object() {
        return Err(DiffusersError::Json { path: path.to_path_buf(), reason: "not an object".into() });
    }
    Ok(value)
}
