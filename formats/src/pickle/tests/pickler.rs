//! Builds pickles for tests, piece by piece.

/// A text, with the opcode `BINUNICODE`.
pub(super) fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// A whole number, with the opcode `BININT`.
pub(super) fn int(value: i32) -> Vec<u8> {
    [&b"J"[..], &value.to_le_bytes()].concat()
}

/// A tuple of any length.
pub(super) fn tuple(members: &[Vec<u8>]) -> Vec<u8> {
    [&b"("[..], &members.concat(), b"t"].concat()
}

/// A tuple of whole numbers: a shape, or strides.
pub(super) fn ints(values: &[i32]) -> Vec<u8> {
    tuple(&values.iter().map(|&value| int(value)).collect::<Vec<_>>())
}

/// A list.
pub(super) fn list(members: &[Vec<u8>]) -> Vec<u8> {
    [&b"("[..], &members.concat(), b"l"].concat()
}

/// A dictionary with text keys.
pub(super) fn dict(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pairs: Vec<u8> = pairs.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [&b"}("[..], &pairs, b"u"].concat()
}

/// A class or function.
pub(super) fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}

/// A call of a class or function.
pub(super) fn call(module: &str, name: &str, args: &[Vec<u8>]) -> Vec<u8> {
    [&global(module, name)[..], &tuple(args), b"R"].concat()
}

/// The storage `key` of `len` elements, of the class `torch.{class}`.
pub(super) fn storage(class: &str, key: &str, len: i32) -> Vec<u8> {
    let words = [text("storage"), global("torch", class), text(key), text("cpu"), int(len)];
    [&tuple(&words)[..], b"Q"].concat()
}

/// A tensor of the storage `source`.
pub(super) fn view(source: Vec<u8>, offset: i32, shape: &[i32], strides: &[i32]) -> Vec<u8> {
    let hooks = call("collections", "OrderedDict", &[]);
    let args = [source, int(offset), ints(shape), ints(strides), b"\x89".to_vec(), hooks];
    call("torch._utils", "_rebuild_tensor_v2", &args)
}

/// A tensor with one f32, the element `offset` of the storage `0`, which has four.
pub(super) fn number(offset: i32) -> Vec<u8> {
    view(storage("FloatStorage", "0", 4), offset, &[1], &[1])
}

/// A whole pickle.
pub(super) fn pickle(value: &[u8]) -> Vec<u8> {
    [&b"\x80\x02"[..], value, b"."].concat()
}
