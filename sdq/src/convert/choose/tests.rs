use proptest::prelude::*;

use super::*;

fn layer(name: &str, errors: [f64; 3], scale: usize) -> Layer {
    let choice = |weight_type, bytes, error| Choice { weight_type, version: 0, bytes: bytes * scale, error };
    let [f16, q8, q4] = errors;
    let choices =
        vec![choice(WeightType::F16, 16, f16), choice(WeightType::Q8, 8, q8), choice(WeightType::Q4, 4, q4)];
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
    // q8 is as bad as q4 but larger, so it is never used.
    assert_eq!(moves(&[layer("a", [0.0, 1.0, 1.0], 1)]).len(), 1);
    // f16 is no better than q8, so the file starts at q8.
    assert_eq!(types(&[layer("b", [0.5, 0.5, 1.0], 1)], 0), ["q8"]);
    // On the line from f16 to q4 the error at the size of q8 would be 6; 7 is above the line.
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

/// Layers with up to four choices of distinct sizes, in any order, with integer errors, so that sums are
/// exact.
fn any_layers() -> impl Strategy<Value = Vec<Layer>> {
    let choice = (1..40_usize, 0..40_u8);
    let layer = proptest::collection::vec(choice, 1..5).prop_map(|sizes| {
        let choice = |(version, (bytes, error)): (usize, (usize, u8))| Choice {
            weight_type: WeightType::F16,
            version,
            bytes,
            error: f64::from(error),
        };
        Layer { name: "any".to_owned(), choices: sizes.into_iter().enumerate().map(choice).collect() }
    });
    proptest::collection::vec(layer, 1..5)
}

/// Bytes and error of one choice for each layer.
fn total(choices: &[Choice]) -> (usize, f64) {
    (choices.iter().map(|choice| choice.bytes).sum(), choices.iter().map(|choice| choice.error).sum())
}

/// Bytes and error of every combination of choices.
fn all_totals(layers: &[Layer]) -> Vec<(usize, f64)> {
    layers.iter().fold(vec![(0, 0.0)], |totals, layer| {
        let with = |(bytes, error): &(usize, f64)| {
            let (bytes, error) = (*bytes, *error);
            layer.choices.iter().map(move |choice| (bytes + choice.bytes, error + choice.error))
        };
        totals.iter().flat_map(with).collect()
    })
}

proptest! {
    /// Compares with all combinations.
    #[test]
    fn each_first_part_of_the_moves_is_the_best_file_of_its_size(layers in any_layers()) {
        let (moves, totals) = (moves(&layers), all_totals(&layers));
        for count in 0..=moves.len() {
            let (bytes, error) = total(&after(&layers, &moves, count));
            let best = totals.iter().filter(|(size, _)| *size <= bytes).map(|(_, error)| *error);
            prop_assert_eq!(Some(error), best.min_by(f64::total_cmp), "{} moves, {} bytes", count, bytes);
        }
    }

    #[test]
    fn the_moves_lead_from_the_least_error_to_the_least_size(layers in any_layers()) {
        let (moves, totals) = (moves(&layers), all_totals(&layers));
        let least_error = totals.iter().map(|(_, error)| *error).min_by(f64::total_cmp);
        prop_assert_eq!(Some(total(&best(&layers)).1), least_error);
        let least_size = totals.iter().map(|(bytes, _)| *bytes).min();
        prop_assert_eq!(Some(total(&after(&layers, &moves, moves.len())).0), least_size);
    }

    /// The numbers of a move are its actual effects.
    #[test]
    fn every_move_saves_its_bytes_and_adds_its_error(layers in any_layers()) {
        let moves = moves(&layers);
        for (count, step) in moves.iter().enumerate() {
            let (before, then) = (total(&after(&layers, &moves, count)), total(&after(&layers, &moves, count + 1)));
            prop_assert!(step.saved > 0 && step.added > 0.0, "{:?}", step);
            prop_assert_eq!(before.0 - then.0, step.saved);
            prop_assert_eq!(then.1 - before.1, step.added);
        }
        prop_assert!(moves.is_sorted_by(|a, b| a.price() <= b.price()), "the cheapest bytes go first");
    }
}

#[test]
fn a_weight_with_one_choice_never_moves() {
    let only = Choice { weight_type: WeightType::F16, version: 0, bytes: 16, error: 3.0 };
    let layers = [Layer { name: "only".to_owned(), choices: vec![only] }];
    assert_eq!((best(&layers), moves(&layers)), (vec![only], Vec::new()));
    assert_eq!([moves_to_fit(&[], 16, 16), moves_to_fit(&[], 16, 15)], [Some(0), None]);
}
