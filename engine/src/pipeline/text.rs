//! Prompt → token ids → text states, and the other conditioning of a U-Net.

use super::{Pipeline, Settings, compiled::Compiled, guidance::Branch, run_plan};
use crate::{Error, PromptLength, PromptReading, PromptSyntax, Tensor, roles::Prompts};

/// The aesthetic score of the picture, from 1 to 10, and that of the negative prompt; diffusers' defaults.
const AESTHETIC_SCORE: f32 = 6.0;
const NEGATIVE_AESTHETIC_SCORE: f32 = 2.5;

/// The text encoders' outputs for some prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodedPrompts {
    /// `[prompts, tokens, cross_attention_dim]`: those of all encoders, concatenated along the channels.
    pub text_states: Tensor,
    /// `[prompts, projection_dim]` from the first encoder that has a projection.
    pub pooled: Option<Tensor>,
}

/// Everything that a U-Net reads beside latents and timestep.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditioning {
    /// `[batch, tokens, cross_attention_dim]`.
    pub text_states: Tensor,
    /// `[batch, projection_class_embeddings_input_dim]`: pooled prompts and embedded numbers; only in models
    /// that read it.
    pub added: Option<Tensor>,
    /// The guidance scale, for distilled models that read it.
    pub guidance_scale: Option<f32>,
}

impl Conditioning {
    /// All values from text encoders, for comparison.
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
        self.model.text_encoders[0].token_ids(prompt)
    }

    /// The number of tokens at the prompt's end that the model does not read.
    ///
    /// # Errors
    /// When the vocabulary does not cover the prompt.
    pub fn surplus_tokens(&self, prompt: &str) -> Result<usize, Error> {
        let surplus = self.model.text_encoders.iter().map(|encoder| encoder.surplus_tokens(prompt));
        surplus.collect::<Result<Vec<_>, _>>().map(|all| all.into_iter().max().unwrap_or(0))
    }

    /// The length of `prompt` for the text encoder that divides it into most tokens.
    ///
    /// # Errors
    /// When the vocabulary does not cover the prompt, or it cannot be parsed.
    pub fn prompt_length(&self, prompt: &str, syntax: PromptSyntax) -> Result<PromptLength, Error> {
        let lengths = self.model.text_encoders.iter();
        let lengths = lengths.map(|encoder| encoder.prompt_length(prompt, syntax, &self.words));
        let lengths = lengths.collect::<Result<Vec<_>, _>>()?;
        let none = PromptLength { tokens: 0, chunks: 1, per_chunk: 0 };
        Ok(lengths.into_iter().max_by_key(|length| (length.chunks, length.tokens)).unwrap_or(none))
    }

    /// The words that were [added](Pipeline::with_word) and occur in none of `prompts`.
    ///
    /// # Errors
    /// When a prompt cannot be read.
    pub fn unused_words(&self, prompts: &[&str], syntax: PromptSyntax) -> Result<Vec<String>, Error> {
        crate::prompt::unused_words(&self.words, prompts, syntax)
    }

    /// The names in ComfyUI's `embedding:NAME` in `prompts` that are no words of this pipeline, and are read as text.
    pub fn unknown_embeddings(&self, prompts: &[&str]) -> Vec<String> {
        prompts.iter().flat_map(|prompt| self.words.unknown(prompt)).collect()
    }

    /// Encodes `prompts` with all text encoders.
    ///
    /// # Errors
    /// When the vocabulary does not cover a prompt or memory runs out.
    pub fn encode_prompts(&self, prompts: &[&str]) -> Result<EncodedPrompts, Error> {
        self.encode_prompts_as(prompts, PromptReading::default())
    }

    /// Encodes `prompts`, read according to `reading`, with all text encoders. All have the tokens of the
    /// longest: shorter ones are padded with empty chunks.
    ///
    /// # Errors
    /// As [`Pipeline::encode_prompts`], and when a prompt cannot be parsed.
    pub fn encode_prompts_as(
        &self,
        prompts: &[&str],
        reading: PromptReading,
    ) -> Result<EncodedPrompts, Error> {
        self.encode_prompts_with(prompts, reading, &mut Compiled::dropped())
    }

    fn encode_prompts_with<'w>(
        &'w self,
        prompts: &[&str],
        reading: PromptReading,
        compiled: &mut Compiled<'w>,
    ) -> Result<EncodedPrompts, Error> {
        let chunks = self.chunk_count(prompts, reading.syntax)?;
        let mut encoded = Vec::with_capacity(self.model.text_encoders.len());
        for (position, encoder) in self.model.text_encoders.iter().enumerate() {
            let prompts = Prompts { texts: prompts, chunks, reading, words: &self.words, position };
            let network = self.network(encoder.component())?;
            let graphs = run_plan::text(&**encoder, &prompts.shape()).into_iter();
            let graphs = graphs.map(|planned| compiled.take(network, planned));
            let (keys, mut executables): (Vec<_>, Vec<_>) =
                graphs.collect::<Result<Vec<_>, _>>()?.into_iter().unzip();
            encoded.push(encoder.encode(&mut executables, &prompts)?);
            keys.into_iter().zip(executables).for_each(|graph| compiled.give_back(graph));
        }
        let states: Vec<&[f32]> = encoded.iter().map(|encoded| encoded.states.as_slice()).collect();
        let [tokens, width] = self.model.text_states_shape(chunks);
        let text_states = self.model.join_text_states(&states, prompts.len());
        Ok(EncodedPrompts {
            text_states: Tensor::new(vec![prompts.len(), tokens, width], text_states)?,
            pooled: encoded.into_iter().find_map(|encoded| encoded.pooled),
        })
    }

    /// The number of chunks of the longest of `prompts`, for any tokenizer.
    pub(super) fn chunk_count(&self, prompts: &[&str], syntax: PromptSyntax) -> Result<usize, Error> {
        let mut count = 1;
        for encoder in &self.model.text_encoders {
            for text in prompts {
                count = count.max(encoder.prompt_length(text, syntax, &self.words)?.chunks);
            }
        }
        Ok(count)
    }

    /// The conditioning for each branch of the guidance in `settings`: without guidance the prompt alone,
    /// with it the negative prompt first, and three branches in models that edit pictures.
    ///
    /// # Errors
    /// When the vocabulary does not cover a prompt or memory runs out.
    pub fn condition(&self, settings: &Settings) -> Result<Conditioning, Error> {
        self.condition_with(settings, &mut Compiled::dropped())
    }

    pub(super) fn condition_with<'w>(
        &'w self,
        settings: &Settings,
        compiled: &mut Compiled<'w>,
    ) -> Result<Conditioning, Error> {
        let branches = settings.branches();
        let prompts: Vec<&str> = branches.iter().map(|branch| branch.prompt).collect();
        let mut encoded = self.encode_prompts_with(&prompts, settings.request.reading, compiled)?;
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
            guidance_scale: self.model.denoiser.reads_guidance_scale().then_some(settings.guidance_scale),
        })
    }

    /// Pooled prompts, each followed by sines and cosines of SDXL's additional numbers: original height and
    /// width, top and left of the crop, and target height and width, or an aesthetic score. Podell et al.
    /// 2023, section 2.2.
    fn added_condition(
        &self,
        branches: &[Branch<'_>],
        pooled: Option<&Tensor>,
        (width, height): (usize, usize),
    ) -> Result<Option<Tensor>, Error> {
        let denoiser = &self.model.denoiser;
        let (Some(width_read), Some(pooled)) = (denoiser.added_width(), pooled) else { return Ok(None) };
        let size = [height as f32, width as f32];
        let mut values = Vec::with_capacity(branches.len() * width_read);
        let rows = pooled.values().chunks_exact(pooled.values().len() / branches.len());
        for (branch, pooled) in branches.iter().zip(rows) {
            let score = if branch.negative { NEGATIVE_AESTHETIC_SCORE } else { AESTHETIC_SCORE };
            let target = if self.model.index.requires_aesthetics_score { vec![score] } else { size.to_vec() };
            values.extend_from_slice(pooled);
            for number in size.into_iter().chain([0.0, 0.0]).chain(target) {
                values.extend(denoiser.embed_number(number));
            }
        }
        Tensor::new(vec![branches.len(), width_read], values).map(Some)
    }
}
