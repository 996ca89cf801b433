//! Opcode by opcode: the value that each pushes, according to CPython's `pickletools`, and the errors of the
//! machine.

use super::super::PickleProblem;
use super::super::globals::{self, Global};
use super::super::{
    machine,
    values::{Id, Value, Values},
};
use crate::dtype::DType;

/// A value in Python's notation; `?` for values that are not kept, `@` before the tuple of a storage.
fn shown(values: &Values<'_>, id: Id) -> String {
    let all = |ids: &[Id]| ids.iter().map(|&id| shown(values, id)).collect::<Vec<_>>().join(", ");
    match values.get(id) {
        Value::None => "None".to_owned(),
        Value::Int(value) => value.to_string(),
        Value::Text(_) => format!("'{}'", values.text(id).unwrap()),
        Value::Other => "?".to_owned(),
        Value::List(members) => format!("[{}]", all(members)),
        Value::Tuple(members) => format!("({})", all(members)),
        Value::Dict(pairs) => {
            let pair = |&(key, value): &(Id, Id)| format!("{}: {}", shown(values, key), shown(values, value));
            format!("{{{}}}", pairs.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        Value::Global(global) => format!("<{global}>"),
        Value::Object { class, args, state } => {
            let state = state.map_or(String::new(), |state| format!(" with {}", shown(values, state)));
            format!("<{class}>{}{state}", shown(values, *args))
        }
        Value::Persistent(words) => format!("@{}", shown(values, *words)),
    }
}

/// Pickles, and the values that they describe.
const PICKLES: [(&[u8], &str); 75] = [
    // Numbers.
    (b"N.", "None"),
    (b"\x88.", "?"),
    (b"\x89.", "?"),
    (b"K\xff.", "255"),
    (b"M\xff\xff.", "65535"),
    (b"M\x01\x02.", "513"),
    (b"J\xff\xff\xff\xff.", "-1"),
    (b"J\0\0\0\x80.", "-2147483648"),
    (b"I-12\n.", "-12"),
    (b"I00\n.", "?"),
    (b"I01\n.", "?"),
    (b"I1\n.", "1"),
    (b"L7L\n.", "7"),
    (b"L-8\n.", "-8"),
    (b"L99999999999999999999L\n.", "?"),
    (b"F1.5\n.", "?"),
    (b"G\x3f\xf0\0\0\0\0\0\0.", "?"),
    (b"\x8a\0.", "0"),
    (b"\x8a\x01\xff.", "-1"),
    (b"\x8a\x02\0\x80.", "-32768"),
    (b"\x8a\x02\xff\0.", "255"),
    (b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f.", "9223372036854775807"),
    (b"\x8a\x09\0\0\0\0\0\0\0\0\x01.", "?"),
    (b"\x8b\x01\0\0\0\x05.", "5"),
    // Texts and bytes.
    (b"U\x02ab.", "'ab'"),
    (b"U\0.", "''"),
    (b"U\x01\xff.", "?"),
    (b"\x8c\x02ab.", "'ab'"),
    (b"T\x02\0\0\0ab.", "'ab'"),
    (b"X\x02\0\0\0\xc3\xa9.", "'é'"),
    (b"\x8d\x02\0\0\0\0\0\0\0ab.", "'ab'"),
    (b"S'ab'\n.", "'ab'"),
    (b"S\"ab\"\n.", "'ab'"),
    (b"Vab\n.", "'ab'"),
    (b"V'ab'\n.", "''ab''"),
    (b"C\x02ab.", "?"),
    (b"B\x02\0\0\0ab.", "?"),
    (b"\x8e\x02\0\0\0\0\0\0\0ab.", "?"),
    (b"\x96\x02\0\0\0\0\0\0\0ab.", "?"),
    // Containers.
    (b").", "()"),
    (b"(t.", "()"),
    (b"(K\x01K\x02t.", "(1, 2)"),
    (b"K\x01\x85.", "(1)"),
    (b"K\x01K\x02\x86.", "(1, 2)"),
    (b"K\x01K\x02K\x03\x87.", "(1, 2, 3)"),
    (b"].", "[]"),
    (b"(K\x01K\x02l.", "[1, 2]"),
    (b"]K\x01aK\x02a.", "[1, 2]"),
    (b"](K\x01K\x02e.", "[1, 2]"),
    (b"\x8f(K\x01\x90.", "[1]"),
    (b"(K\x01\x91.", "[1]"),
    (b"}.", "{}"),
    (b"(K\x01K\x02d.", "{1: 2}"),
    (b"}K\x01K\x02s.", "{1: 2}"),
    (b"}(K\x01K\x02K\x03K\x04u.", "{1: 2, 3: 4}"),
    // The stack and the memo.
    (b"K\x01K\x020.", "1"),
    (b"K\x01(0.", "1"),
    (b"K\x01(K\x02K\x031.", "1"),
    (b"K\x012\x86.", "(1, 1)"),
    (b"\x80\x05\x95\0\0\0\0\0\0\0\0K\x01.", "1"),
    (b"K\x01q\x050h\x05.", "1"),
    (b"K\x01p5\n0g5\n.", "1"),
    (b"K\x01r\x05\0\0\x010j\x05\0\0\x01.", "1"),
    (b"K\x01\x94K\x02\x94h\x01h\0\x86.", "(2, 1)"),
    // A list that is stored in the memo before its elements are added.
    (b"]q\0K\x01a0h\0.", "[1]"),
    // Classes and calls.
    (b"ctorch\nSize\n.", "<torch.Size>"),
    (b"\x8c\x05torch\x8c\x04Size\x93.", "<torch.Size>"),
    (b"ctorch\nSize\nK\x02\x85R.", "<torch.Size>(2)"),
    (b"ctorch\nSize\n)}\x92.", "<torch.Size>()"),
    (b"(K\x01ibuiltins\nset\n.", "<builtins.set>(1)"),
    (b"(cbuiltins\nset\nK\x01o.", "<builtins.set>(1)"),
    (b"cbuiltins\nobject\n)\x81K\x05b.", "<builtins.object>() with 5"),
    (b"ccollections\nOrderedDict\n)R.", "{}"),
    (b"ccollections\nOrderedDict\n](K\x01K\x02\x86K\x03\x85K\x04K\x05\x86e\x85R.", "{1: 2, 4: 5}"),
    (b"K\x01Q.", "@1"),
];

#[test]
fn every_opcode_leaves_what_python_would() {
    for (pickle, expected) in PICKLES {
        let (values, id, len) =
            machine::run(pickle).unwrap_or_else(|problem| panic!("{pickle:?}: {problem}"));
        assert_eq!((shown(&values, id).as_str(), len), (expected, pickle.len()), "{pickle:?}");
    }
}

#[test]
fn a_pickle_ends_at_its_stop_and_nowhere_before() {
    for (pickle, expected) in PICKLES {
        for len in 0..pickle.len() {
            let problem = machine::run(&pickle[..len]).expect_err("the pickle is cut");
            let end = len as u64 + 1;
            let truncated = format!(
                "the file is truncated: the pickle extends to byte {end}, but there are only {len} bytes"
            );
            assert_eq!(problem.to_string(), truncated, "{pickle:?}");
        }
        let longer = [pickle, b"and more"].concat();
        let (values, id, len) = machine::run(&longer).unwrap();
        assert_eq!((shown(&values, id).as_str(), len), (expected, pickle.len()), "{pickle:?}");
    }
}

#[test]
fn what_cannot_go_on_is_told_with_its_place() {
    for (pickle, at, reason) in [
        (&b"."[..], 0, "the stack has too few values"),
        (b"N(.", 2, "the stack has too few values"),
        (b"b.", 0, "the stack has too few values"),
        (b"Nb.", 1, "the stack has too few values"),
        (b"2.", 0, "the stack has too few values"),
        (b"q\0.", 0, "the stack has too few values"),
        (b"1.", 0, "the stack has no mark"),
        (b"NN\x87.", 2, "a tuple has too few values"),
        (b"NN(N\x86.", 4, "a tuple has too few values"),
        (b"(Nd.", 2, "a key has no value"),
        (b"}(NNNu.", 5, "a key has no value"),
        (b"NNa.", 2, "an item is added to a value that is not a list"),
        (b"N(Ne.", 3, "an item is added to a value that is not a list"),
        (b"NNNs.", 3, "an item is added to a value that is not a dictionary"),
        (b"](NNu.", 4, "an item is added to a value that is not a dictionary"),
        (b"h\x01.", 0, "an entry of the memo is read before it is stored"),
        (b"Nq\x01h\x02.", 3, "an entry of the memo is read before it is stored"),
        (b"Npx\n.", 1, "expected a number"),
        (b"I1.5\n.", 0, "expected a number"),
        (b"c\xff\na\n.", 0, "a line is not valid UTF-8"),
        (b"K\x01\x8c\x01a\x93.", 5, "the name of a global is not text"),
        (b"(o.", 1, "an object has no class"),
        (b"N)R.", 2, "the called value is not a global"),
        (b"P1\n.", 0, "a persistent id is a text, which no checkpoint needs"),
    ] {
        let problem = machine::run(pickle).expect_err("the pickle cannot go on").to_string();
        assert_eq!(problem, format!("the pickle is malformed at byte {at}: {reason}"), "{pickle:?}");
    }
}

#[test]
fn only_known_classes_are_called() {
    let allowed = |module: &str, name: &str| {
        let pickle = format!("c{module}\n{name}\n)R.");
        match machine::run(pickle.as_bytes()).map(|_| ()) {
            Ok(()) => true,
            Err(PickleProblem::Call(found)) if found == format!("{module}.{name}") => false,
            Err(other) => panic!("{module}.{name}: {other}"),
        }
    };
    for (module, name) in [
        ("torch._utils", "_rebuild_parameter_with_state"),
        ("torch", "device"),
        ("__builtin__", "frozenset"),
        ("copy_reg", "_reconstructor"),
        ("numpy._core.multiarray", "scalar"),
        ("pathlib", "PosixPath"),
        ("argparse", "Namespace"),
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
        ("omegaconf.dictconfig", "DictConfig"),
    ] {
        assert!(allowed(module, name), "{module}.{name}");
    }
    for (module, name) in [
        ("torch._utils", "_rebuild_tensor_v4"),
        ("torch", "load"),
        ("torch.", "Size"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("numpy", "load"),
        ("pathlib", "os"),
        ("pytorch_lightning", "Trainer"),
        ("pytorch_lightningx.callbacks", "X"),
        ("x.omegaconf.dictconfig", "DictConfig"),
        ("subprocess", "Popen"),
    ] {
        assert!(!allowed(module, name), "{module}.{name}");
    }
}

#[test]
fn storages_and_number_formats_have_the_names_that_torch_gives_them() {
    let storage = |module, name| globals::storage_dtype(&Global::new(module, name));
    for (name, dtype) in [
        ("DoubleStorage", DType::F64),
        ("FloatStorage", DType::F32),
        ("HalfStorage", DType::F16),
        ("BFloat16Storage", DType::BF16),
        ("LongStorage", DType::I64),
        ("IntStorage", DType::I32),
        ("ShortStorage", DType::I16),
        ("CharStorage", DType::I8),
        ("ByteStorage", DType::U8),
        ("BoolStorage", DType::Bool),
    ] {
        assert_eq!(storage("torch", name), Some(dtype), "{name}");
        assert_eq!(storage("torch.cuda", name), Some(dtype), "{name}");
        assert_eq!(storage("numpy", name), None, "{name}");
    }
    assert_eq!(storage("torch.storage", "UntypedStorage"), Some(DType::U8));
    assert_eq!(storage("torch", "QInt8Storage"), None);

    let format = |module, name| globals::dtype(&Global::new(module, name));
    for (names, dtype) in [
        (&["float64", "double"][..], DType::F64),
        (&["float32", "float"], DType::F32),
        (&["float16", "half"], DType::F16),
        (&["bfloat16"], DType::BF16),
        (&["float8_e4m3fn"], DType::F8E4M3),
        (&["float8_e5m2"], DType::F8E5M2),
        (&["int64", "long"], DType::I64),
        (&["int32", "int"], DType::I32),
        (&["int16", "short"], DType::I16),
        (&["int8"], DType::I8),
        (&["uint64"], DType::U64),
        (&["uint32"], DType::U32),
        (&["uint16"], DType::U16),
        (&["uint8"], DType::U8),
        (&["bool"], DType::Bool),
    ] {
        for name in names {
            assert_eq!(format("torch", name), Some(dtype), "{name}");
            assert_eq!(format("numpy", name), None, "{name}");
        }
    }
    // PyTorch's other formats of eight bits have another bias or no negative zero.
    for name in ["float8_e4m3fnuz", "float8_e5m2fnuz", "complex64", "qint8"] {
        assert_eq!(format("torch", name), None, "{name}");
    }
}
