//! Names and shapes of a checkpoint's tensors, and the names of its modules in another convention.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use sdq_formats::checkpoint::Checkpoint;

/// Names and shapes of all tensors, by which a layout is recognised.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(BTreeMap<String, Vec<usize>>);

impl Names {
    /// The names and shapes of `checkpoint`.
    pub fn of(checkpoint: &Checkpoint) -> Names {
        checkpoint.tensors().map(|tensor| (tensor.name, tensor.shape)).collect()
    }

    /// The shape of the tensor called `name`, slowest dimension first.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.0.get(name).map(Vec::as_slice)
    }

    /// Whether there is a tensor called `name`.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Names that begin with `prefix`.
    pub fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let from = self.0.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.map(|(name, _)| name.as_str()).take_while(move |name| name.starts_with(prefix))
    }

    /// All names.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The number of consecutive modules `{list}.0`, `{list}.1`, …
    pub(crate) fn count(&self, list: &str) -> usize {
        (0..self.0.len()).take_while(|index| self.under(&format!("{list}.{index}.")).next().is_some()).count()
    }
}

impl FromIterator<(String, Vec<usize>)> for Names {
    fn from_iter<I: IntoIterator<Item = (String, Vec<usize>)>>(names: I) -> Names {
        Names(names.into_iter().collect())
    }
}

/// Names of modules in two conventions. The names of tensors within a module are the same in both.
#[derive(Clone, Debug, Default)]
pub struct ModuleNames {
    to_diffusers: HashMap<String, String>,
    from_diffusers: HashMap<String, String>,
}

impl ModuleNames {
    /// The diffusers name of `name`, a module or tensor named as in single files; unchanged where neither it
    /// nor a module around it is known.
    pub fn to_diffusers(&self, name: &str) -> String {
        renamed(&self.to_diffusers, name)
    }

    /// The inverse of [`ModuleNames::to_diffusers`].
    pub fn from_diffusers(&self, name: &str) -> String {
        renamed(&self.from_diffusers, name)
    }

    pub(crate) fn add(&mut self, single_file: impl Into<String>, diffusers: impl Into<String>) {
        let (single_file, diffusers) = (single_file.into(), diffusers.into());
        self.to_diffusers.insert(single_file.clone(), diffusers.clone());
        self.from_diffusers.insert(diffusers, single_file);
    }

    /// Adds the modules called `single_file` and `diffusers`, and the modules `inner` in them.
    pub(crate) fn add_all(&mut self, single_file: &str, diffusers: &str, inner: &[(&str, &str)]) {
        self.add(single_file, diffusers);
        for (own, other) in inner {
            self.add(format!("{single_file}.{own}"), format!("{diffusers}.{other}"));
        }
    }
}

/// Renames the longest known module with which `name` begins.
fn renamed(modules: &HashMap<String, String>, name: &str) -> String {
    let mut end = name.len();
    loop {
        if let Some(module) = modules.get(&name[..end]) {
            return format!("{module}{}", &name[end..]);
        }
        match name[..end].rfind('.') {
            Some(dot) => end = dot,
            None => return name.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_module_counts_and_parts_of_words_do_not() {
        let mut modules = ModuleNames::default();
        modules.add_all("block.1", "layer.0", &[("in.0", "norm1")]);
        for (own, diffusers) in [
            ("block.1.in.0.weight", "layer.0.norm1.weight"),
            ("block.1.other.weight", "layer.0.other.weight"),
            ("block.1", "layer.0"),
            ("block.12.in.0.weight", "block.12.in.0.weight"),
        ] {
            assert_eq!(modules.to_diffusers(own), diffusers);
            assert_eq!(modules.from_diffusers(diffusers), own);
        }
    }

    #[test]
    fn counts_a_list_up_to_its_first_gap() {
        let names: Names = ["a.0.w", "a.1.w", "a.3.w", "a.10.w"]
            .map(|name| (name.to_owned(), vec![1]))
            .into_iter()
            .collect();
        assert_eq!((names.count("a"), names.count("b")), (2, 0));
    }
}
