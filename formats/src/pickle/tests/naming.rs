//! The tensors in a pickle, their names, and the notes beside them.

use super::pickler::{call, dict, global, int, ints, list, number, pickle, storage, text, tuple, view};
use super::{archive, open, refused};
use crate::dtype::DType;

/// An archive with `value` as its pickle, and one storage of four f32: 0, 1, 2, 3.
fn file(value: &[u8]) -> Vec<u8> {
    let bytes: Vec<u8> = (0..4).flat_map(|i| (i as f32).to_le_bytes()).collect();
    archive(&[("m/data.pkl", &pickle(value)), ("m/data/0", &bytes)])
}

/// Names of the tensors with their first numbers.
fn named(value: &[u8]) -> Vec<(String, f32)> {
    let file = open(&file(value)).unwrap_or_else(|problem| panic!("{problem}"));
    file.tensors().map(|tensor| (tensor.name.clone(), tensor.to_f32().unwrap()[0])).collect()
}

fn names(value: &[u8]) -> Vec<String> {
    named(value).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn names_are_the_keys_on_the_way_joined_by_dots() {
    let inner = dict(&[("weight", number(1)), ("bias", number(2))]);
    let numbered = [&b"}"[..], &int(7), &number(3), b"s"].concat();
    let value = dict(&[("a", inner), ("b", numbered), ("c", number(0))]);
    let expected = [("a.weight", 1.0), ("a.bias", 2.0), ("b.7", 3.0), ("c", 0.0)];
    assert_eq!(named(&value), expected.map(|(name, number)| (name.to_owned(), number)));
}

#[test]
fn a_wrapper_is_no_part_of_the_names() {
    let weights = || dict(&[("w", number(1))]);
    for (value, expected) in [
        // Everything beside `state_dict` is ignored.
        (dict(&[("state_dict", weights()), ("optimizer", weights())]), &["w"][..]),
        // The other wrappers count only if they contain everything.
        (dict(&[("model", weights())]), &["w"]),
        (dict(&[("module", weights())]), &["w"]),
        (dict(&[("params", weights())]), &["w"]),
        (dict(&[("model", weights()), ("other", weights())]), &["model.w", "other.w"]),
        (dict(&[("model.diffusion_model.w", number(0))]), &["model.diffusion_model.w"]),
        // Only one wrapper is removed.
        (dict(&[("state_dict", dict(&[("model", weights())]))]), &["model.w"]),
        // The dot is part of the wrapper.
        (dict(&[("models", weights())]), &["models.w"]),
    ] {
        assert_eq!(names(&value), expected);
    }
}

#[test]
fn parameters_and_derived_tensors_are_tensors() {
    let parameter = call("torch._utils", "_rebuild_parameter", &[number(1), b"\x88".to_vec(), b"N".to_vec()]);
    let module = call("torch.nn.parameter", "Parameter", &[number(2)]);
    let args = tuple(&[storage("FloatStorage", "0", 4), int(3), ints(&[1]), ints(&[1])]);
    let function = global("torch._utils", "_rebuild_tensor_v2");
    let derived =
        call("torch._tensor", "_rebuild_from_type_v2", &[function, global("torch", "Tensor"), args]);
    let value = dict(&[("parameter", parameter), ("module", module), ("derived", derived)]);
    let expected = [("parameter", 1.0), ("module", 2.0), ("derived", 3.0)];
    assert_eq!(named(&value), expected.map(|(name, number)| (name.to_owned(), number)));
}

#[test]
fn a_parameter_dictionary_is_looked_into() {
    let state = dict(&[("training", b"\x88".to_vec()), ("_parameters", dict(&[("p", number(2))]))]);
    let container = call("torch.nn.modules.container", "ParameterDict", &[]);
    let built = [&container[..], &state, b"b"].concat();
    assert_eq!(named(&dict(&[("embeddings", built)])), [("embeddings.p".to_owned(), 2.0)]);
    // The state of any other object is ignored.
    let other = [&call("argparse", "Namespace", &[])[..], &state, b"b"].concat();
    assert_eq!(names(&dict(&[("args", other), ("w", number(0))])), ["w"]);
}

#[test]
fn a_typed_tensor_has_its_own_number_format() {
    let typed = |format: Vec<u8>| {
        let args = [
            storage("UntypedStorage", "0", 16),
            int(1),
            ints(&[2]),
            ints(&[1]),
            b"\x89".to_vec(),
            b"N".to_vec(),
        ];
        call("torch._utils", "_rebuild_tensor_v3", &[&args[..], &[format]].concat())
    };
    let found = open(&file(&dict(&[("w", typed(global("torch", "float16")))]))).unwrap();
    let tensor = found.tensors().next().unwrap();
    // Two halves from the second on; the offset counts halves.
    assert_eq!((tensor.dtype, tensor.bytes), (DType::F16, &[0, 0, 0, 0][..]));
    assert_eq!(tensor.shape, [2]);
    for (format, reason) in [
        (global("torch", "complex64"), "tensor `w`: the tensor has the unknown type torch.complex64"),
        (int(1), "tensor `w`: the tensor has no type"),
    ] {
        assert_eq!(refused(&file(&dict(&[("w", typed(format))]))), reason);
    }
}

#[test]
fn notes_are_texts_and_whole_numbers() {
    let value = dict(&[
        ("w", number(0)),
        ("name", text("cat\ntoy")),
        ("global_step", int(-3)),
        ("epoch", b"\x88".to_vec()),
        ("inner", dict(&[("step", int(5))])),
    ]);
    let file = open(&file(&value)).unwrap();
    let notes = ["name", "global_step", "epoch", "inner.step", "w"].map(|key| file.note(key));
    assert_eq!(notes, [Some("cat\\ntoy"), Some("-3"), None, Some("5"), None]);
}

#[test]
fn dictionaries_are_looked_into_sixteen_deep() {
    let nested = |depth: usize| {
        let mut value = dict(&[("w", number(0))]);
        for _ in 1..depth {
            value = dict(&[("d", value), ("x", number(1))]);
        }
        value
    };
    let deepest = |depth: usize| names(&nested(depth)).iter().map(|name| name.split('.').count()).max();
    assert_eq!(deepest(16), Some(16));
    assert_eq!(deepest(17), Some(16));
}

#[test]
fn tensors_that_cannot_be_are_named_with_the_reason() {
    let float = || storage("FloatStorage", "0", 4);
    let rebuilt = |args: &[Vec<u8>]| call("torch._utils", "_rebuild_tensor_v2", args);
    let words = [text("storage"), global("torch", "FloatStorage"), text("0"), text("cpu"), int(4)];
    let part = [&tuple(&[&words[..], &[ints(&[1])]].concat())[..], b"Q"].concat();
    for (value, reason) in [
        (rebuilt(&[float(), int(0), ints(&[1])]), "the call that rebuilds the tensor has too few arguments"),
        (rebuilt(&[int(1), int(0), ints(&[1]), ints(&[1])]), "the tensor has no storage"),
        (view(storage("QInt8Storage", "0", 4), 0, &[1], &[1]), "the storage has an unknown type"),
        (view(part, 0, &[1], &[1]), "the storage has an unknown type"),
        (view(float(), 0, &[-1], &[1]), "the tensor has no valid shape"),
        (rebuilt(&[float(), int(0), int(4), ints(&[1])]), "the tensor has no valid shape"),
        (view(float(), 0, &[2], &[1, 1]), "the tensor does not have one stride for each dimension"),
        (view(float(), 0, &[2], &[-1]), "the tensor does not have one stride for each dimension"),
        (view(float(), -1, &[2], &[1]), "the tensor has no valid offset in the storage"),
        (view(float(), 3, &[2], &[1]), "the last element is past the end of the storage, which has 16 bytes"),
        (view(float(), 0, &[3], &[2]), "the last element is past the end of the storage, which has 16 bytes"),
        (view(float(), 5, &[0], &[1]), "the last element is past the end of the storage, which has 16 bytes"),
        (view(float(), 0, &[5], &[0]), "the 5 elements repeat parts of a storage of 16 bytes"),
        (view(float(), 0, &[i32::MAX; 3], &[0; 3]), "the number of elements is too large"),
        (view(storage("FloatStorage", "9", 4), 0, &[1], &[1]), "the storage `9` is not in the file"),
        (
            call("torch._tensor", "_rebuild_from_type_v2", &[int(1)]),
            "the call that rebuilds the tensor has too few arguments",
        ),
    ] {
        assert_eq!(refused(&file(&dict(&[("w", value)]))), format!("tensor `w`: {reason}"));
    }
}

#[test]
fn names_that_repeat_or_do_not_print_are_refused() {
    let twice = dict(&[("a.b", number(0)), ("a", dict(&[("b", number(1))]))]);
    assert_eq!(refused(&file(&twice)), "tensor `a.b` appears twice");
    for (name, shown) in [("a\nb", "a\\nb"), ("", "")] {
        let message = refused(&file(&dict(&[(name, number(0))])));
        assert_eq!(
            message,
            format!(
                "tensor `{shown}`: the name is not allowed: a name has 1 to 1024 bytes and no control characters"
            )
        );
    }
    for value in [dict(&[]), text("w")] {
        assert_eq!(refused(&file(&value)), "the file contains no tensors");
    }
    for value in [list(&[number(0)]), dict(&[("a", tuple(&[number(0)]))])] {
        let message = refused(&file(&value));
        assert!(message.contains("1 blocks of tensor data, but no tensor has a name"), "{message}");
    }
}
