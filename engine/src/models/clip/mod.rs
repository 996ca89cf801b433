//! CLIP's text encoder in its role: prompts → chunks of token ids → text states and pooled prompts.

mod config;
mod original_names;
pub mod transformer;

pub(crate) use config::unknown_keys;
pub use config::{Pooling, TextEncoderConfig};

pub(crate) use original_names::{TextEncoder, TextKind};

use sdq_formats::{Sensitivity, WeightRole, WeightSpec};

use crate::{
    Error, PromptLength, PromptSyntax, Tensor,
    backend::Executable,
    graph::Graph,
    prompt,
    roles::{EncodedText, PromptEncoder, PromptShape, Prompts, StoredNetwork},
    tokenizer::Tokenizer,
    words::ExtraWords,
};
use transformer::{Layer, TextShape};

/// A CLIP text encoder and its tokenizer.
#[derive(Debug)]
pub struct ClipTextEncoder {
    /// Name of the component with its weights.
    pub component: &'static str,
    /// Prompt → token ids.
    pub tokenizer: Tokenizer,
    /// Token ids → text states.
    pub config: TextEncoderConfig,
    /// The block that text states are taken from.
    pub layer: Layer,
}

impl StoredNetwork for ClipTextEncoder {
    fn component(&self) -> &'static str {
        self.component
    }

    fn weights(&self) -> Vec<WeightSpec> {
        transformer::weights(&self.config)
    }

    /// Tables are looked up and not summed over, so that nothing averages their errors; the table of
    /// positions is small.
    fn sensitivity(&self, weight: &WeightSpec) -> Sensitivity {
        match weight.role {
            WeightRole::Table if weight.name.contains("position_embedding") => Sensitivity::Extreme,
            WeightRole::Table => Sensitivity::High,
            WeightRole::Vector | WeightRole::Matrix | WeightRole::Conv => Sensitivity::Medium,
        }
    }
}

impl PromptEncoder for ClipTextEncoder {
    fn width(&self) -> usize {
        self.config.hidden_size
    }

    fn pooled_width(&self) -> Option<usize> {
        self.config.projection_dim
    }

    fn chunk_tokens(&self) -> usize {
        self.tokenizer.length()
    }

    fn blocks(&self) -> usize {
        self.config.num_hidden_layers
    }

    fn token_ids(&self, prompt: &str) -> Result<Vec<u32>, Error> {
        self.tokenizer.encode(prompt)
    }

    fn surplus_tokens(&self, prompt: &str) -> Result<usize, Error> {
        self.tokenizer.surplus(prompt)
    }

    fn prompt_length(
        &self,
        prompt: &str,
        syntax: PromptSyntax,
        words: &ExtraWords,
    ) -> Result<PromptLength, Error> {
        prompt::length(&self.tokenizer, words, prompt, syntax)
    }

    /// Text states, then the pooled prompts where the encoder has a projection.
    fn graphs(&self, shape: &PromptShape) -> Vec<Graph> {
        let states = TextShape {
            skipped: self.layer.skipped(shape.clip_skip),
            batch: shape.prompts * shape.chunks,
            tokens: self.tokenizer.length(),
            words: shape.words,
        };
        let states = transformer::graph(&self.config, self.layer, &states);
        std::iter::once(states).chain(transformer::projection(&self.config, shape.prompts)).collect()
    }

    fn encode(
        &self,
        executables: &mut [Box<dyn Executable + '_>],
        prompts: &Prompts<'_>,
    ) -> Result<EncodedText, Error> {
        let chunks = self.chunks(prompts)?;
        let Some((executable, projection)) = executables.split_first_mut() else {
            unreachable!("the graph of the text states is always there");
        };
        if prompts.words.count() > 0 {
            executable.set_input(transformer::WORDS, &prompts.words.values(prompts.position));
        }
        let token_ids: Vec<f32> = chunks.iter().flat_map(|chunk| &chunk.ids).map(|&id| id as f32).collect();
        executable.set_input(transformer::TOKEN_IDS, &token_ids);
        executable.run()?;
        let mut states = executable.output(transformer::TEXT_STATES).to_vec();
        let chunk_values = self.tokenizer.length() * self.config.hidden_size;
        for (chunk, states) in chunks.iter().zip(states.chunks_exact_mut(chunk_values)) {
            if let Some(weights) = &chunk.weights {
                weigh(states, weights);
            }
        }
        let Some(projection) = projection.first_mut() else {
            return Ok(EncodedText { states, pooled: None });
        };
        let first_chunks = chunks.iter().enumerate().step_by(prompts.chunks);
        let end_states = self.end_states(executable.output(transformer::LAST_STATES), first_chunks);
        projection.set_input(transformer::END_STATES, &end_states);
        projection.run()?;
        let pooled = projection.output(transformer::POOLED).to_vec();
        let shape = vec![prompts.texts.len(), pooled.len() / prompts.texts.len()];
        Ok(EncodedText { states, pooled: Some(Tensor::new(shape, pooled)?) })
    }
}

impl ClipTextEncoder {
    /// The chunks of all prompts, the same number for each.
    fn chunks(&self, prompts: &Prompts<'_>) -> Result<Vec<prompt::Chunk>, Error> {
        let mut chunks = Vec::with_capacity(prompts.texts.len() * prompts.chunks);
        for text in prompts.texts {
            let mut own = prompt::chunks(&self.tokenizer, prompts.words, text, prompts.reading.syntax)?;
            own.resize_with(prompts.chunks, || prompt::empty_chunk(&self.tokenizer));
            chunks.extend(own);
        }
        Ok(chunks)
    }

    /// The states of `last_states [chunks, tokens, hidden_size]` at the end token of the given chunks, each
    /// with its position.
    fn end_states<'c>(
        &self,
        last_states: &[f32],
        chunks: impl Iterator<Item = (usize, &'c prompt::Chunk)>,
    ) -> Vec<f32> {
        let (tokens, width) = (self.tokenizer.length(), self.config.hidden_size);
        let states = chunks.flat_map(|(index, chunk)| {
            // The end of a prompt is found among the vocabulary's own ids.
            let known = |&id: &u32| if (id as usize) < self.config.vocab_size { id } else { 0 };
            let ids: Vec<u32> = chunk.ids.iter().map(known).collect();
            let position = index * tokens + self.config.pooling.position(&ids);
            &last_states[position * width..][..width]
        });
        states.copied().collect()
    }
}

/// Multiplies the states of every token of a chunk by its weight, and then all of them so that their mean
/// stays the same: the web UI's original emphasis.
fn weigh(states: &mut [f32], weights: &[f32]) {
    let width = states.len() / weights.len();
    let sum = |states: &[f32]| states.iter().map(|&state| f64::from(state)).sum::<f64>();
    let before = sum(states);
    for (token, weight) in states.chunks_exact_mut(width).zip(weights) {
        token.iter_mut().for_each(|state| *state *= weight);
    }
    let after = sum(states);
    let scale = (before / after) as f32;
    if scale.is_finite() {
        states.iter_mut().for_each(|state| *state *= scale);
    }
}
