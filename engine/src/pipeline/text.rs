//! Prompt → token ids → text states.

use super::Pipeline;
use crate::{Error, Tensor, models::text_encoder};

impl Pipeline {
    /// The prompt's token ids: start, words, end, padding to the model's length.
    ///
    /// # Errors
    /// When the vocabulary does not cover the prompt.
    pub fn tokenize(&self, prompt: &str) -> Result<Vec<u32>, Error> {
        self.model.tokenizer.encode(prompt)
    }

    /// How many tokens at the prompt's end the model does not read.
    ///
    /// # Errors
    /// When the vocabulary does not cover the prompt.
    pub fn surplus_tokens(&self, prompt: &str) -> Result<usize, Error> {
        self.model.tokenizer.surplus(prompt)
    }

    /// Text states `[prompts, tokens, hidden_size]`.
    ///
    /// # Errors
    /// When the vocabulary does not cover a prompt or memory runs out.
    pub fn encode_prompts(&self, prompts: &[&str]) -> Result<Tensor, Error> {
        let tokens = self.model.tokenizer.length();
        let mut token_ids = Vec::with_capacity(prompts.len() * tokens);
        for prompt in prompts {
            token_ids.extend(self.tokenize(prompt)?.iter().map(|&id| id as f32));
        }
        let graph = text_encoder::graph(&self.model.text_encoder, prompts.len(), tokens);
        let mut executable = self.backend.compile(graph, &self.component("text_encoder")?)?;
        executable.set_input(text_encoder::TOKEN_IDS, &token_ids);
        executable.run();
        let text_states = executable.output(text_encoder::TEXT_STATES).to_vec();
        Tensor::new(vec![prompts.len(), tokens, self.model.text_encoder.hidden_size], text_states)
    }
}
