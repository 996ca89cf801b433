//! Python's globals by name, and the ones that files of tensors may name in a call.

use std::fmt;
use std::rc::Rc;

use crate::dtype::DType;
use crate::names::quote;

/// A class or function, identified by module and name. It is never imported or called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Global {
    // Shared: every object has the name of its class.
    module: Rc<str>,
    name: Rc<str>,
}

impl Global {
    pub(super) fn new(module: &str, name: &str) -> Global {
        Global { module: module.into(), name: name.into() }
    }

    pub(super) fn is(&self, module: &str, names: &[&str]) -> bool {
        *self.module == *module && names.contains(&&*self.name)
    }
}

impl fmt::Display for Global {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", quote(&self.module), quote(&self.name))
    }
}

/// Globals that construct tensors, and those of other data that trainers store: containers, paths, numbers of
/// numpy, states of callbacks.
const HARMLESS: [(&str, &[&str]); 18] = [
    ("torch._utils", &REBUILD),
    ("torch._tensor", &["_rebuild_from_type_v2"]),
    ("torch", &["Size", "device", "Tensor"]),
    ("torch.nn.modules.container", &["ParameterDict", "ParameterList", "ModuleDict"]),
    ("torch.nn.parameter", &["Parameter"]),
    ("collections", &["OrderedDict", "defaultdict", "Counter", "deque"]),
    ("builtins", &BUILTINS),
    ("__builtin__", &BUILTINS),
    ("copyreg", &["_reconstructor"]),
    ("copy_reg", &["_reconstructor"]),
    ("_codecs", &["encode"]),
    ("argparse", &["Namespace"]),
    ("numpy", &["dtype", "ndarray"]),
    ("numpy.core.multiarray", &["scalar", "_reconstruct"]),
    ("numpy._core.multiarray", &["scalar", "_reconstruct"]),
    ("pathlib", &["Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"]),
    ("pathlib._local", &["Path", "PosixPath", "WindowsPath"]),
    ("typing", &["Any"]),
];
pub(super) const REBUILD: [&str; 5] = [
    "_rebuild_tensor",
    "_rebuild_tensor_v2",
    "_rebuild_tensor_v3",
    "_rebuild_parameter",
    "_rebuild_parameter_with_state",
];
const BUILTINS: [&str; 9] =
    ["set", "frozenset", "list", "dict", "tuple", "object", "bytearray", "complex", "slice"];
/// Packages whose classes contain settings: many files contain those of a training run beside the weights.
const SETTINGS: [&str; 4] = ["pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf."];

/// Whether a call of `global` can be recorded as an object.
pub(super) fn is_harmless(global: &Global) -> bool {
    let named = HARMLESS.iter().any(|(module, names)| global.is(module, names));
    named || SETTINGS.iter().any(|package| global.module.starts_with(package))
}

/// Whether a call of it returns a dictionary.
pub(super) fn is_dictionary(global: &Global) -> bool {
    global.is("collections", &["OrderedDict"])
}

/// The number format of a class of storages; `None` for other classes. Untyped storages hold bytes.
pub(super) fn storage_dtype(global: &Global) -> Option<DType> {
    if !matches!(&*global.module, "torch" | "torch.storage" | "torch.cuda") {
        return None;
    }
    Some(match &*global.name {
        "DoubleStorage" => DType::F64,
        "FloatStorage" => DType::F32,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "LongStorage" => DType::I64,
        "IntStorage" => DType::I32,
        "ShortStorage" => DType::I16,
        "CharStorage" => DType::I8,
        "ByteStorage" | "UntypedStorage" => DType::U8,
        "BoolStorage" => DType::Bool,
        _ => return None,
    })
}

/// The number format called `torch.float16` and so on.
pub(super) fn dtype(global: &Global) -> Option<DType> {
    if &*global.module != "torch" {
        return None;
    }
    Some(match &*global.name {
        "float64" | "double" => DType::F64,
        "float32" | "float" => DType::F32,
        "float16" | "half" => DType::F16,
        "bfloat16" => DType::BF16,
        "float8_e4m3fn" => DType::F8E4M3,
        "float8_e5m2" => DType::F8E5M2,
        "int64" | "long" => DType::I64,
        "int32" | "int" => DType::I32,
        "int16" | "short" => DType::I16,
        "int8" => DType::I8,
        "uint64" => DType::U64,
        "uint32" => DType::U32,
        "uint16" => DType::U16,
        "uint8" => DType::U8,
        "bool" => DType::Bool,
        _ => return None,
    })
}
