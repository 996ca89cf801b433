//! Reads a config.json so that no key is silently ignored.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::Error;

/// Largest width, depth or count that a config may contain: it bounds every allocation that depends on one.
pub(in crate::models) const MAX_SIZE: usize = 1 << 20;

/// Largest number of consecutive layers of one kind.
pub(in crate::models) const MAX_DEPTH: usize = 128;

/// The keys of one component's config. Each is read once; [`Fields::finish`] refuses those that were not
/// read.
pub(in crate::models) struct Fields<'a> {
    component: &'static str,
    object: &'a Map<String, Value>,
    unread: BTreeSet<&'a str>,
}

impl<'a> Fields<'a> {
    pub(in crate::models) fn new(component: &'static str, config: &'a Value) -> Result<Fields<'a>, Error> {
        let object = config.as_object().ok_or_else(|| Error::Config {
            component,
            key: "config.json".to_owned(),
            found: kind(config).to_owned(),
            expected: "an object".to_owned(),
        })?;
        Ok(Fields { component, object, unread: object.keys().map(String::as_str).collect() })
    }

    /// The value of `key`; null counts as absent, as in diffusers.
    pub(in crate::models) fn get(&mut self, key: &str) -> Option<&'a Value> {
        self.unread.remove(key);
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub(in crate::models) fn error(&self, key: &str, expected: impl Into<String>) -> Error {
        let found = self.object.get(key).map_or_else(|| "missing".to_owned(), Value::to_string);
        Error::Config { component: self.component, key: key.to_owned(), found, expected: expected.into() }
    }

    /// A whole number from 1 to [`MAX_SIZE`].
    pub(in crate::models) fn size(&mut self, key: &str, default: Option<usize>) -> Result<usize, Error> {
        match (self.get(key), default) {
            (None, Some(default)) => Ok(default),
            (value, _) => value
                .and_then(as_size)
                .ok_or_else(|| self.error(key, format!("a whole number from 1 to {MAX_SIZE}"))),
        }
    }

    /// A number of layers from 1 to [`MAX_DEPTH`].
    pub(in crate::models) fn depth(&mut self, key: &str, default: usize) -> Result<usize, Error> {
        let depths = self.depths(key, 1, default)?;
        Ok(depths[0])
    }

    /// A number of layers for each of `levels`, given as one number for all or as a list.
    pub(in crate::models) fn depths(
        &mut self,
        key: &str,
        levels: usize,
        default: usize,
    ) -> Result<Vec<usize>, Error> {
        let depths = self.per_level(key, levels, default)?;
        match depths.iter().all(|&depth| depth <= MAX_DEPTH) {
            true => Ok(depths),
            false => Err(self.error(key, format!("at most {MAX_DEPTH}"))),
        }
    }

    pub(in crate::models) fn float(&mut self, key: &str, default: f64) -> Result<f64, Error> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => {
                value.as_f64().filter(|v| v.is_finite()).ok_or_else(|| self.error(key, "a finite number"))
            }
        }
    }

    pub(in crate::models) fn flag(&mut self, key: &str, default: bool) -> Result<bool, Error> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.error(key, "true or false")),
        }
    }

    /// One of `choices` (name in the file, meaning).
    pub(in crate::models) fn choice<T: Copy>(
        &mut self,
        key: &str,
        default: &str,
        choices: &[(&str, T)],
    ) -> Result<T, Error> {
        let name = match self.get(key) {
            None => Some(default),
            Some(value) => value.as_str(),
        };
        let found = choices.iter().find(|(choice, _)| Some(*choice) == name);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let names: Vec<_> = choices.iter().map(|(choice, _)| *choice).collect();
            self.error(key, names.join(" or "))
        })
    }

    /// A list of sizes.
    pub(in crate::models) fn sizes(&mut self, key: &str) -> Result<Vec<usize>, Error> {
        let list = self.get(key).and_then(Value::as_array).and_then(|l| l.iter().map(as_size).collect());
        list.filter(|l: &Vec<usize>| (1..=16).contains(&l.len()))
            .ok_or_else(|| self.error(key, format!("a list of 1 to 16 whole numbers from 1 to {MAX_SIZE}")))
    }

    /// A list of `count` finite numbers; `None` where the key is absent.
    pub(in crate::models) fn floats(&mut self, key: &str, count: usize) -> Result<Option<Vec<f32>>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = value.as_array().filter(|list| list.len() == count);
        let float = |value: &Value| Some(value.as_f64()? as f32).filter(|value| value.is_finite());
        let floats: Option<Vec<f32>> = list.and_then(|list| list.iter().map(float).collect());
        floats.map(Some).ok_or_else(|| self.error(key, format!("a list of {count} finite numbers")))
    }

    /// A size for each of `levels`, given as one number for all or as a list.
    pub(in crate::models) fn per_level(
        &mut self,
        key: &str,
        levels: usize,
        default: usize,
    ) -> Result<Vec<usize>, Error> {
        match self.get(key) {
            None => Ok(vec![default; levels]),
            Some(Value::Array(_)) => {
                let list = self.sizes(key)?;
                if list.len() == levels {
                    Ok(list)
                } else {
                    Err(self.error(key, format!("{levels} values, one for each level")))
                }
            }
            Some(value) => as_size(value).map(|size| vec![size; levels]).ok_or_else(|| {
                self.error(key, format!("a whole number or a list of {levels} whole numbers"))
            }),
        }
    }

    /// A list of block names, one per level, each one of `choices`.
    pub(in crate::models) fn blocks<T: Copy>(
        &mut self,
        key: &str,
        choices: &[(&str, T)],
    ) -> Result<Vec<T>, Error> {
        let names: Vec<_> = choices.iter().map(|(choice, _)| *choice).collect();
        let expected = format!("a list of {}", names.join(" or "));
        let list = self.get(key).and_then(Value::as_array).filter(|list| (1..=16).contains(&list.len()));
        let blocks = list.and_then(|list| {
            let find = |v: &Value| choices.iter().find(|(choice, _)| v.as_str() == Some(choice));
            list.iter().map(|v| find(v).map(|(_, meaning)| *meaning)).collect()
        });
        blocks.ok_or_else(|| self.error(key, expected))
    }

    /// Keys that cannot change a result: training settings, bookkeeping.
    pub(in crate::models) fn ignore(&mut self, keys: &[&str]) {
        for key in keys {
            self.unread.remove(*key);
        }
    }

    /// Refuses `key` unless it is absent, null or has the one `supported` value.
    pub(in crate::models) fn only(&mut self, key: &str, supported: &Value) -> Result<(), Error> {
        match self.get(key) {
            None => Ok(()),
            Some(value) if value == supported => Ok(()),
            Some(value) if value.as_f64().is_some() && value.as_f64() == supported.as_f64() => Ok(()),
            Some(_) => Err(self.error(key, supported.to_string())),
        }
    }

    /// Whether `key` is present and not null.
    pub(in crate::models) fn has(&self, key: &str) -> bool {
        self.object.get(key).is_some_and(|value| !value.is_null())
    }

    /// Whether `key` is explicitly null, where that does not mean the default.
    pub(in crate::models) fn is_null(&self, key: &str) -> bool {
        self.object.get(key).is_some_and(Value::is_null)
    }

    /// Refuses every key that was not read, except private ones (`_class_name`) and ones whose feature is
    /// switched off.
    pub(in crate::models) fn finish(self) -> Result<(), Error> {
        let off = |key: &&str| matches!(self.object.get(*key), None | Some(Value::Null | Value::Bool(false)));
        match self.unread.iter().find(|key| !key.starts_with('_') && !off(key)) {
            None => Ok(()),
            Some(key) => Err(Error::UnknownConfigKey {
                component: self.component,
                key: (*key).to_owned(),
                found: self.object[*key].to_string(),
            }),
        }
    }
}

fn as_size(value: &Value) -> Option<usize> {
    let size = usize::try_from(value.as_u64()?).ok()?;
    (1..=MAX_SIZE).contains(&size).then_some(size)
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
