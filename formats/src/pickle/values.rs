//! The values of a pickle: one list, whose members refer to each other by index.

use std::ops::Range;

use super::globals::Global;
use crate::names::MAX_NAME_LEN;

/// An index into [`Values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id(pub(super) u32);

/// A value that a pickle describes.
#[derive(Clone, Debug)]
pub(super) enum Value {
    None,
    Int(i64),
    /// A text, by its range in the pickle.
    Text(Range<usize>),
    /// A value that tensors do not need: booleans, fractions, bytes, very large numbers.
    Other,
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global(Global),
    /// The object that a call of a harmless global returns, with the state that was set on it.
    Object {
        class: Global,
        args: Id,
        state: Option<Id>,
    },
    /// The object that `persistent_load` returns for this tuple: a storage.
    Persistent(Id),
}

/// All values of one pickle, and the pickle that their texts refer to.
#[derive(Debug)]
pub(super) struct Values<'a> {
    pub(super) pickle: &'a [u8],
    pub(super) values: Vec<Value>,
}

impl Values<'_> {
    /// Indices of all values.
    pub(super) fn all(&self) -> impl Iterator<Item = Id> {
        (0..self.values.len() as u32).map(Id)
    }

    pub(super) fn get(&self, id: Id) -> &Value {
        &self.values[id.0 as usize]
    }

    /// The text at `id`, if it is short enough to be a name. A pickle can refer to one text a million times, and each look
    /// reads all of it.
    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            // It was checked when it was read.
            Value::Text(range) if range.len() <= MAX_NAME_LEN => {
                std::str::from_utf8(&self.pickle[range.clone()]).ok()
            }
            _ => None,
        }
    }

    /// The beginning of a text of any length: more than a name can have of one that is longer.
    pub(super) fn start_of_text(&self, id: Id) -> Option<&str> {
        let Value::Text(range) = self.get(id) else { return None };
        let start = &self.pickle[range.start..range.end.min(range.start + MAX_NAME_LEN + 1)];
        Some(start.utf8_chunks().next().map_or("", |chunk| chunk.valid()))
    }

    /// The value as a non-negative integer.
    pub(super) fn size(&self, id: Id) -> Option<u64> {
        match self.get(id) {
            Value::Int(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    /// The elements of a tuple or list.
    pub(super) fn members(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(members) | Value::List(members) => Some(members),
            // `torch.Size((…))`.
            Value::Object { args, .. } => match self.get(*args) {
                Value::Tuple(args) if args.len() == 1 => match self.get(args[0]) {
                    Value::Tuple(members) | Value::List(members) => Some(members),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }
}
