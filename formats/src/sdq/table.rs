//! The table of contents in its stored form: unchecked data. The reader checks every field.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::manifest::Manifest;

/// The whole table.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Table {
    pub(super) manifest: Manifest,
    pub(super) components: Vec<ComponentEntry>,
    pub(super) texts: Vec<TextEntry>,
}

/// A component: its section in the file and its weights in reading order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ComponentEntry {
    pub(super) name: String,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) config: Value,
    pub(super) weights: Vec<WeightEntry>,
}

/// A weight. Its type determines how its parts are read.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WeightEntry {
    pub(super) name: String,
    pub(super) role: String,
    pub(super) shape: Vec<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) inputs: Vec<usize>,
    #[serde(rename = "type")]
    pub(super) weight_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) relative_error: Option<f64>,
    pub(super) parts: Vec<PartEntry>,
}

/// A run of bytes that belongs to a weight.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct PartEntry {
    pub(super) part: String,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) crc32: u32,
}

/// An embedded text file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct TextEntry {
    pub(super) name: String,
    pub(super) offset: u64,
    pub(super) length: u64,
    pub(super) crc32: u32,
}
