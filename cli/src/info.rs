//! `sdq info`: describes a file, or this machine.

use sdq::{
    inspect::{self, InspectOptions},
    text::printable,
};
use serde_json::Value;

use crate::{
    args::{DeviceArgs, InfoArgs},
    output,
};

/// Maximum number of characters of a text that are shown; the JSON contains all of them.
const SHOWN_CHARS: usize = 20_000;

pub(crate) fn run(args: &InfoArgs) -> anyhow::Result<()> {
    let description = match &args.file {
        None => inspect::machine(&DeviceArgs::default().options()?)?,
        Some(path) => inspect::file(path, InspectOptions { verify: args.verify, whole: args.json })?,
    };
    match args.json {
        true => output::say_json(&description),
        false => print_plainly(&description, 0),
    }
    Ok(())
}

/// Prints an object as indented lines: names on the left, values on the right.
fn print_plainly(value: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::Object(inner) if inner.is_empty() => {}
                    Value::Array(inner) if inner.is_empty() => {}
                    Value::Object(_) | Value::Array(_) => {
                        say!("{indent}{}:", printable(name, SHOWN_CHARS));
                        print_plainly(field, depth + 1);
                    }
                    Value::String(text) if text.is_empty() => {}
                    Value::String(text) => {
                        say!("{indent}{}: {}", printable(name, SHOWN_CHARS), printable(text, SHOWN_CHARS));
                    }
                    other => say!("{indent}{}: {other}", printable(name, SHOWN_CHARS)),
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                match item {
                    Value::Object(fields) => {
                        let fields = fields.values().map(plain).collect::<Vec<_>>();
                        say!("{indent}{}", fields.join("  "));
                    }
                    other => say!("{indent}{}", plain(other)),
                }
            }
        }
        other => say!("{indent}{}", plain(other)),
    }
}

fn plain(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    printable(&text, SHOWN_CHARS).into_owned()
}
