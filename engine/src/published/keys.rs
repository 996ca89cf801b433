//! Canonical names of tensors, independent of the library version that saved the checkpoint.
//!
//! - transformers before version 5 puts `text_model.` before the names of a text encoder, version 5 does not.
//!   Canonical names have it: `text_model.encoder.layers.0.self_attn.q_proj.weight`.
//! - diffusers before 0.15 calls the projections of the VAE's attention `query`, `key`, `value` and
//!   `proj_attn`. Canonical names are the current `to_q`, `to_k`, `to_v` and `to_out.0`. Some converters
//!   store them as 1x1 convolutions; here they are matrices.

use std::borrow::Cow;

use sdq_formats::tensor::TensorView;

/// The canonical name of the tensor `name` of `component`; `None` for tensors that are not weights.
pub fn canonical_name<'n>(component: &str, name: &'n str) -> Option<Cow<'n, str>> {
    if component.starts_with("text_encoder") {
        text_encoder_name(name)
    } else if component == "vae" {
        Some(vae_name(name))
    } else {
        Some(Cow::Borrowed(name))
    }
}

fn text_encoder_name(name: &str) -> Option<Cow<'_, str>> {
    let inner = name.strip_prefix("text_model.").unwrap_or(name);
    // The numbers 0, 1, 2, …, which transformers before 4.31 saved as a buffer.
    if inner == "embeddings.position_ids" {
        return None;
    }
    let is_inner =
        ["embeddings.", "encoder.", "final_layer_norm."].iter().any(|part| inner.starts_with(part));
    if is_inner && inner.len() == name.len() {
        return Some(Cow::Owned(format!("text_model.{name}")));
    }
    Some(Cow::Borrowed(name))
}

fn vae_name(name: &str) -> Cow<'_, str> {
    if let Some((module, parameter)) = name.rsplit_once('.')
        && let Some((attention, projection)) = module.rsplit_once('.')
        && attention.contains("mid_block.attentions.")
    {
        let renamed = match projection {
            "query" => "to_q",
            "key" => "to_k",
            "value" => "to_v",
            "proj_attn" => "to_out.0",
            _ => return Cow::Borrowed(name),
        };
        return Cow::Owned(format!("{attention}.{renamed}.{parameter}"));
    }
    Cow::Borrowed(name)
}

/// Gives `tensor` of `component` its canonical name and shape; `None` for tensors that are not weights.
pub(super) fn canonical_tensor<'a>(component: &str, mut tensor: TensorView<'a>) -> Option<TensorView<'a>> {
    tensor.name = canonical_name(component, &tensor.name)?.into_owned();
    let is_projection = component == "vae"
        && ["to_q.weight", "to_k.weight", "to_v.weight", "to_out.0.weight"]
            .iter()
            .any(|projection| tensor.name.ends_with(projection));
    if is_projection && tensor.shape.len() > 2 && tensor.shape[2..].iter().all(|&size| size == 1) {
        tensor.shape.truncate(2);
    }
    Some(tensor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sdq_formats::dtype::DType;

    #[test]
    fn text_encoder_names_gain_their_prefix_once() {
        let name = |name| canonical_name("text_encoder", name).map(Cow::into_owned);
        let q_proj = "text_model.encoder.layers.0.self_attn.q_proj.weight";
        assert_eq!(name("encoder.layers.0.self_attn.q_proj.weight").unwrap(), q_proj);
        assert_eq!(name(q_proj).unwrap(), q_proj);
        assert_eq!(name("final_layer_norm.bias").unwrap(), "text_model.final_layer_norm.bias");
        assert_eq!(
            name("embeddings.token_embedding.weight").unwrap(),
            "text_model.embeddings.token_embedding.weight"
        );
        // The projection is next to the text model, not in it.
        assert_eq!(name("text_projection.weight").unwrap(), "text_projection.weight");
        assert_eq!(name("text_model.embeddings.position_ids"), None);
        assert_eq!(name("embeddings.position_ids"), None);
        // Other components have an encoder, too.
        assert_eq!(canonical_name("vae", "encoder.conv_in.weight").unwrap(), "encoder.conv_in.weight");
    }

    #[test]
    fn vae_attention_has_todays_names() {
        let old = |projection: &str| format!("encoder.mid_block.attentions.0.{projection}.bias");
        for (before, after) in [
            ("query", "to_q"),
            ("key", "to_k"),
            ("value", "to_v"),
            ("proj_attn", "to_out.0"),
            ("to_q", "to_q"),
        ] {
            assert_eq!(canonical_name("vae", &old(before)).unwrap(), old(after));
        }
        assert_eq!(canonical_name("vae", &old("group_norm")).unwrap(), old("group_norm"));
        assert_eq!(canonical_name("unet", &old("query")).unwrap(), old("query"));
    }

    #[test]
    fn vae_projections_become_matrices() {
        let shape = |name: &str, shape: &[usize]| {
            let tensor =
                TensorView { name: name.into(), dtype: DType::F32, shape: shape.to_vec(), bytes: &[] };
            canonical_tensor("vae", tensor).unwrap().shape
        };
        let query = "decoder.mid_block.attentions.0.query.weight";
        assert_eq!(shape(query, &[8, 8, 1, 1]), [8, 8]);
        assert_eq!(shape(query, &[8, 8, 1]), [8, 8]);
        assert_eq!(shape(query, &[8, 8]), [8, 8]);
        assert_eq!(shape(query, &[8, 8, 3, 3]), [8, 8, 3, 3]);
        assert_eq!(shape("decoder.conv_in.weight", &[8, 8, 1, 1]), [8, 8, 1, 1]);
    }
}
