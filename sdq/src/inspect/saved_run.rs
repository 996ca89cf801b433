//! Describes saved runs.

use std::path::Path;

use serde_json::{Value, json};

use crate::{Error, Request, recipe::Recipe, run::Unfinished};

/// Describes the saved run at `path`: its request, its model, and how far it is.
pub(super) fn describe(path: &Path) -> Result<Value, Error> {
    let unfinished = Unfinished::open(path)?;
    let saved = &unfinished.saved;
    let (name, fingerprint) = saved.model();
    let (finished, step) = saved.progress()?;
    let recipe = unfinished.files.name_in(Recipe {
        request: Request { init_image: None, mask: None, ..saved.request().clone() },
        model: name.to_owned(),
        fingerprint: (!fingerprint.is_empty()).then(|| fingerprint.to_owned()),
        ..Recipe::default()
    });
    Ok(json!({
        "saved_run": {
            "finished_pictures": finished,
            "finished_steps": step,
            "output": unfinished.files.output.display().to_string(),
        },
        "recipe": recipe.json(),
    }))
}
