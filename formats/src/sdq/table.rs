//! The table of contents in its stored form: unchecked data. The reader checks every field.

use std::fmt;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, value::RawValue};

use super::manifest::Manifest;

/// The whole table.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Table {
    pub(super) manifest: Manifest,
    #[serde(deserialize_with = "components")]
    pub(super) components: Vec<ComponentEntry>,
    pub(super) texts: Vec<TextEntry>,
}

/// A component: its section in the file and its weights in reading order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ComponentEntry {
    pub(super) name: String,
    pub(super) offset: u64,
    pub(super) length: u64,
    #[serde(deserialize_with = "config")]
    pub(super) config: Value,
    pub(super) weights: Vec<WeightEntry>,
}

/// Most components. A model has up to five, the file of kernels' conformance cases some hundred.
const MAX_COMPONENTS: usize = 1024;
/// Length of all configs together in bytes, as [`MAX_CONFIG_LEN`] for each.
const MAX_CONFIGS_LEN: usize = 16 * MAX_CONFIG_LEN;
/// Longest config of a component in bytes. JSON of empty lists takes twenty times as much in memory.
const MAX_CONFIG_LEN: usize = 256 << 10;

fn components<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ComponentEntry>, D::Error> {
    struct ComponentsVisitor;

    impl<'de> Visitor<'de> for ComponentsVisitor {
        type Value = Vec<ComponentEntry>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MAX_COMPONENTS} components")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let (mut components, mut configs_len) = (Vec::new(), 0);
            while let Some(component) = entries.next_element()? {
                if components.len() == MAX_COMPONENTS {
                    return Err(A::Error::custom(format_args!(
                        "there are more than {MAX_COMPONENTS} components"
                    )));
                }
                let component: ComponentEntry = component;
                configs_len += component.config.to_string().len();
                if configs_len > MAX_CONFIGS_LEN {
                    let limit = MAX_CONFIGS_LEN >> 20;
                    return Err(A::Error::custom(format_args!(
                        "the configs have more than {limit} MiB together"
                    )));
                }
                components.push(component);
            }
            Ok(components)
        }
    }

    deserializer.deserialize_seq(ComponentsVisitor)
}

pub(super) fn config<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    let text = Box::<RawValue>::deserialize(deserializer)?;
    match text.get().len() {
        len if len > MAX_CONFIG_LEN => {
            Err(D::Error::custom(format_args!("a config has {len} bytes, expected at most {MAX_CONFIG_LEN}")))
        }
        _ => serde_json::from_str(text.get()).map_err(D::Error::custom),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{names::MAX_NAME_LEN, sdq::header::MAX_TABLE_LEN};

    #[test]
    fn bounds_are_those_of_the_specification() {
        let specification = include_str!("../../../docs/format.md");
        let words = specification.split_whitespace().collect::<Vec<_>>().join(" ");
        for bound in [
            format!("the table must be at most {} MiB long", MAX_TABLE_LEN >> 20),
            format!("refuses a table of contents of more than {} MiB", MAX_TABLE_LEN >> 20),
            format!("more than {MAX_COMPONENTS} components"),
            format!(
                "of more than {} KiB, or {} MiB of configs together",
                MAX_CONFIG_LEN >> 10,
                MAX_CONFIGS_LEN >> 20
            ),
            format!("must be 1 to {MAX_NAME_LEN} bytes long"),
            format!("one printable line each, at most {MAX_NAME_LEN} bytes"),
        ] {
            assert!(words.contains(&bound), "docs/format.md: {bound}");
        }
    }
}
