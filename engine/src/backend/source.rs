//! Sources of the weights of a graph.

use std::collections::HashSet;

use sdq_formats::{
    WeightSpec,
    sdq::{Component, Weight, branch_names},
};

use crate::{Error, graph::Branch};

/// A component of a file, of which some weights may be read from other files of the same model.
#[derive(Clone, Debug)]
pub struct WeightSource<'w> {
    component: Component<'w>,
    overlays: Vec<(Component<'w>, &'w HashSet<String>)>,
    /// The low-rank branches beside the products, under the names of [`branch_names`].
    branches: Option<Component<'w>>,
}

impl<'w> WeightSource<'w> {
    /// Reads all weights from `component`.
    pub fn new(component: Component<'w>) -> WeightSource<'w> {
        WeightSource { component, overlays: Vec::new(), branches: None }
    }

    /// Reads `weights` from `component` instead. `weights` are `component.weight` names; those of other
    /// components are ignored.
    pub fn overlay(&mut self, component: Component<'w>, weights: &'w HashSet<String>) {
        self.overlays.push((component, weights));
    }

    /// Adds the low-rank branches in `component` beside their products.
    pub fn add_branches(&mut self, component: Component<'w>) {
        self.branches = Some(component);
    }

    /// The low-rank branches beside the product with the weight `spec`.
    pub fn branches(&self, spec: &WeightSpec) -> Vec<Branch> {
        let Some(component) = &self.branches else { return Vec::new() };
        let spec_of = |name: &str| component.weight(name).map(|weight| weight.spec.clone());
        let branch = |index: usize| {
            let [down, mid, up] = branch_names(&spec.name, index);
            Some(Branch { down: spec_of(&down)?, mid: spec_of(&mid), up: spec_of(&up)? })
        };
        (0..).map_while(branch).collect()
    }

    /// `text_encoder`, `unet` or `vae`.
    pub fn name(&self) -> &'w str {
        self.component.name()
    }

    /// The weight called `name`, from the last overlay that has it.
    pub fn weight(&self, name: &str) -> Option<Weight<'w>> {
        if let Some(weight) = self.branches.as_ref().and_then(|branches| branches.weight(name)) {
            return Some(weight);
        }
        if self.overlays.is_empty() {
            return self.component.weight(name);
        }
        let full = format!("{}.{name}", self.name());
        let over = self.overlays.iter().rev().find(|(_, weights)| weights.contains(&full));
        over.map_or(self.component, |(component, _)| *component).weight(name)
    }

    /// The weight that a graph describes as `spec`, converted by `bind`.
    ///
    /// # Errors
    /// When there is no weight of that name, role and shape, or `bind` does not support its type.
    pub(super) fn bind<T>(
        &self,
        spec: &WeightSpec,
        bind: impl FnOnce(Weight<'w>) -> Option<T>,
    ) -> Result<T, Error> {
        let weight = self.weight(&spec.name);
        let weight = weight.filter(|weight| spec.is_met_by(weight.spec, weight.weight_type));
        weight.and_then(bind).ok_or_else(|| Error::MissingWeight {
            component: self.name().to_owned(),
            name: spec.name.clone(),
            role: spec.role,
            shape: spec.shape.clone(),
        })
    }
}
