//! The content of a LoRA's file, described without a model.

use std::collections::{BTreeMap, BTreeSet};

use sdq_formats::checkpoint::Checkpoint;

use super::{LoraError, content, names, what_else};

/// The content of a LoRA's file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoraSummary {
    /// Number of adapted layers of each network, by the network's name in this file's convention.
    pub layers: BTreeMap<&'static str, usize>,
    /// Ranks of the branches.
    pub ranks: BTreeSet<usize>,
    /// The family of models that names and widths suggest, such as `SDXL`.
    pub family: &'static str,
    /// The words that come with it.
    pub words: Vec<String>,
    /// Names of tensors that are not part of a LoRA.
    pub left_out: Vec<String>,
}

impl LoraSummary {
    /// Describes the file `checkpoint`.
    ///
    /// # Errors
    /// When it is not a LoRA, or an adapter of a kind that is not supported.
    pub fn of(checkpoint: &Checkpoint) -> Result<LoraSummary, LoraError> {
        let content = content(checkpoint)?;
        if content.modules.is_empty() {
            return Err(LoraError::Other(what_else(checkpoint)));
        }
        let mut summary = LoraSummary {
            family: super::family(checkpoint),
            words: content.words.into_iter().map(|(word, _)| word).collect(),
            left_out: content.left_out,
            ..LoraSummary::default()
        };
        for (name, module) in content.modules {
            *summary.layers.entry(names::network(&name)).or_default() += 1;
            summary.ranks.extend(module.down.and_then(|down| down.shape.first().copied()));
        }
        Ok(summary)
    }
}
