"""What every stage of training needs: seeds, averages of weights, checkpoints, logs."""

import copy
import csv
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch


def start(seed, threads):
    torch.manual_seed(seed)
    torch.set_num_threads(threads)


def autocast(enabled=True):
    """bfloat16 for matrix products: several times faster on CPUs with AMX."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled)


def to_tensor(pixels):
    """[n, h, w, 3] uint8 -> [n, 3, h, w] float in -1..1."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pixels(images):
    """[n, 3, h, w] float in -1..1 -> [n, h, w, 3] uint8."""
    images = (images.float().clamp(-1, 1) + 1) * 127.5
    return images.round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def psnr(a, b):
    """Decibels between two batches in -1..1, per picture: [n]."""
    mse = ((a - b) / 2).square().flatten(1).mean(1)
    return -10 * mse.clamp(min=1e-10).log10()


def learning_rate(step, steps, warmup, decay):
    """Factor on the learning rate: a short ramp, a plateau, then a fall to zero
    over the last `decay` steps. The plateau lets a resumed run be made longer or
    shorter without having started the wrong curve."""
    up = min(1.0, (step + 1) / warmup)
    down = min(1.0, (steps - step) / decay)
    return up * max(down, 0.01)


class Workers:
    """Computes gradients with one core per worker, each on its own share of a batch.

    PyTorch would rather split every single operation over the cores and have them
    wait for each other after each; on a machine that is also busy with other work
    those waits take most of the time (measured: several times slower).
    """

    def __init__(self, threads, shares):
        self.shares = shares  # more than threads: a core that is held up does fewer
        torch.set_num_threads(1)
        self.pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def gradients(self, loss_of, parameters, *batch):
        """Fills `.grad` with the gradient of the mean of loss_of(*share).

        loss_of returns (loss, values to log); the mean of the values is returned.
        It must not draw random numbers: shares are done in no fixed order.
        """

        def one(share):
            loss, values = loss_of(*share)
            return torch.autograd.grad(loss, parameters), values

        shares = list(zip(*(part.chunk(self.shares) for part in batch)))
        results = list(self.pool.map(one, shares))
        with torch.no_grad():
            total = list(results[0][0])
            for grads, _ in results[1:]:
                torch._foreach_add_(total, grads)
            torch._foreach_div_(total, len(results))
        for parameter, grad in zip(parameters, total):
            parameter.grad = grad
        values = [values for _, values in results]
        return {name: sum(float(v[name]) for v in values) / len(values) for name in values[0]}


class Ema:
    """A running average of a module's weights, which draws better than the weights."""

    def __init__(self, module, decay):
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay
        self.step = 0

    @torch.no_grad()
    def update(self, module):
        self.step += 1
        # A young average must forget its random start quickly.
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - decay)

    def state_dict(self):
        return {"module": self.module.state_dict(), "step": self.step}

    def load_state_dict(self, state):
        self.module.load_state_dict(state["module"])
        self.step = state["step"]


class Stage:
    """One stage's folder: its log, its checkpoint, and the step it has reached.

    `parts` are the things with a state_dict that a checkpoint must hold.
    """

    def __init__(self, folder, parts, every_minutes=5):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.parts = parts
        self.every = every_minutes * 60
        self.step = 0
        self.seconds = 0.0  # spent training, over all runs
        self.last_save = self.last_tick = time.time()
        self.totals, self.counted = {}, 0
        self.stopping = False
        for stop in (signal.SIGINT, signal.SIGTERM):
            signal.signal(stop, self.ask_to_stop)
        path = self.folder / "checkpoint.pt"
        if path.exists():
            state = torch.load(path, weights_only=False)
            self.step, self.seconds = state["step"], state["seconds"]
            for name, part in parts.items():
                part.load_state_dict(state["parts"][name])
            torch.manual_seed(torch.initial_seed() + self.step)  # not the first noise again
            print(f"{self.folder.name}: resumed at step {self.step}", flush=True)

    def ask_to_stop(self, *_):
        """A stopped run saves first; the same command then goes on from there."""
        self.stopping = True

    def save(self):
        state = {"step": self.step, "seconds": self.seconds}
        state["parts"] = {name: part.state_dict() for name, part in self.parts.items()}
        partial = self.folder / "checkpoint.partial"
        torch.save(state, partial)
        os.replace(partial, self.folder / "checkpoint.pt")  # never a half-written checkpoint
        self.last_save = time.time()

    def tick(self, log_every=100, **values):
        """Counts one step, logs the mean of `values`, saves when it is time."""
        self.step += 1
        self.counted += 1
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + float(value)
        if self.step % log_every == 0:
            now = time.time()
            self.seconds += now - self.last_tick
            ms = (now - self.last_tick) * 1000 / self.counted
            means = {name: total / self.counted for name, total in self.totals.items()}
            text = "  ".join(f"{name} {mean:.4f}" for name, mean in means.items())
            print(f"{self.folder.name} {self.step}  {text}  {ms:.0f} ms/step", flush=True)
            path = self.folder / "loss.csv"
            fresh = not path.exists()
            with path.open("a", newline="") as file:
                out = csv.writer(file)
                if fresh:
                    out.writerow(["step", "seconds", *means])
                out.writerow([self.step, round(self.seconds), *(round(mean, 5) for mean in means.values())])
            self.totals, self.counted, self.last_tick = {}, 0, now
        if self.stopping or time.time() - self.last_save > self.every:
            self.save()
        if self.stopping:
            raise SystemExit(f"{self.folder.name}: stopped and saved at step {self.step}")
