"""One peer with one part loaded: answers every line on standard input with the seconds of one run.

Started by compare.py, in a process of its own so that its threads and memory are its own.
"""

import argparse
import sys
import time

import parts


def torch_runner(args):
    import torch

    torch.set_num_threads(args.threads)
    module = parts.load(args.part, args.directory)
    inputs = module.inputs(parts.seeded(), args.side)

    def run():
        with torch.inference_mode():
            module(*inputs)

    return run


def openvino_runner(args):
    import gc

    import openvino
    import openvino.properties as properties
    import openvino.properties.hint as hint

    from openvino_models import path

    module = parts.load(args.part, args.directory)
    inputs = [tensor.numpy() for tensor in module.inputs(parts.seeded(), args.side)]
    del module
    gc.collect()
    core = openvino.Core()
    kind = args.peer.removeprefix("openvino-")
    options = {
        properties.inference_num_threads(): args.threads,
        properties.num_streams(): 1,
        hint.performance_mode(): hint.PerformanceMode.LATENCY,
        hint.inference_precision(): openvino.Type.f32,
    }
    model = core.compile_model(path(args.cache, args.part, kind, args.side), "CPU", options)
    request = model.create_infer_request()
    return lambda: request.infer(inputs)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=("torch", "openvino-f32", "openvino-w8a8"))
    parser.add_argument("part", choices=parts.PARTS)
    parser.add_argument("directory")
    parser.add_argument("--cache", required=True)
    parser.add_argument("--side", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    run = torch_runner(args) if args.peer == "torch" else openvino_runner(args)
    run()
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        run()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
