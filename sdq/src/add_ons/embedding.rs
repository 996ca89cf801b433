//! Textual inversions → words beside the model's vocabulary.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use sdq_engine::{
    Pipeline,
    adapters::textual_inversion::{TextualInversion, TextualInversions, WordVectors},
};
use sdq_formats::checkpoint::Checkpoint;
use serde::{Deserialize, Serialize};

use super::tell_left_out;
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
        let is_split = |(path, word): &(&str, &str)| path.len() > 1 && !word.contains(['/', '\\']);
        let parts = text.rsplit_once(':').filter(is_split).filter(|_| !Path::new(text).is_file());
        match parts {
            Some((_, "")) => Err("the word after the colon is missing".to_owned()),
            Some((path, word)) => Ok(EmbeddingFile { path: path.into(), word: Some(word.to_owned()) }),
            None => Ok(EmbeddingFile { path: text.into(), word: None }),
        }
    }
}

/// A word and its vectors.
type NamedInversion = (String, TextualInversion);

impl EmbeddingFile {
    /// The words of the file, and the names of tensors that are left out.
    fn read(&self) -> Result<(Vec<NamedInversion>, Vec<String>), Error> {
        let inversions = TextualInversions::read(&Checkpoint::open(&self.path)?);
        let inversions = inversions.map_err(|error| Error::from(error).in_file(&self.path))?;
        let own = inversions.words.iter().filter_map(|inversion| inversion.word.as_deref());
        if let (Some(word), 2..) = (&self.word, inversions.words.len()) {
            let path = self.path.display();
            let own = own.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
            let problem =
                format!("`{word}` cannot replace the words of `{path}`, which are {own}; leave the word out");
            return Err(Error::Option { option: "embedding", problem });
        }
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        let named = |inversion: TextualInversion| {
            let word = self.word.clone().or_else(|| inversion.word.clone());
            (word.unwrap_or_else(|| stem.clone().into_owned()), inversion)
        };
        Ok((inversions.words.into_iter().map(named).collect(), inversions.left_out))
    }
}

/// `pipeline` with the words of `embeddings`.
pub(super) fn apply(
    mut pipeline: Pipeline,
    embeddings: &[EmbeddingFile],
    watch: &mut Watch<'_>,
) -> Result<Pipeline, Error> {
    // SDXL's two encoders may have their vectors in two files.
    let mut words: Vec<(&Path, String, TextualInversion)> = Vec::new();
    for embedding in embeddings {
        let (own, left_out) = embedding.read()?;
        tell_left_out(&embedding.path, &left_out, watch);
        for (word, inversion) in own {
            match words.iter_mut().find(|(_, other, _)| other.to_lowercase() == word.to_lowercase()) {
                Some((path, _, first)) => join(first, inversion, &word, [path, &embedding.path])?,
                None => words.push((&embedding.path, word, inversion)),
            }
        }
    }
    for (path, word, inversion) in words {
        pipeline = add_word(pipeline, path, &word, &inversion, watch)?;
    }
    Ok(pipeline)
}

/// Adds the vectors of `second` to those of `first`: they are of the same word, in two files.
fn join(
    first: &mut TextualInversion,
    second: TextualInversion,
    word: &str,
    paths: [&Path; 2],
) -> Result<(), Error> {
    for vectors in second.vectors {
        let same = |other: &&WordVectors| (other.encoder, other.width) == (vectors.encoder, vectors.width);
        if first.vectors.iter().any(|other| same(&other)) {
            let [one, other] = paths.map(Path::display);
            let problem = format!(
                "`{one}` and `{other}` both have vectors of width {} for `{word}`; give one file another word, as in FILE:WORD",
                vectors.width
            );
            return Err(Error::Option { option: "embedding", problem });
        }
        first.vectors.push(vectors);
    }
    Ok(())
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

/// Fails at a file whose words are all `unused`: it would change nothing.
pub(super) fn check_used(embeddings: &[EmbeddingFile], unused: &[String]) -> Result<(), Error> {
    let is_unused = |word: &str| unused.iter().any(|other| other.to_lowercase() == word.to_lowercase());
    for embedding in embeddings {
        let (words, _) = embedding.read()?;
        if words.iter().all(|(word, _)| is_unused(word)) {
            let path = embedding.path.display();
            let words = words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>();
            let (words, noun) = (words.join(" or "), if words.len() == 1 { "word" } else { "words" });
            let problem = format!("no prompt contains {words}, the {noun} of `{path}`, as a word by itself");
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
