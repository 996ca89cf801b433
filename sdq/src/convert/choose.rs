//! Chooses the type of each weight for a target size of the file or a target error of the pictures.
//!
//! The effects are assumed to be additive: errors of single weights are small and independent of each other.

use sdq_formats::WeightType;

/// A way to store a weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) weight_type: WeightType,
    /// The index of the measured file that stores it in this way.
    pub(super) version: usize,
    /// Size in the file.
    pub(super) bytes: usize,
    /// The error that this weight adds if it alone is stored in this way, in a unit that all weights share;
    /// not negative.
    pub(super) error: f64,
}

/// A weight and the possible ways to store it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layer {
    /// `component.weight`.
    pub(super) name: String,
    /// At least one.
    pub(super) choices: Vec<Choice>,
}

/// A change of one layer on the way from the best file to the smallest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Move {
    /// Index of the layer.
    pub(super) layer: usize,
    /// How it is stored after this move.
    pub(super) to: Choice,
    /// Bytes saved; not zero.
    pub(super) saved: usize,
    /// Error added.
    pub(super) added: f64,
}

/// The start of each layer: its largest choice that is on the convex hull.
pub(super) fn best(layers: &[Layer]) -> Vec<Choice> {
    layers.iter().map(|layer| hull(&layer.choices)[0]).collect()
}

/// The moves from [`best`] to the smallest file, ordered by the error that they add per saved byte. Any
/// prefix of the list gives the best file of its size, as far as errors are additive.
pub(super) fn moves(layers: &[Layer]) -> Vec<Move> {
    let mut moves: Vec<Move> = Vec::new();
    for (layer, Layer { choices, .. }) in layers.iter().enumerate() {
        for pair in hull(choices).windows(2) {
            let (saved, added) = (pair[0].bytes - pair[1].bytes, pair[1].error - pair[0].error);
            moves.push(Move { layer, to: pair[1], saved, added });
        }
    }
    // The sort is stable, and prices increase along each layer's hull, so a layer's moves stay in order.
    moves.sort_by(|a, b| a.price().total_cmp(&b.price()));
    moves
}

impl Move {
    /// Added error per saved byte.
    fn price(&self) -> f64 {
        self.added / self.saved as f64
    }
}

/// The choices on the lower convex hull of error over bytes, largest first: choices above it are worse than a
/// mixture of two others in different layers.
fn hull(choices: &[Choice]) -> Vec<Choice> {
    let mut sorted = choices.to_vec();
    // Of equal sizes only the best one; of larger ones only those with a smaller error.
    sorted.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.error.total_cmp(&b.error)));
    let mut hull: Vec<Choice> = Vec::new();
    for choice in sorted {
        if hull.last().is_some_and(|last| choice.error >= last.error) {
            continue;
        }
        while let [.., a, b] = hull[..] {
            let slope = |from: &Choice, to: &Choice| (from.error - to.error) / (to.bytes - from.bytes) as f64;
            if slope(&a, &b) > slope(&a, &choice) {
                break;
            }
            hull.pop();
        }
        hull.push(choice);
    }
    hull.reverse();
    hull
}

/// The number of `moves` after which a file that has `bytes` at [`best`] has at most `limit`; `None` if all
/// of them are insufficient.
pub(super) fn moves_to_fit(moves: &[Move], bytes: usize, limit: usize) -> Option<usize> {
    let mut left = bytes;
    let mut count = 0;
    while left > limit {
        left -= moves.get(count)?.saved;
        count += 1;
    }
    Some(count)
}

/// The choices after the first `count` of `moves`, in the order of layers.
pub(super) fn after(layers: &[Layer], moves: &[Move], count: usize) -> Vec<Choice> {
    let mut choices = best(layers);
    for step in &moves[..count] {
        choices[step.layer] = step.to;
    }
    choices
}

#[cfg(test)]
mod tests;
