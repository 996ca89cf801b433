//! Where the weights of a graph come from.

use std::collections::HashSet;

use sdq_formats::sdq::{Component, Weight};

/// A component of a file, some of whose weights are read from other files of the same model.
#[derive(Clone, Debug)]
pub struct WeightSource<'w> {
    component: Component<'w>,
    overlays: Vec<(Component<'w>, &'w HashSet<String>)>,
}

impl<'w> WeightSource<'w> {
    /// All weights from `component`.
    pub fn new(component: Component<'w>) -> WeightSource<'w> {
        WeightSource { component, overlays: Vec::new() }
    }

    /// Reads `weights` from `component` instead. `weights` are `component.weight` names; those of other components do
    /// no harm.
    pub fn overlay(&mut self, component: Component<'w>, weights: &'w HashSet<String>) {
        self.overlays.push((component, weights));
    }

    /// `text_encoder`, `unet` or `vae`.
    pub fn name(&self) -> &'w str {
        self.component.name()
    }

    /// The weight called `name`, from the last overlay that has it.
    pub fn weight(&self, name: &str) -> Option<Weight<'w>> {
        if self.overlays.is_empty() {
            return self.component.weight(name);
        }
        let full = format!("{}.{name}", self.name());
        let over = self.overlays.iter().rev().find(|(_, weights)| weights.contains(&full));
        over.map_or(self.component, |(component, _)| *component).weight(name)
    }
}
