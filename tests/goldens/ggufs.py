"""Writes a GGUF file with a tensor of every number format, and what the package `gguf` decodes them to.

    python tests/goldens/ggufs.py

`ggufs/formats.gguf` holds random blocks with finite scales; `ggufs/formats.safetensors` the same tensors in f32.
`ggufs/comfy.gguf` has a convolution as ComfyUI-GGUF flattens it.
"""

from pathlib import Path

import gguf
import numpy
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize
from safetensors.numpy import save_file

HERE = Path(__file__).parent / "ggufs"
# Bytes of a block at which a half is: a scale that has to be finite.
HALVES = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.Q2_K: [80, 82],
    Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.IQ4_NL: [0], Type.IQ4_XS: [0],
}


def blocks(kind: Type, rows: int, columns: int, random: numpy.random.Generator) -> numpy.ndarray:
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    data = random.integers(0, 256, (rows * columns // elements, size), dtype=numpy.uint8)
    for at in HALVES[kind]:
        scales = random.normal(0, 0.1, len(data)).astype(numpy.float16)
        data[:, at : at + 2] = scales.view(numpy.uint8).reshape(-1, 2)
    return data.reshape(rows, -1)


def main() -> None:
    HERE.mkdir(exist_ok=True)
    random = numpy.random.default_rng(3)
    writer = gguf.GGUFWriter(HERE / "formats.gguf", "sd1")
    writer.add_string("general.name", "every format")
    writer.add_array("some.numbers", [1, 2, 3])
    writer.add_array("many.words", [f"w{i}" for i in range(100)])
    expected = {}
    for kind in HALVES:
        data = blocks(kind, 2, 512, random)
        writer.add_tensor(f"{kind.name}.weight", data, raw_dtype=kind)
        expected[f"{kind.name}.weight"] = dequantize(data, kind).astype(numpy.float32)
    plain = random.normal(0, 1, (3, 5)).astype(numpy.float32)
    for name, value in {"F32": plain, "F16": plain.astype(numpy.float16), "F64": plain.astype(numpy.float64)}.items():
        writer.add_tensor(f"{name}.weight", value)
        expected[f"{name}.weight"] = value.astype(numpy.float32)
    upper = (plain.view(numpy.uint32) >> 16).astype(numpy.uint16)
    writer.add_tensor("BF16.weight", upper.view(numpy.uint8).reshape(3, -1), raw_dtype=Type.BF16)
    expected["BF16.weight"] = (upper.astype(numpy.uint32) << 16).view(numpy.float32).reshape(3, 5)
    finish(writer)
    save_file({name: numpy.ascontiguousarray(value) for name, value in expected.items()}, HERE / "formats.safetensors")

    writer = gguf.GGUFWriter(HERE / "comfy.gguf", "sd1")
    data = blocks(Type.Q4_0, 9, 256, random)
    writer.add_array("comfy.gguf.orig_shape.input_blocks.1.0.in_layers.2.weight", [16, 16, 3, 3])
    writer.add_tensor("input_blocks.1.0.in_layers.2.weight", data, raw_dtype=Type.Q4_0)
    finish(writer)
    decoded = dequantize(data, Type.Q4_0).astype(numpy.float32).reshape(16, 16, 3, 3)
    save_file({"input_blocks.1.0.in_layers.2.weight": decoded}, HERE / "comfy.safetensors")


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
