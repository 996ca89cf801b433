//! The common part of all roles: every network has weights in a file.

use std::fmt::Debug;

use sdq_formats::{Sensitivity, WeightSpec};

/// A weight, and its sensitivity to storage in fewer bits.
pub type RatedWeight = (WeightSpec, Sensitivity);

/// A network whose weights are a component of a file.
pub trait StoredNetwork: Debug + Send + Sync {
    /// Name of the component.
    fn component(&self) -> &'static str;

    /// Its weights, in reading order.
    fn weights(&self) -> Vec<WeightSpec>;

    /// How much the picture suffers when `weight`, one of its weights, is stored in fewer bits.
    fn sensitivity(&self, weight: &WeightSpec) -> Sensitivity;

    /// Its weights, in reading order, each with its sensitivity.
    fn rated_weights(&self) -> Vec<RatedWeight> {
        let rated = |weight: WeightSpec| {
            let sensitivity = self.sensitivity(&weight);
            (weight, sensitivity)
        };
        self.weights().into_iter().map(rated).collect()
    }
}
