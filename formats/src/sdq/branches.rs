//! Names of low-rank branches in a file that accompanies a model.

/// Names of the tensors of branch `index` of the layer with the weight `weight`: the products down to the
/// rank, at the rank, and up from it. The branches of a layer are numbered from 0.
pub fn branch_names(weight: &str, index: usize) -> [String; 3] {
    ["down", "mid", "up"].map(|part| format!("{weight}.lora_{index}_{part}"))
}
