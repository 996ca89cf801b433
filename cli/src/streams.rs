//! `-` as the name of a file: standard input and standard output.

use std::{
    fs,
    io::{self, IsTerminal as _, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context as _, bail};
use sdq::{TemporaryFolder, run::Written};

use crate::{UsageError, args::GenerateArgs, output};

/// The name.
pub(crate) const STREAM: &str = "-";

/// Maximum length of a prompt from standard input, in bytes; that of flags is bounded by the system.
const MAX_PROMPT: u64 = 1 << 20;
/// Maximum length of a picture from standard input, in bytes.
const MAX_PICTURE: u64 = 256 << 20;

/// The folder of the files that take the place of streams.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Removes the files that take the place of streams, for whoever ends the process before the command has ended.
pub(crate) fn remove_files() {
    if let Some(folder) = FOLDER.get() {
        let _ = fs::remove_dir_all(folder);
    }
}

/// Whether `path` names a stream.
pub(crate) fn is_stream(path: &Path) -> bool {
    path.as_os_str() == STREAM
}

/// The files that take the place of streams during a command.
pub(crate) struct Streamed {
    folder: Option<TemporaryFolder>,
    input: bool,
    output: bool,
}

impl Streamed {
    /// Reads the start picture from standard input, if `args` say so.
    pub(crate) fn of(args: &GenerateArgs) -> anyhow::Result<Streamed> {
        let is_stream = |path: &Option<PathBuf>| path.as_deref().is_some_and(is_stream);
        let input = is_stream(&args.job.init_image);
        let output = is_stream(&args.output);
        let readers = [input, is_stream(&args.prompts), args.prompt.as_deref() == Some(STREAM)];
        if readers.iter().filter(|reads| **reads).count() > 1 {
            return Err(UsageError("only one of the inputs can be standard input".to_owned()).into());
        }
        if output && (args.count != 1 || args.prompts.is_some() || args.run.json) {
            let message = "--output -: standard output takes one picture, and no --json";
            return Err(UsageError(message.to_owned()).into());
        }
        if output && io::stdout().is_terminal() {
            return Err(UsageError(
                "--output -: standard output is a terminal, which shows no PNG".to_owned(),
            )
            .into());
        }
        let folder = if input || output { Some(TemporaryFolder::new()?) } else { None };
        if let Some(folder) = &folder {
            // There is one command per process.
            let _ = FOLDER.set(folder.path().to_owned());
        }
        let streamed = Streamed { folder, input, output };
        if let Some(path) = streamed.init_image() {
            let mut bytes = Vec::new();
            io::stdin().lock().take(MAX_PICTURE + 1).read_to_end(&mut bytes).context("standard input")?;
            if bytes.len() as u64 > MAX_PICTURE {
                bail!("standard input: the picture has more than {MAX_PICTURE} bytes");
            }
            fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        }
        Ok(streamed)
    }

    fn file(&self, name: &str) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.path().join(name))
    }

    /// The file with the start picture from standard input.
    pub(crate) fn init_image(&self) -> Option<PathBuf> {
        self.file("start").filter(|_| self.input)
    }

    /// The file with the picture for standard output.
    pub(crate) fn output(&self) -> Option<PathBuf> {
        self.file("picture.png").filter(|_| self.output)
    }

    pub(crate) fn to_stdout(&self) -> bool {
        self.output
    }
}

/// The prompt in standard input.
pub(crate) fn read_prompt() -> anyhow::Result<String> {
    let mut prompt = String::new();
    let read = io::stdin().lock().take(MAX_PROMPT + 1).read_to_string(&mut prompt);
    read.context("the prompt in standard input")?;
    if prompt.len() as u64 > MAX_PROMPT {
        bail!("standard input: the prompt has more than {MAX_PROMPT} bytes");
    }
    Ok(prompt.trim().to_owned())
}

/// Copies the picture in `written` to standard output.
pub(crate) fn copy_picture(written: &[Written]) -> anyhow::Result<()> {
    for Written { path, .. } in written {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        let mut stdout = io::stdout().lock();
        output::note_failure(stdout.write_all(&bytes).and_then(|()| stdout.flush()));
    }
    Ok(())
}
