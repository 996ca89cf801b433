//! CLIP's text transformer: token ids → text states. Radford et al. 2021, arXiv:2103.00020, section 2.4.

use sdq_formats::{WeightRole, WeightSpec};

use super::TextEncoderConfig;
use crate::graph::{Graph, GraphBuilder, TensorId};

/// Name of the input: token ids `[batch, tokens]`.
pub const TOKEN_IDS: &str = "token_ids";
/// Name of the input: vectors of words outside the vocabulary `[words, hidden_size]`; only where there are
/// any.
pub const WORDS: &str = "words";
/// Name of the output: text states `[batch, tokens, hidden_size]`, see [`Layer`].
pub const TEXT_STATES: &str = "text_states";
/// Name of the output: the states of the last block `[batch, tokens, hidden_size]`, before the last norm; only in
/// encoders with a projection.
pub const LAST_STATES: &str = "last_states";
/// Name of the projection's input: [`LAST_STATES`] at each prompt's end token, `[batch, hidden_size]`.
pub const END_STATES: &str = "end_states";
/// Name of the projection's output `[batch, projection_dim]`.
pub const POOLED: &str = "pooled";

/// The states that are a model's text states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// Those of the last block, after the last norm.
    Last,
    /// Those before the last block, without norm, as in the training of SDXL.
    Penultimate,
}

impl Layer {
    /// The number of blocks at the end that text states leave out. `clip_skip` counts blocks from the end,
    /// starting at 1; `None` selects the block that the model was trained with.
    pub fn skipped(self, clip_skip: Option<usize>) -> usize {
        match (self, clip_skip) {
            (_, Some(count)) => count.saturating_sub(1),
            (Layer::Last, None) => 0,
            (Layer::Penultimate, None) => 1,
        }
    }
}

/// The shape of an evaluation of the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextShape {
    /// Blocks at the end that text states leave out, see [`Layer::skipped`].
    pub skipped: usize,
    /// Sequences of tokens that are encoded together.
    pub batch: usize,
    /// Tokens of each sequence.
    pub tokens: usize,
    /// Vectors of words outside the vocabulary, whose ids follow those of the vocabulary.
    pub words: usize,
}

/// The encoder for one shape. Blocks whose states are not read are left out.
///
/// # Panics
/// When more blocks are skipped than there are.
pub fn graph(config: &TextEncoderConfig, layer: Layer, shape: &TextShape) -> Graph {
    let &TextShape { skipped, batch, tokens, words } = shape;
    let mut graph = GraphBuilder::new();
    let token_ids = graph.input(TOKEN_IDS, &[batch, tokens]);
    let words = (words > 0).then(|| graph.input(WORDS, &[words, config.hidden_size]));
    let mut states = graph.embedding(
        ("text_model.embeddings.token_embedding.weight", config.vocab_size),
        ("text_model.embeddings.position_embedding.weight", config.max_position_embeddings),
        config.hidden_size,
        (token_ids, words),
    );
    let depth = config.num_hidden_layers - skipped;
    for index in 0..depth {
        states = block(config, &mut graph, index, states);
    }
    let text_states = states;
    if config.projection_dim.is_some() {
        for index in depth..config.num_hidden_layers {
            states = block(config, &mut graph, index, states);
        }
        graph.output(LAST_STATES, states);
    }
    let text_states = match layer {
        Layer::Penultimate => text_states,
        Layer::Last => graph.layer_norm(FINAL_NORM, text_states, config.layer_norm_eps),
    };
    graph.output(TEXT_STATES, text_states);
    graph.finish()
}

/// States at the end token → a vector for the whole prompt, where the config has a projection.
pub fn projection(config: &TextEncoderConfig, batch: usize) -> Option<Graph> {
    let projection_dim = config.projection_dim?;
    let mut graph = GraphBuilder::new();
    let states = graph.input(END_STATES, &[batch, config.hidden_size]);
    let states = graph.layer_norm(FINAL_NORM, states, config.layer_norm_eps);
    let pooled = graph.linear("text_projection", states, projection_dim, false);
    graph.output(POOLED, pooled);
    Some(graph.finish())
}

const FINAL_NORM: &str = "text_model.final_layer_norm";

/// The encoder's weights, in reading order.
pub fn weights(config: &TextEncoderConfig) -> Vec<WeightSpec> {
    let shape = TextShape { skipped: 0, batch: 1, tokens: 1, words: 0 };
    let mut weights = graph(config, Layer::Last, &shape).weights;
    let projection = projection(config, 1).map(|graph| graph.weights).unwrap_or_default();
    // The last norm is in both graphs.
    weights.extend(projection.into_iter().filter(|spec| spec.role == WeightRole::Matrix));
    weights
}

fn block(config: &TextEncoderConfig, graph: &mut GraphBuilder, index: usize, states: TensorId) -> TensorId {
    let name = format!("text_model.encoder.layers.{index}");
    let width = config.hidden_size;
    let normed = graph.layer_norm(&format!("{name}.layer_norm1"), states, config.layer_norm_eps);
    let [q, k, v] = ["q_proj", "k_proj", "v_proj"]
        .map(|p| graph.linear(&format!("{name}.self_attn.{p}"), normed, width, true));
    let attended = graph.attention(q, k, v, config.num_attention_heads, true);
    let attended = graph.linear(&format!("{name}.self_attn.out_proj"), attended, width, true);
    let states = graph.add(attended, states);

    let normed = graph.layer_norm(&format!("{name}.layer_norm2"), states, config.layer_norm_eps);
    let hidden = graph.linear(&format!("{name}.mlp.fc1"), normed, config.intermediate_size, true);
    let hidden = graph.activation(config.hidden_act, hidden);
    let hidden = graph.linear(&format!("{name}.mlp.fc2"), hidden, width, true);
    graph.add(hidden, states)
}
