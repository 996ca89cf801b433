//! Prompt → token ids → text states, and what else a U-Net is told of the picture.

use super::{
    Pipeline, Settings,
    guidance::Branch,
    run_plan::{self, PlannedGraph},
};
use crate::{
    Error, PromptReading, PromptSyntax, Tensor, TextEncoder,
    models::{text_encoder, unet},
    prompt,
};

/// How much a picture should please, from 1 to 10, and how much one from the negative prompt; diffusers' defaults.
const AESTHETIC_SCORE: f32 = 6.0;
const NEGATIVE_AESTHETIC_SCORE: f32 = 2.5;

/// What the text encoders make of some prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedPrompts {
    /// `[prompts, tokens, cross_attention_dim]`: of all encoders, side by side.
    pub text_states: Tensor,
    /// `[prompts, projection_dim]` of the first encoder that has a projection.
    pub pooled: Option<Tensor>,
}

/// All that a U-Net reads beside latents and timestep.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditioning {
    /// `[batch, tokens, cross_attention_dim]`.
    pub text_states: Tensor,
    /// `[batch, projection_class_embeddings_input_dim]`: pooled prompts and embedded numbers; only in models that read it.
    pub added: Option<Tensor>,
    /// The guidance scale, where the model has been distilled to be told it.
    pub guidance_scale: Option<f32>,
}

impl Conditioning {
    /// All that came from text encoders, to be compared.
    pub(super) fn values(&self) -> Vec<f32> {
        let added = self.added.as_ref().map_or(&[][..], Tensor::values);
        [self.text_states.values(), added].concat()
    }
}

impl Pipeline {
    /// The prompt's token ids for the first text encoder: start, words, end, padding to the model's length.
    ///
    /// # Errors
    /// When the vocabulary does not cover the prompt.
    pub fn tokenize(&self, prompt: &str) -> Result<Vec<u32>, Error> {
        self.model.text_encoders[0].tokenizer.encode(prompt)
    }

    /// How many tokens at the prompt's end the model does not read.
    ///
    /// # Errors
    /// When the vocabulary does not cover the prompt.
    pub fn surplus_tokens(&self, prompt: &str) -> Result<usize, Error> {
        let surplus = self.model.text_encoders.iter().map(|encoder| encoder.tokenizer.surplus(prompt));
        surplus.collect::<Result<Vec<_>, _>>().map(|all| all.into_iter().max().unwrap_or(0))
    }

    /// What the text encoders make of `prompts`.
    ///
    /// # Errors
    /// When the vocabulary does not cover a prompt or memory runs out.
    pub fn encode_prompts(&self, prompts: &[&str]) -> Result<EncodedPrompts, Error> {
        self.encode_prompts_as(prompts, PromptReading::default())
    }

    /// What the text encoders make of `prompts`, read as `reading` says. All have the tokens of the longest: shorter ones
    /// are followed by empty chunks.
    ///
    /// # Errors
    /// As [`Pipeline::encode_prompts`], and when a prompt cannot be read so.
    pub fn encode_prompts_as(
        &self,
        prompts: &[&str],
        reading: PromptReading,
    ) -> Result<EncodedPrompts, Error> {
        let encoders = &self.model.text_encoders;
        let count = self.chunk_count(prompts, reading.syntax)?;
        let encoded = encoders
            .iter()
            .map(|encoder| self.encode_with(encoder, prompts, count, reading))
            .collect::<Result<Vec<_>, _>>()?;
        let tokens = count * encoders[0].tokenizer.length();
        let width = encoders.iter().map(|encoder| encoder.config.hidden_size).sum();
        let mut states = Vec::with_capacity(prompts.len() * tokens * width);
        for token in 0..prompts.len() * tokens {
            for (encoder, (values, _)) in encoders.iter().zip(&encoded) {
                let width = encoder.config.hidden_size;
                states.extend_from_slice(&values[token * width..][..width]);
            }
        }
        Ok(EncodedPrompts {
            text_states: Tensor::new(vec![prompts.len(), tokens, width], states)?,
            pooled: encoded.into_iter().find_map(|(_, pooled)| pooled),
        })
    }

    /// Chunks of the longest of `prompts`, in any tokenizer.
    pub(super) fn chunk_count(&self, prompts: &[&str], syntax: PromptSyntax) -> Result<usize, Error> {
        let mut count = 1;
        for encoder in &self.model.text_encoders {
            for text in prompts {
                count = count.max(prompt::chunks(&encoder.tokenizer, &self.words, text, syntax)?.len());
            }
        }
        Ok(count)
    }

    /// One encoder's text states `[prompts, count * tokens, hidden_size]`, each prompt in `count` chunks, and pooled prompts:
    /// those of the first chunks.
    fn encode_with(
        &self,
        encoder: &TextEncoder,
        prompts: &[&str],
        count: usize,
        reading: PromptReading,
    ) -> Result<(Vec<f32>, Option<Tensor>), Error> {
        let TextEncoder { tokenizer, config, .. } = encoder;
        let mut chunks = Vec::with_capacity(prompts.len() * count);
        for text in prompts {
            let mut own = prompt::chunks(tokenizer, &self.words, text, reading.syntax)?;
            own.resize_with(count, || prompt::empty_chunk(tokenizer));
            chunks.extend(own);
        }
        let tokens = tokenizer.length();
        let component = self.component(encoder.component)?;
        let mut graphs = run_plan::text(self, encoder, (prompts.len(), count), reading).into_iter();
        let (states, projection) = (graphs.next().expect("states are the first graph"), graphs.next());
        let mut executable = self.backend.compile(states.graph, &component)?;
        if self.words.count() > 0 {
            let place =
                self.model.text_encoders.iter().position(|other| other.component == encoder.component);
            executable.set_input(text_encoder::WORDS, &self.words.values(place.unwrap_or(0)));
        }
        let token_ids: Vec<f32> = chunks.iter().flat_map(|chunk| &chunk.ids).map(|&id| id as f32).collect();
        executable.set_input(text_encoder::TOKEN_IDS, &token_ids);
        executable.run()?;
        let mut states = executable.output(text_encoder::TEXT_STATES).to_vec();
        for (chunk, states) in chunks.iter().zip(states.chunks_exact_mut(tokens * config.hidden_size)) {
            if let Some(weights) = &chunk.weights {
                weigh(states, weights);
            }
        }

        let batch = prompts.len();
        let Some(PlannedGraph { graph, .. }) = projection else { return Ok((states, None)) };
        let last = executable.output(text_encoder::LAST_STATES);
        let end_states = chunks.iter().enumerate().step_by(count).flat_map(|(index, chunk)| {
            // The end of a prompt is found among the vocabulary's own ids.
            let known = |&id: &u32| if (id as usize) < config.vocab_size { id } else { 0 };
            let ids: Vec<u32> = chunk.ids.iter().map(known).collect();
            let position = index * tokens + config.pooling.position(&ids);
            &last[position * config.hidden_size..][..config.hidden_size]
        });
        let end_states: Vec<f32> = end_states.copied().collect();
        let mut projection = self.backend.compile(graph, &component)?;
        projection.set_input(text_encoder::END_STATES, &end_states);
        projection.run()?;
        let pooled = projection.output(text_encoder::POOLED).to_vec();
        let pooled = Tensor::new(vec![batch, pooled.len() / batch], pooled)?;
        Ok((states, Some(pooled)))
    }

    /// What the U-Net is told for each branch of the guidance that `settings` ask for: without guidance the prompt alone,
    /// with it the negative prompt first, and three branches in models that edit pictures.
    ///
    /// # Errors
    /// When the vocabulary does not cover a prompt or memory runs out.
    pub fn condition(&self, settings: &Settings) -> Result<Conditioning, Error> {
        let branches = settings.branches();
        let prompts: Vec<&str> = branches.iter().map(|branch| branch.prompt).collect();
        let mut encoded = self.encode_prompts_as(&prompts, settings.reading)?;
        let is_zero = |branch: &Branch<'_>| {
            self.model.index.force_zeros_for_empty_prompt && branch.negative && branch.prompt.is_empty()
        };
        for tensor in [Some(&mut encoded.text_states), encoded.pooled.as_mut()].into_iter().flatten() {
            let row = tensor.values().len() / branches.len();
            for (branch, values) in branches.iter().zip(tensor.values_mut().chunks_exact_mut(row)) {
                if is_zero(branch) {
                    values.fill(0.0);
                }
            }
        }
        let size = (settings.width, settings.height);
        Ok(Conditioning {
            added: self.added_condition(&branches, encoded.pooled.as_ref(), size)?,
            text_states: encoded.text_states,
            guidance_scale: self.model.unet.time_cond_proj_dim.map(|_| settings.guidance_scale),
        })
    }

    /// Pooled prompts, and after each sines and cosines of the numbers that SDXL is told: original height and width, top
    /// and left of the crop, and target height and width, or an aesthetic score. Podell et al. 2023, section 2.2.
    fn added_condition(
        &self,
        branches: &[Branch<'_>],
        pooled: Option<&Tensor>,
        (width, height): (usize, usize),
    ) -> Result<Option<Tensor>, Error> {
        let config = &self.model.unet;
        let (Some(addition), Some(pooled)) = (config.addition_embedding, pooled) else { return Ok(None) };
        let size = [height as f32, width as f32];
        let mut values = Vec::with_capacity(branches.len() * addition.input_dim);
        let rows = pooled.values().chunks_exact(pooled.values().len() / branches.len());
        for (branch, pooled) in branches.iter().zip(rows) {
            let score = if branch.negative { NEGATIVE_AESTHETIC_SCORE } else { AESTHETIC_SCORE };
            let target = if self.model.index.requires_aesthetics_score { vec![score] } else { size.to_vec() };
            values.extend_from_slice(pooled);
            for number in size.into_iter().chain([0.0, 0.0]).chain(target) {
                values.extend(unet::addition_time_embedding(config, &addition, number));
            }
        }
        Tensor::new(vec![branches.len(), addition.input_dim], values).map(Some)
    }
}

/// Multiplies the states of every token of a chunk by its weight, and all of them so that their mean stays: what the web UI
/// calls the original emphasis.
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
