//! CLIP's text transformer: token ids → text states. Radford et al. 2021, arXiv:2103.00020, section 2.4.

use sdq_formats::WeightSpec;

use super::config::TextEncoderConfig;
use crate::graph::{Graph, GraphBuilder, TensorId};

/// Name of the input: token ids `[batch, tokens]`.
pub const TOKEN_IDS: &str = "token_ids";
/// Name of the output: text states `[batch, tokens, hidden_size]`, after the last norm.
pub const TEXT_STATES: &str = "text_states";

/// The encoder for `batch` prompts of `tokens` ids each.
pub fn graph(config: &TextEncoderConfig, batch: usize, tokens: usize) -> Graph {
    let mut graph = GraphBuilder::new();
    let token_ids = graph.input(TOKEN_IDS, &[batch, tokens]);
    let mut states = graph.embedding(
        ("text_model.embeddings.token_embedding.weight", config.vocab_size),
        ("text_model.embeddings.position_embedding.weight", config.max_position_embeddings),
        config.hidden_size,
        token_ids,
    );
    for layer in 0..config.num_hidden_layers {
        states = block(config, &mut graph, &format!("text_model.encoder.layers.{layer}"), states);
    }
    let states = graph.layer_norm("text_model.final_layer_norm", states, config.layer_norm_eps);
    graph.output(TEXT_STATES, states);
    graph.finish()
}

/// The encoder's weights, in reading order.
pub fn weights(config: &TextEncoderConfig) -> Vec<WeightSpec> {
    graph(config, 1, 1).weights
}

fn block(config: &TextEncoderConfig, graph: &mut GraphBuilder, name: &str, states: TensorId) -> TensorId {
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
