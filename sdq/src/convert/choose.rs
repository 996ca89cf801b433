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
mod tests {
    use super::*;

    fn layer(name: &str, errors: [f64; 3], scale: usize) -> Layer {
        let choice =
            |weight_type, bytes, error| Choice { weight_type, version: 0, bytes: bytes * scale, error };
        let [f16, q8, q4] = errors;
        let choices = vec![
            choice(WeightType::F16, 16, f16),
            choice(WeightType::Q8, 8, q8),
            choice(WeightType::Q4, 4, q4),
        ];
        Layer { name: name.to_owned(), choices }
    }

    fn types(layers: &[Layer], count: usize) -> Vec<&'static str> {
        after(layers, &moves(layers), count).iter().map(|choice| choice.weight_type.name()).collect()
    }

    #[test]
    fn cheap_bytes_go_first() {
        let layers = [layer("sensitive", [0.0, 1.0, 9.0], 1), layer("robust", [0.0, 0.1, 0.2], 1)];
        let steps = ["f16 f16", "f16 q8", "f16 q4", "q8 q4", "q4 q4"];
        for (count, expected) in steps.iter().enumerate() {
            assert_eq!(types(&layers, count).join(" "), *expected);
        }
        assert_eq!(moves(&layers).len(), 4);
    }

    #[test]
    fn choices_that_a_mixture_beats_are_never_taken() {
        // q8 costs as much as q4: nobody stops there.
        assert_eq!(moves(&[layer("a", [0.0, 1.0, 1.0], 1)]).len(), 1);
        // f16 is no better than q8, so the file starts at q8.
        assert_eq!(types(&[layer("b", [0.5, 0.5, 1.0], 1)], 0), ["q8"]);
        // On the way from f16 to q4 half of the error would be 6 at 8 bytes' height; 7 is above the line.
        assert_eq!(moves(&[layer("c", [0.0, 7.0, 9.0], 1)]).len(), 1);
        assert_eq!(moves(&[layer("d", [0.0, 5.0, 9.0], 1)]).len(), 2);
    }

    #[test]
    fn a_size_is_met_with_the_fewest_moves_or_not_at_all() {
        let layers = [layer("a", [0.0, 1.0, 4.0], 10), layer("b", [0.0, 2.0, 9.0], 10)];
        let (moves, bytes) = (moves(&layers), best(&layers).iter().map(|choice| choice.bytes).sum());
        assert_eq!(bytes, 320);
        for (limit, count) in [(320, Some(0)), (319, Some(1)), (240, Some(1)), (80, Some(4)), (79, None)] {
            assert_eq!(moves_to_fit(&moves, bytes, limit), count, "{limit}");
        }
    }
}
