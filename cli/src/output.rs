//! Everything that the command writes to its two outputs, safe for a terminal.
//!
//! Names, texts and errors come out of files, which anyone may have made. So every line passes through here and no character
//! of it drives the terminal, whoever put it there. A text of several lines, as a table is, keeps its line breaks: where
//! foreign text is put into one, it is made one line first.

use std::{
    fmt,
    io::{self, Write as _},
    sync::Mutex,
};

use sdq::text::{printable, printable_json, printable_lines};
use serde_json::Value;

/// Most characters of a line of standard error. No message is half as long; one that quotes a file at length is cut.
const MAX_LINE: usize = 8_000;

/// The first failure to write to standard output.
static FAILURE: Mutex<Option<io::Error>> = Mutex::new(None);

/// Writes `words` to standard output.
pub(crate) fn say(words: fmt::Arguments<'_>) {
    let text = words.to_string();
    note_failure(io::stdout().write_all(printable_lines(&text).as_bytes()));
}

/// Writes `value` to standard output as JSON, in which every text comes back as it was.
pub(crate) fn say_json(value: &Value) {
    say(format_args!("{}\n", printable_json(&format!("{value:#}"))));
}

/// Writes `words` to standard error as one line. That nobody hears it is no reason to fail.
pub(crate) fn note(words: fmt::Arguments<'_>) {
    let text = words.to_string();
    let _ = writeln!(io::stderr(), "{}", printable(&text, MAX_LINE));
}

/// Writes text that moves the cursor and sets colours to standard error as it is: none of it is out of a file.
pub(crate) fn draw(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Fails if something that was said did not reach standard output. A reader that has seen enough, as `head` has, is no
/// failure: it closed the pipe.
pub(crate) fn finish() -> io::Result<()> {
    note_failure(io::stdout().flush());
    match FAILURE.lock().ok().and_then(|mut failure| failure.take()) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Remembers the first failure of standard output.
pub(crate) fn note_failure(written: io::Result<()>) {
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
        && let Ok(mut failure) = FAILURE.lock()
    {
        failure.get_or_insert(error);
    }
}
