//! The role that encodes prompts.

use super::StoredNetwork;
use crate::{
    Error, PromptLength, PromptReading, PromptSyntax, Tensor, backend::Executable, graph::Graph,
    words::ExtraWords,
};

/// Prompts → text states.
pub trait PromptEncoder: StoredNetwork {
    /// Channels of its text states.
    fn width(&self) -> usize;

    /// Channels of a pooled prompt; `None` if it does not pool.
    fn pooled_width(&self) -> Option<usize>;

    /// Tokens of a chunk. A prompt is read in one chunk or several.
    fn chunk_tokens(&self) -> usize;

    /// Transformer blocks, of which `clip_skip` leaves out the last ones.
    fn blocks(&self) -> usize;

    /// The prompt as plain text in one chunk: [`chunk_tokens`](PromptEncoder::chunk_tokens) ids.
    ///
    /// # Errors
    /// When the vocabulary does not cover the prompt.
    fn token_ids(&self, prompt: &str) -> Result<Vec<u32>, Error>;

    /// The number of tokens of the prompt that do not fit into its first chunk.
    ///
    /// # Errors
    /// When the vocabulary does not cover the prompt.
    fn surplus_tokens(&self, prompt: &str) -> Result<usize, Error>;

    /// The number of tokens and chunks of the prompt.
    ///
    /// # Errors
    /// When the vocabulary does not cover the prompt, or it cannot be parsed.
    fn prompt_length(
        &self,
        prompt: &str,
        syntax: PromptSyntax,
        words: &ExtraWords,
    ) -> Result<PromptLength, Error>;

    /// The graphs that [`encode`](PromptEncoder::encode) runs.
    fn graphs(&self, shape: &PromptShape) -> Vec<Graph>;

    /// Runs the compiled [`graphs`](PromptEncoder::graphs) on `prompts`.
    ///
    /// # Errors
    /// As [`prompt_length`](PromptEncoder::prompt_length), and when the device fails.
    fn encode(
        &self,
        executables: &mut [Box<dyn Executable + '_>],
        prompts: &Prompts<'_>,
    ) -> Result<EncodedText, Error>;
}

/// Sizes of the graphs of a [`PromptEncoder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptShape {
    /// Prompts that are encoded together.
    pub prompts: usize,
    /// Chunks of each prompt.
    pub chunks: usize,
    /// Vectors of added words, whose ids follow those of the vocabulary.
    pub words: usize,
    /// See [`PromptReading::clip_skip`].
    pub clip_skip: Option<usize>,
}

/// Prompts to encode.
#[derive(Clone, Copy, Debug)]
pub struct Prompts<'a> {
    /// The texts.
    pub texts: &'a [&'a str],
    /// Chunks of each prompt: short prompts are padded with empty chunks.
    pub chunks: usize,
    /// How they are read.
    pub reading: PromptReading,
    /// Added words.
    pub words: &'a ExtraWords,
    /// Index of the encoder among the model's: each has vectors of its own for an added word.
    pub position: usize,
}

impl Prompts<'_> {
    /// The sizes of the graphs for them.
    pub fn shape(&self) -> PromptShape {
        PromptShape {
            prompts: self.texts.len(),
            chunks: self.chunks,
            words: self.words.count(),
            clip_skip: self.reading.clip_skip,
        }
    }
}

/// The output of a [`PromptEncoder`].
#[derive(Clone, Debug)]
pub struct EncodedText {
    /// `[prompts, chunks * chunk_tokens, width]`.
    pub states: Vec<f32>,
    /// `[prompts, pooled_width]`, if the encoder pools.
    pub pooled: Option<Tensor>,
}
