//! Which type each weight gets where the file's size or the pictures' error is given instead of the types.
//!
//! Effects are taken to add up: errors of single weights are small and independent of each other.

use sdq_formats::WeightType;

/// One way to store a weight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) weight_type: WeightType,
    /// Which of the files that were measured stores it so.
    pub(super) version: usize,
    /// Size in the file.
    pub(super) bytes: usize,
    /// What storing this weight alone so adds to the error, in a unit that all weights share; not negative.
    pub(super) error: f64,
}

/// A weight and the ways to store it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layer {
    /// `component.weight`.
    pub(super) name: String,
    /// At least one.
    pub(super) choices: Vec<Choice>,
}

/// A step on the way from the best file to the smallest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Move {
    /// Index of the layer.
    pub(super) layer: usize,
    /// What it is stored as from here on.
    pub(super) to: Choice,
    /// Bytes saved; not zero.
    pub(super) saved: usize,
    /// Error added.
    pub(super) added: f64,
}

/// Where each layer starts: its largest choice that is worth its bytes.
pub(super) fn best(layers: &[Layer]) -> Vec<Choice> {
    layers.iter().map(|layer| hull(&layer.choices)[0]).collect()
}

/// The moves from [`best`] to the smallest file, those that save most for the error they add first. Any first part
/// of the list is the best file of its size, as far as errors add up.
pub(super) fn moves(layers: &[Layer]) -> Vec<Move> {
    let mut moves: Vec<Move> = Vec::new();
    for (layer, Layer { choices, .. }) in layers.iter().enumerate() {
        for pair in hull(choices).windows(2) {
            let (saved, added) = (pair[0].bytes - pair[1].bytes, pair[1].error - pair[0].error);
            moves.push(Move { layer, to: pair[1], saved, added });
        }
    }
    // Stable, and prices rise along each layer's hull, so a layer's moves stay in order.
    moves.sort_by(|a, b| a.price().total_cmp(&b.price()));
    moves
}

impl Move {
    /// Error added for a byte saved.
    fn price(&self) -> f64 {
        self.added / self.saved as f64
    }
}

/// The choices on the lower convex hull of error over bytes, largest first: what lies above it is beaten by a mixture
/// of two others elsewhere.
fn hull(choices: &[Choice]) -> Vec<Choice> {
    let mut sorted = choices.to_vec();
    // Of equal sizes only the best one; larger ones only while they are better.
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

/// How many of `moves` a file of `bytes`, all at [`best`], needs to have at most `limit`; `None` where all of them are
/// not enough.
pub(super) fn moves_to_fit(moves: &[Move], bytes: usize, limit: usize) -> Option<usize> {
    let mut left = bytes;
    let mut count = 0;
    while left > limit {
        left -= moves.get(count)?.saved;
        count += 1;
    }
    Some(count)
}

/// The choices after the first `count` of `moves`, in the layers' order.
pub(super) fn after(layers: &[Layer], moves: &[Move], count: usize) -> Vec<Choice> {
    let mut choices = best(layers);
    for step in &moves[..count] {
        choices[step.layer] = step.to;
    }
    choices
}

#[cfg(test)]
mod tests;
