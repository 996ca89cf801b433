//! Requests from a file of prompts: one prompt per line, or prompts with settings in CSV or JSON.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use crate::{Error, Request};

/// Maximum length of a file of prompts, in bytes. JSON takes up to twenty times as much in memory.
const MAX_FILE: u64 = 4 << 20;

/// Maximum number of prompts of a file.
const MAX_ENTRIES: usize = 100_000;

/// Key of the seed, and its value that stands for a random one.
const SEED: &str = "seed";
const RANDOM: i64 = -1;

/// Keys whose values are texts, also where a cell of a table looks like a number.
const TEXTS: [&str; 4] = ["prompt", "negative_prompt", "scheduler", "cache"];

/// A prompt of a file, with its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The file.
    path: PathBuf,
    /// Its number in the file, from 1.
    number: usize,
    /// Keys and values of the JSON form of [`Request`].
    settings: Map<String, Value>,
}

impl Entry {
    /// Whether the file gives the setting `key`.
    pub fn has(&self, key: &str) -> bool {
        self.settings.contains_key(key)
    }

    /// Whether the file asks for a random seed, by -1, as other programs do. The caller chooses it.
    pub fn asks_for_random_seed(&self) -> bool {
        self.settings.get(SEED) == Some(&RANDOM.into())
    }

    /// `base` with the settings of this entry; the seed is that of `base` where this entry asks for a random one.
    ///
    /// # Errors
    /// [`Error::Prompts`] when a value has the wrong type.
    pub fn request(&self, base: &Request) -> Result<Request, Error> {
        let failed = |error: serde_json::Error| self.error(&plain(&error.to_string()));
        let mut request = serde_json::to_value(base).map_err(failed)?;
        if let Some(object) = request.as_object_mut() {
            let mut settings = self.settings.clone();
            if self.asks_for_random_seed() {
                settings.remove(SEED);
            }
            object.extend(settings);
        }
        let request: Request = serde_json::from_value(request).map_err(failed)?;
        Ok(Request { init_image: base.init_image.clone(), mask: base.mask.clone(), ..request })
    }

    fn error(&self, problem: &str) -> Error {
        Error::Prompts { path: self.path.clone(), problem: format!("prompt {}: {problem}", self.number) }
    }
}

/// Reads the prompts in `source`, the contents of the file `path`.
///
/// A JSON list has prompts, or objects with the keys of a [`Request`]. A file whose name ends in `.csv` has these keys in
/// its first line and a prompt with its settings in each further one; empty cells are left open. Any other file has one
/// prompt per line. Empty lines are skipped.
///
/// # Errors
/// [`Error::Prompts`] when the file cannot be read, is longer than 4 MiB, has a key that is not a setting, or no prompt.
pub fn read(path: &Path, source: impl Read) -> Result<Vec<Entry>, Error> {
    let failed = |problem: String| Error::Prompts { path: path.to_path_buf(), problem };
    let mut text = String::new();
    let read = source.take(MAX_FILE + 1).read_to_string(&mut text);
    read.map_err(|error| failed(error.to_string()))?;
    if text.len() as u64 > MAX_FILE {
        return Err(failed(format!("the file is longer than {MAX_FILE} bytes")));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let is_csv = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv"));
    let settings = if text.trim_start().starts_with('[') {
        from_json(text)
    } else if is_csv {
        from_csv(text)
    } else {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        Ok(lines.take(MAX_ENTRIES + 1).map(|line| with_prompt(line.to_owned())).collect())
    };
    let settings = settings.map_err(failed)?;
    if settings.is_empty() {
        return Err(failed("the file contains no prompts".to_owned()));
    }
    if settings.len() > MAX_ENTRIES {
        return Err(failed(format!("the file has more than {MAX_ENTRIES} prompts")));
    }
    let entry = |(index, settings)| Entry { path: path.to_path_buf(), number: index + 1, settings };
    let entries: Vec<Entry> = settings.into_iter().enumerate().map(entry).collect();
    let unknown = |entry: &Entry| {
        let key = entry.settings.keys().find(|key| !Request::KEYS.contains(&key.as_str()))?;
        let known = Request::KEYS.join(", ");
        Some(entry.error(&format!("`{key}` is not a setting; settings are {known}")))
    };
    match entries.iter().find_map(unknown) {
        Some(error) => Err(error),
        None => Ok(entries),
    }
}

fn with_prompt(prompt: String) -> Map<String, Value> {
    Map::from_iter([("prompt".to_owned(), Value::String(prompt))])
}

fn from_json(text: &str) -> Result<Vec<Map<String, Value>>, String> {
    let items: Vec<Value> =
        serde_json::from_str(text).map_err(|error| format!("the file is not a list in JSON: {error}"))?;
    let settings = |(index, item)| match item {
        Value::String(prompt) => Ok(with_prompt(prompt)),
        Value::Object(settings) => Ok(settings),
        _ => Err(format!("prompt {} is neither a text nor an object", index + 1)),
    };
    items.into_iter().enumerate().map(settings).collect()
}

fn from_csv(text: &str) -> Result<Vec<Map<String, Value>>, String> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
    let keys = reader.headers().map_err(|error| error.to_string())?.clone();
    let row = |row: Result<csv::StringRecord, csv::Error>| {
        let row = row.map_err(|error| error.to_string())?;
        let cells = keys.iter().zip(&row).filter(|(_, cell)| !cell.is_empty());
        Ok(cells.map(|(key, cell)| (key.to_owned(), value(key, cell))).collect())
    };
    reader.records().take(MAX_ENTRIES + 1).map(row).collect()
}

/// A message of serde with the words of a user for its types.
fn plain(message: &str) -> String {
    const WORDS: [(&str, &str); 7] = [
        ("expected u64", "expected a whole number of at least 0"),
        ("expected usize", "expected a whole number of at least 0"),
        ("expected f32", "expected a number"),
        ("expected f64", "expected a number"),
        ("expected a boolean", "expected true or false"),
        ("expected a string", "expected a text"),
        ("invalid type: string", "invalid type: the text"),
    ];
    WORDS.iter().fold(message.to_owned(), |message, (from, to)| message.replace(from, to))
}

/// The value of a cell: a number or a boolean where it is one, unless the key's values are texts.
fn value(key: &str, cell: &str) -> Value {
    let text = || Value::String(cell.to_owned());
    if TEXTS.contains(&key) { text() } else { serde_json::from_str(cell).unwrap_or_else(|_| text()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(name: &str, text: &str) -> Result<Vec<Request>, String> {
        let base = Request::new("base").steps(7).seed(3);
        let entries = read(Path::new(name), text.as_bytes()).map_err(|error| error.to_string())?;
        entries.iter().map(|entry| entry.request(&base).map_err(|error| error.to_string())).collect()
    }

    #[test]
    fn lines_tables_and_json_are_read() {
        let base = || Request::new("a cat, asleep").steps(7).seed(3);
        assert_eq!(requests("p.txt", "\u{feff}a cat, asleep\n\n \r\n").unwrap(), [base()]);
        let two = [base().steps(9), Request::new("12").steps(7).seed(5)];
        let csv = "prompt,steps, seed\n\"a cat, asleep\",9,\n12,,5\n";
        assert_eq!(requests("p.CSV", csv).unwrap(), two);
        let json = r#" ["a cat, asleep", {"prompt": "12", "seed": 5}]"#;
        assert_eq!(requests("p.json", json).unwrap(), [base(), two[1].clone()]);
        // Without a prompt of its own, an entry has that of the command line.
        assert_eq!(requests("p.json", r#"[{"steps": 1}]"#).unwrap()[0].prompt, "base");
    }

    #[test]
    fn errors_name_file_prompt_and_key() {
        for (name, text, words) in [
            ("p.txt", " \n", &["p.txt", "no prompts"][..]),
            ("p.json", "[{\"prompt\": \"a\"}, {\"stpes\": 1}]", &["prompt 2", "`stpes`", "steps, "]),
            ("p.json", "[1]", &["prompt 1", "object"]),
            ("p.json", "[", &["JSON"]),
            ("p.json", "[{\"steps\": \"x\"}]", &["prompt 1", "the text \"x\", expected a whole number"]),
            ("p.csv", "prompt,seed\na,b\n", &["prompt 1", "the text \"b\", expected a whole number"]),
            ("p.csv", "prompt,seed\na\n", &["1 fields"]),
        ] {
            let error = requests(name, text).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
        let many = "a\n".repeat(MAX_ENTRIES + 1);
        for name in ["p.txt", "p.csv"] {
            let error = requests(name, &format!("prompt\n{many}")).unwrap_err();
            assert!(error.contains("more than 100000"), "{error}");
        }
        let long = "a\n".repeat(MAX_FILE as usize / 2 + 1);
        assert!(requests("p.txt", &long).unwrap_err().contains("longer than"));
    }

    #[test]
    fn a_seed_of_minus_one_is_random() {
        for text in ["prompt,seed\na,-1\n", r#"[{"prompt": "a", "seed": -1}]"#] {
            let entries = read(Path::new("p.csv"), text.as_bytes()).unwrap();
            assert!(entries[0].asks_for_random_seed(), "{text}");
            assert_eq!(entries[0].request(&Request::new("b").seed(7)).unwrap().seed, 7);
        }
    }

    #[test]
    fn pictures_of_the_command_line_stay() {
        let picture = crate::Picture { width: 1, height: 1, rgb: vec![1, 2, 3] };
        let base = Request { init_image: Some(picture), ..Request::new("base") };
        let entries = read(Path::new("p"), &b"a dog"[..]).unwrap();
        assert_eq!(entries[0].request(&base).unwrap(), Request { prompt: "a dog".to_owned(), ..base });
        assert!(entries[0].has("prompt") && !entries[0].has("seed"));
    }
}
