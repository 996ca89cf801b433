//! Textual inversions → words beside the model's vocabulary.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use sdq_engine::{Pipeline, adapters::textual_inversion::TextualInversion};
use sdq_formats::checkpoint::Checkpoint;
use serde::{Deserialize, Serialize};

use crate::{Error, Note, Watch};

/// The file of a textual inversion, and its word: `FILE:word`, or `FILE` for a word named after the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingFile {
    /// The file.
    #[serde(with = "crate::paths")]
    pub path: PathBuf,
    /// The word, if it differs from the one in the file or the file's name.
    pub word: Option<String>,
}

impl FromStr for EmbeddingFile {
    type Err = String;

    fn from_str(text: &str) -> Result<EmbeddingFile, String> {
        // A colon may be part of the path.
        let parts =
            text.rsplit_once(':').filter(|(path, word)| path.len() > 1 && !word.contains(['/', '\\']));
        match parts {
            Some((_, "")) => Err("no word behind the colon".to_owned()),
            Some((path, word)) => Ok(EmbeddingFile { path: path.into(), word: Some(word.to_owned()) }),
            None => Ok(EmbeddingFile { path: text.into(), word: None }),
        }
    }
}

impl EmbeddingFile {
    /// The vectors and their word.
    fn read(&self) -> Result<(String, TextualInversion), Error> {
        let inversion = TextualInversion::read(&Checkpoint::open(&self.path)?);
        let inversion = inversion.map_err(|error| Error::from(error).in_file(&self.path))?;
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let word = self.word.clone().or_else(|| inversion.word.clone()).unwrap_or_else(|| stem.into_owned());
        Ok((word, inversion))
    }
}

/// `pipeline` with the words of `embeddings`.
pub(super) fn apply(
    mut pipeline: Pipeline,
    embeddings: &[EmbeddingFile],
    watch: &mut Watch<'_>,
) -> Result<Pipeline, Error> {
    for embedding in embeddings {
        let (word, inversion) = embedding.read()?;
        pipeline = add_word(pipeline, &embedding.path, &word, &inversion, watch)?;
    }
    Ok(pipeline)
}

/// `pipeline` with the word of `inversion`, which comes from the file at `path`.
pub(super) fn add_word(
    pipeline: Pipeline,
    path: &Path,
    word: &str,
    inversion: &TextualInversion,
    watch: &mut Watch<'_>,
) -> Result<Pipeline, Error> {
    let pipeline =
        pipeline.with_word(word, &inversion.vectors).map_err(|error| Error::from(error).in_file(path))?;
    let vectors = inversion.vectors[0].values.len() / inversion.vectors[0].width;
    watch.note(Note::WordAdded { path: path.to_path_buf(), word: word.to_owned(), vectors });
    Ok(pipeline)
}

/// Fails if a word is one of the `unused`, which would have no effect.
pub(super) fn check_used(embeddings: &[EmbeddingFile], unused: &[String]) -> Result<(), Error> {
    for embedding in embeddings {
        let (word, _) = embedding.read()?;
        if unused.contains(&word) {
            let path = embedding.path.display();
            let problem = format!("no prompt has `{word}`, the word of {path}");
            return Err(Error::Option { option: "embedding", problem });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_may_follow_the_file() {
        let parsed = |text: &str| text.parse::<EmbeddingFile>().map(|file| (file.path, file.word));
        assert_eq!(parsed("a/b.pt:<cat>"), Ok(("a/b.pt".into(), Some("<cat>".to_owned()))));
        assert_eq!(parsed("a/b.pt"), Ok(("a/b.pt".into(), None)));
        assert_eq!(parsed("c:\\b.pt"), Ok(("c:\\b.pt".into(), None)));
        assert!(parsed("b.pt:").is_err());
    }
}
