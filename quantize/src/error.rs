//! Errors of converting a checkpoint.

use std::{io, path::PathBuf};

use sdq_formats::sdq::SdqError;

use crate::EncodeError;

/// Maximum number of tensor names that a message lists.
const LISTED: usize = 5;

/// Errors of converting a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// A file of the model cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The output cannot be written.
    #[error(transparent)]
    Output(#[from] SdqError),
    /// A component that the model needs is missing from the directory.
    #[error("{}: the model has no component `{component}`", path.display())]
    MissingComponent {
        /// The model directory.
        path: PathBuf,
        /// `text_encoder`, `unet` or `vae`.
        component: String,
    },
    /// The directory contains a component that is not used.
    #[error("{}: component `{component}` ({class_name}) is not part of a model that sdq runs", path.display())]
    SurplusComponent {
        /// The model directory.
        path: PathBuf,
        /// Its name in `model_index.json`.
        component: String,
        /// Its class there.
        class_name: String,
    },
    /// Tensors that the component's config requires are missing from its files.
    #[error("{}: the model needs {}, which the weights do not contain", path.display(), list(tensors))]
    MissingTensors {
        /// The component's folder.
        path: PathBuf,
        /// Their canonical names, at least one.
        tensors: Vec<String>,
    },
    /// Tensors that the component's config does not require: ignoring them could change the picture.
    #[error("{}: the weights contain {}, which the model does not use", path.display(), list(tensors))]
    SurplusTensors {
        /// The component's folder.
        path: PathBuf,
        /// Their names.
        tensors: Vec<String>,
    },
    /// A tensor has another shape than the component's config requires.
    #[error("{}: tensor `{tensor}` has the shape {found:?}, expected {expected:?}", path.display())]
    Shape {
        /// The component's folder.
        path: PathBuf,
        /// Its canonical name.
        tensor: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape according to the config.
        expected: Vec<usize>,
    },
    /// A tensor cannot be read as numbers, or its values cannot be stored: infinite, not a number, or too large for
    /// the type.
    #[error("{}: {problem}", path.display())]
    Tensor {
        /// The component's folder.
        path: PathBuf,
        /// The problem.
        problem: EncodeError,
    },
    /// The model has no weights, so there is nothing to convert.
    #[error("{}: the model has no weights", path.display())]
    Empty {
        /// The model directory.
        path: PathBuf,
    },
    /// The system could not start the threads.
    #[error("cannot start worker threads: {0}")]
    Threads(String),
    /// The caller cancelled; nothing was written.
    #[error("stopped after {done} of {total} tensors; nothing was written")]
    Cancelled {
        /// Tensors converted.
        done: usize,
        /// Tensors to convert.
        total: usize,
    },
}

fn list(tensors: &[String]) -> String {
    let names: Vec<_> = tensors.iter().take(LISTED).map(|name| format!("`{name}`")).collect();
    let noun = if tensors.len() == 1 { "tensor" } else { "tensors" };
    match tensors.len().saturating_sub(LISTED) {
        0 => format!("{noun} {}", names.join(", ")),
        more => format!("{noun} {} and {more} more", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn a_long_list_is_cut_and_counted() {
        let names: Vec<String> = (0..7).map(|i| format!("t{i}")).collect();
        assert_eq!(list(&names[..1]), "tensor `t0`");
        assert_eq!(list(&names), "tensors `t0`, `t1`, `t2`, `t3`, `t4` and 2 more");
    }
}
