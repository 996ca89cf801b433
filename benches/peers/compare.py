"""Times sdq and its peers on the same weights, shapes and threads, turn and turn about.

    python benches/peers/compare.py MODEL_DIR MODEL.sdq [MORE.sdq ..] --cache FOLDER [--json FILE]

MODEL_DIR is a diffusers directory, the .sdq files what `sdq convert` made of it. For each part (text encoder, guided
U-Net step, VAE decoder) every peer is loaded in a process of its own; then all of them run once a round, one after the
other. A ratio is taken within each round, so that what slows the machine for a while slows both sides.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

PARTS = ("text", "unet", "vae")
PEERS = ("torch", "openvino-f32", "openvino-w8a8")
HERE = Path(__file__).resolve().parent


class Sampler(threading.Thread):
    """Looks every few milliseconds at how much anonymous memory a process holds."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak = pid, 0
        self.start()

    def run(self):
        while True:
            try:
                status = Path(f"/proc/{self.pid}/status").read_text()
            except OSError:
                return
            held = [line for line in status.splitlines() if line.startswith("RssAnon:")]
            if not held:
                return
            self.peak = max(self.peak, int(held[0].split()[1]) * 1024)
            time.sleep(0.005)

    def restart(self):
        """What was held while the model was loaded, which is no longer looked at afterwards."""
        loading, self.peak = self.peak, 0
        return loading


class Worker:
    """A peer in a process that answers every line with the seconds of one run."""

    def __init__(self, args, part, peer):
        self.name, self.seconds = peer, []
        options = ["--cache", args.cache, "--side", str(args.side), "--threads", str(args.threads)]
        command = [sys.executable, HERE / "worker.py", peer, part, args.directory, *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.sampler = Sampler(self.process.pid)
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{peer} did not start")
        self.loading = self.sampler.restart()

    def run(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.seconds.append(float(self.process.stdout.readline()))

    def stop(self):
        self.process.stdin.close()
        self.process.wait()
        return {
            "name": self.name,
            "seconds": self.seconds,
            "peak_loading": self.loading,
            "peak_running": self.sampler.peak,
        }


class Ours:
    """`sdq bench`, started anew each time: it runs once to warm up and once to be measured."""

    def __init__(self, args, part, model):
        self.name, self.seconds, self.peak = f"sdq {Path(model).stem}", [], 0
        size = f"{args.side}x{args.side}"
        options = ["--part", part, "--size", size, "--threads", str(args.threads), "--rounds", "1", "--json"]
        self.command = [args.sdq, "bench", model, *options]

    def run(self):
        process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        sampler = Sampler(process.pid)
        answer = process.stdout.read()
        if process.wait() != 0:
            raise SystemExit(f"failed: {' '.join(map(str, self.command))}")
        self.peak = max(self.peak, sampler.peak)
        self.seconds.append(json.loads(answer)["parts"][0]["median"])

    def stop(self):
        return {"name": self.name, "seconds": self.seconds, "peak_loading": 0, "peak_running": self.peak}


def measure(args, part):
    runners = [Ours(args, part, model) for model in args.models]
    runners += [Worker(args, part, peer) for peer in args.peers]
    for _ in range(args.rounds):
        for runner in runners:
            runner.run()
    return [runner.stop() for runner in runners]


def spread(values, form):
    return " ".join(form.format(value) for value in (min(values), statistics.median(values), max(values)))


def report(part, results, ours):
    print(f"\n{part}: seconds (min, median, max); anonymous MiB loading, running; ratio of sdq's time to it")
    for result in results:
        memory = [result[key] / 2**20 for key in ("peak_loading", "peak_running")]
        line = f"  {result['name']:<16}{spread(result['seconds'], '{:8.4f}')}  {memory[0]:6.0f} {memory[1]:6.0f}"
        if result["name"] not in ours:
            for name in ours:
                own = next(other for other in results if other["name"] == name)
                ratios = [a / b for a, b in zip(own["seconds"], result["seconds"])]
                line += f"  {name}: {spread(ratios, '{:.3f}')}"
        print(line)


def machine():
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": names[0].split(":")[1].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "load_before": os.getloadavg()[0],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", metavar="MODEL_DIR")
    parser.add_argument("models", metavar="MODEL.sdq", nargs="+")
    parser.add_argument("--cache", required=True, metavar="FOLDER", help="where converted OpenVINO models are kept")
    parser.add_argument("--sdq", default=HERE.parents[1] / "target/release/sdq", help="the command to measure")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=512, help="of the picture, in pixels")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", help="where to write every number")
    args = parser.parse_args()

    if any(peer.startswith("openvino") for peer in args.peers):
        for part in args.parts:
            # In a process of its own: what it takes of memory is not to stay.
            convert = f"import openvino_models as m; m.ensure({args.cache!r}, {args.directory!r}, {part!r}, {args.side})"
            subprocess.run([sys.executable, "-c", convert], cwd=HERE, check=True)
    ours = [f"sdq {Path(model).stem}" for model in args.models]
    record = {
        "date": datetime.datetime.now().isoformat(timespec="minutes"),
        "machine": machine(),
        "threads": args.threads,
        "side": args.side,
        "parts": {},
    }
    for part in args.parts:
        record["parts"][part] = measure(args, part)
        report(part, record["parts"][part], ours)
    if args.json:
        Path(args.json).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
