"""Writes the OpenVINO models that are compared: f32, and W8A8 by NNCF's static post-training quantization.

Weights of the f32 models are stored in f16, which the checkpoint has them in; they are computed in f32.
"""

import sys
import time
from pathlib import Path

import torch

import parts

# A few are enough: what is measured is time, and the weights are random.
CALIBRATION_SAMPLES = 3


def path(cache, part, kind, side):
    """The file of a part; the text encoder's does not depend on the size."""
    size = "" if part == "text" else f"-{side}"
    return Path(cache) / f"{part}{size}-{kind}.xml"


def ensure(cache, directory, part, side):
    """Converts `part` unless the cache has it in both kinds."""
    files = {kind: path(cache, part, kind, side) for kind in ("f32", "w8a8")}
    if all(file.exists() for file in files.values()):
        return
    import nncf
    import openvino

    start = time.perf_counter()
    Path(cache).mkdir(parents=True, exist_ok=True)
    module, random = parts.load(part, directory), parts.seeded()
    samples = [module.inputs(random, side) for _ in range(CALIBRATION_SAMPLES)]
    shapes = [tuple(tensor.shape) for tensor in samples[0]]
    with torch.inference_mode():
        model = openvino.convert_model(module, example_input=samples[0], input=shapes)
    del module
    openvino.save_model(model, files["f32"], compress_to_fp16=True)
    dataset = nncf.Dataset([[tensor.numpy() for tensor in sample] for sample in samples])
    quantized = nncf.quantize(model, dataset, subset_size=CALIBRATION_SAMPLES)
    openvino.save_model(quantized, files["w8a8"], compress_to_fp16=True)
    print(f"{part}: converted in {time.perf_counter() - start:.0f} s", file=sys.stderr)
