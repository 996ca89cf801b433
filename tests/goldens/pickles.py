"""Writes small checkpoints with `torch.save`, and their tensors once more as safetensors.

    python tests/goldens/pickles.py

`pickles/NAME.pt` has the tensors of `pickles/NAME.safetensors`, under the same names; see `CHECKPOINTS` for what is
peculiar to each.
"""

import argparse
import collections
import pathlib
import sys
import types
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent / "pickles"


class ModelCheckpoint:
    """Stands for the callback whose state Lightning leaves in a checkpoint."""


def lightning() -> type:
    """The class under the module that old checkpoints name."""
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    ModelCheckpoint.__module__ = module.__name__
    module.ModelCheckpoint = ModelCheckpoint
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules[module.__name__] = module
    return ModelCheckpoint


def weights() -> dict:
    generator = torch.Generator().manual_seed(5)
    matrix = torch.randn((4, 6), generator=generator)
    return collections.OrderedDict(
        {
            "f32": matrix,
            "transposed": matrix.T,
            "columns": matrix[:, 1:4:2],
            "rows": matrix[1:3],
            "turned": torch.randn((2, 3, 4), generator=generator).permute(2, 0, 1),
            "f16": torch.randn((3,), generator=generator).half(),
            "bf16": torch.randn((2, 2), generator=generator).bfloat16(),
            "f64": torch.randn((2,), generator=generator, dtype=torch.float64),
            "i64": torch.arange(5).unsqueeze(0),
            "u8": torch.arange(4, dtype=torch.uint8),
            "scalar": torch.tensor(3.5),
            "parameter": torch.nn.Parameter(torch.randn((2, 3), generator=generator)),
            "block.0.weight": torch.randn((1, 1, 3, 3), generator=generator),
        }
    )


def leftovers() -> dict:
    """What stands beside the weights in files of 2022."""
    import numpy

    callback = lightning()()
    callback.best = numpy.float64(0.5)
    return {
        "epoch": 6,
        "global_step": 470000,
        "pytorch-lightning_version": "1.4.2",
        "callbacks": {type(callback): {"monitor": "val/loss", "best_model_score": torch.tensor(1.0), "state": callback}},
        "hyper_parameters": argparse.Namespace(lr=1e-4, path=pathlib.PurePosixPath("a/b"), table=numpy.arange(3)),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        "lr_schedulers": [collections.defaultdict(list)],
    }


def embedding() -> dict:
    """A textual inversion as its first trainer wrote it."""
    vectors = torch.nn.ParameterDict({"*": torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))})
    return {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": vectors, "name": "cat-toy", "step": 900}


CHECKPOINTS = {
    # Today's layout: storages in an archive; shared, transposed and cut tensors.
    "zip": (weights(), {}),
    # The layout before 1.6.
    "legacy": (weights(), {"_use_new_zipfile_serialization": False}),
    # The oldest and the newest protocol that people use.
    "protocol4": (weights(), {"pickle_protocol": 4}),
    # Weights under `state_dict`, and a trainer's state beside them.
    "lightning": ({**leftovers(), "state_dict": weights()}, {}),
    "embedding": (embedding(), {}),
}


def named(value, prefix: str = "") -> dict:
    if isinstance(value, torch.Tensor):
        return {prefix: value.detach().contiguous().clone()}
    items = value.items() if hasattr(value, "items") else []
    tensors = {}
    for key, inner in items:
        tensors |= named(inner, f"{prefix}.{key}" if prefix else str(key))
    return tensors


def main() -> None:
    HERE.mkdir(exist_ok=True)
    for name, (value, options) in CHECKPOINTS.items():
        torch.save(value, HERE / f"{name}.pt", **options)
        save_file(named(value.get("state_dict", value)), HERE / f"{name}.safetensors")
        print(name, sorted(named(value.get("state_dict", value))))


if __name__ == "__main__":
    main()
