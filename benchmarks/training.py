"""Where the time of whole `fit` runs goes, and how many episodes the loader alone gives.

    python benchmarks/training.py --config configs/sinusoid.yaml
    python benchmarks/training.py --config configs/sinusoid.yaml configs/omniglot_5way_1shot.yaml \
        --data.root data --updates 500 --turns 5 --json training.json
    python benchmarks/training.py --only fit --updates 70000 --turns 1      # to take a minute

Each run is the command line's `fit` in a process of its own, with the config's loggers (W&B
offline), callbacks and progress bar; flags that are not the benchmark's go to it. Measured are
`--updates` rounds of the loop, from the start of one batch to that of another, after `--warm-up`
meta-updates. Runs with and without a clock inside take turns: updates/s are of those without,
shares of those with one, medians over turns.

- loader: the next batch, and its way to the device;
- engine: the meta-gradient, and handing it to autograd;
- optimizer: norm and clipping of the meta-gradient, the check that it is finite, the optimizer's
  step, the scheduler's;
- logging, progress: evaluation before adaptation where it is logged, what is logged, Lightning's
  gathering of it, the progress bar;
- validation: with the checkpoints, and all checkpoints;
- Trainer: all else, so Lightning's loop and hooks, the callbacks, and our checks of the episode.

Overhead is loader, Trainer, logging and progress, in milliseconds per meta-update, with what the
clock itself takes, which stands beside it: its readings times what one costs in a loop of its own.

The loader alone is asked for training batches on the CPU, images as floats. Beside it are a loader
that reads each image of an episode from its file (per_image_loader.py), and torchvision's
`ImageFolder` with a random sampler, of which as many images as an episode has are counted as one.
Files that were read before come from memory, as they would in training once all were read.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ProgressBar

from lightning_maml import MetaLearner
from lightning_maml.run.provenance import surroundings
from per_image_loader import image_files, image_folder_loader, per_image_loader
from quartiles import quartiles
from timed_fit import (
    Built,
    Clock,
    between,
    cost_of_a_call,
    heading,
    in_child,
    leave_result,
    median_of,
    table,
)

PARTS = {
    "loader": "loader",
    "engine": "engine",
    "optimizer": "optimizer",
    "trainer": "Trainer",
    "logging": "logging, progress",
    "validation": "validation",
}
OVERHEAD = ("loader", "trainer", "logging")
TARGET = 0.3  # milliseconds of overhead per meta-update
WORKERS = (0, 1, 2)


def clock_for(device: str) -> Clock:
    """A clock for `PARTS`."""
    return Clock("trainer", closed=["validation"], device=device)


def watch_parts(clock: Clock, trainer: Trainer, learner: MetaLearner) -> None:
    """Put `clock` around the calls of a fit that is under way."""
    loop: Any = trainer.fit_loop.epoch_loop
    fetcher: Any = trainer.fit_loop._data_fetcher
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    logs = trainer._logger_connector
    # Lightning calls these around the loader's `next`, and sets them anew at each epoch.
    loop._on_before_fetch = fetcher._start_profiler = partial(clock.enter, "loader")
    loop._on_after_fetch = fetcher._stop_profiler = clock.leave
    clock.around(trainer.strategy, "batch_to_device", "loader")
    clock.around(learner.engine, "meta_loss", "engine")
    clock.around(learner, "backward", "engine")
    clock.around(learner, "_update", "optimizer")
    # Inside, Lightning calls hooks: before the optimizer's step, and in its closure.
    clock.around(trainer.strategy, "optimizer_step", "trainer")
    clock.around(trainer.precision_plugin, "_wrap_closure", "trainer")
    clock.around(trainer.optimizers[0], "step", "optimizer")
    clock.around(learner, "evaluate", "logging")
    clock.around(learner, "_log_training", "logging")
    clock.around(logs, "on_batch_end", "logging")
    clock.around(logs, "update_train_step_metrics", "logging")
    for bar in (callback for callback in callbacks if isinstance(callback, ProgressBar)):
        clock.around(bar, "on_train_batch_end", "logging")
    clock.around(loop.val_loop, "run", "validation")
    clock.around(trainer, "save_checkpoint", "validation")


def timed(
    trainer: Trainer,
    learner: MetaLearner,
    fit: Callable[[], None],
    first: int,
    last: int,
    inside: bool,
    device: str = "cpu",
) -> dict[str, Any]:
    """Milliseconds per meta-update from `first` to `last`, by part if there is a clock `inside`."""
    clock = clock_for(device)

    def start() -> None:
        if inside:
            watch_parts(clock, trainer, learner)
        clock.start()

    begin = time.perf_counter()
    between(trainer, fit, first, last, start, clock.stop)
    seconds, updates = time.perf_counter() - begin, last - first
    return {
        "update_ms": 1e3 * sum(clock.seconds.values()) / updates,
        "parts_ms": {part: 1e3 * clock.seconds[part] / updates for part in PARTS} if inside else {},
        "calls": clock.calls / updates,
        "clock_ms": 1e3 * clock.calls / updates * cost_of_a_call(device),
        "start_s": clock.started - begin,
        "fit_s": seconds,
    }


def run_fit(case: dict[str, Any]) -> dict[str, Any]:
    """One fit, in a process of its own."""
    first = case["warm_up"]
    last = first + case["updates"]
    flags = [
        f"--trainer.max_steps={last + 1}",
        f"--trainer.accelerator={case['device']}",
        "--trainer.devices=1",
    ]
    built = Built(["--config", case["config"], *case["flags"], *flags], Path(case["folder"]))
    learner = built.model
    if getattr(type(learner), "training_step", None) is not MetaLearner.training_step:
        raise SystemExit(
            f"`--config` must be of a learner that trains as MetaLearner does, got "
            f"{type(learner).__name__} in {case['config']}: the parts of others are not known."
        )
    fit = partial(built.trainer.fit, learner, datamodule=built.datamodule)
    result = timed(built.trainer, learner, fit, first, last, case["inside"], case["device"])
    return {**result, "about": surroundings(built.trainer)}


def rate(loader: Iterable[Any], tasks_of: Callable[[Any], int], seconds: float) -> float:
    """Episodes per second, epoch after epoch, the first batches not counted."""
    batches = chain.from_iterable(repeat(loader))
    for _ in range(2 * max(WORKERS) + 1):  # a worker is two batches ahead
        next(batches)
    tasks, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        tasks += tasks_of(next(batches))
    return tasks / passed


def run_loader(case: dict[str, Any]) -> dict[str, Any]:
    """Episodes per second of each loader and number of workers."""
    flags = ["--trainer.accelerator=cpu", "--trainer.devices=1"]
    built = Built(["--config", case["config"], *case["flags"], *flags], Path(case["folder"]))
    data, seconds = built.datamodule, case["seconds"]
    data.prepare_data()
    files = image_files(data)
    rates: dict[str, list[float]] = {"ours": []}
    for workers in WORKERS:
        batches = data.batches = replace(data.batches, num_workers=workers)

        def ours(batch: Any) -> int:
            return data.on_after_batch_transfer(batch, 0).tasks

        rates["ours"].append(rate(data.train_dataloader(), ours, seconds))
        for name, make in (("per image", per_image_loader), ("ImageFolder", image_folder_loader)):
            if files is not None:
                episodes = batches.meta_batch_size * batches.train_batches_per_epoch
                loader = make(files, data.shots.bounds("train")[1], episodes, batches.seed, workers)
                rates.setdefault(name, []).append(rate(loader, lambda _: 1, seconds))
    return {"rates": rates, "about": surroundings(built.trainer)}


RUNS = {"fit": run_fit, "loader": run_loader}


def measure(options: argparse.Namespace, flags: list[str]) -> list[dict[str, Any]]:
    """All turns of each config."""
    results = []
    kinds = [("fit", False), ("fit", True), ("loader", False)]
    for config in options.config:
        turns: dict[str, list[dict[str, Any]]] = {"bare": [], "timed": [], "loader": []}
        for _ in range(options.turns):
            for kind, inside in kinds:
                if options.only not in (None, kind):
                    continue
                case = {
                    "kind": kind, "config": config, "flags": flags, "inside": inside,
                    "warm_up": options.warm_up, "updates": options.updates,
                    "device": options.device, "seconds": options.seconds,
                }  # fmt: skip
                with tempfile.TemporaryDirectory() as folder:
                    result = in_child(__file__, case, Path(folder))
                about = result.pop("about")
                turns[{"fit": "timed" if inside else "bare"}.get(kind, kind)].append(result)
        results.append({"config": config, "about": about, **turns})
    return results


def medians(turns: list[dict[str, Any]], key: str) -> dict[str, Any]:
    """Of each number, or list of numbers, under `key`."""
    return {name: median_of([turn[key][name] for turn in turns]) for name in turns[0][key]}


def three_digits(rate: float) -> str:
    """Three digits of a rate, or all before the point."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def fit_row(result: dict[str, Any]) -> list[str]:
    """A config's line in the table of fits."""
    rates = quartiles([1e3 / turn["update_ms"] for turn in result["bare"]])
    parts = medians(result["timed"], "parts_ms")
    whole = sum(parts.values())
    overhead = sum(parts[part] for part in OVERHEAD)
    clock = statistics.median(turn["clock_ms"] for turn in result["timed"])
    start, seconds = (
        statistics.median(turn[key] for turn in result["bare"]) for key in ("start_s", "fit_s")
    )
    return [
        Path(result["config"]).stem,
        f"{three_digits(rates[1])} ({three_digits(rates[0])} to {three_digits(rates[2])})",
        three_digits(1e3 / whole),
        *[f"{parts[part] / whole:.1%}" for part in PARTS],
        f"{overhead:.3f}",
        f"{clock:.3f}",
        f"{start:.1f}",
        f"{seconds:.1f}",
    ]


def loader_rows(result: dict[str, Any]) -> list[list[str]]:
    """A config's lines in the table of loaders."""
    rates = medians(result["loader"], "rates")
    return [
        [
            Path(result["config"]).stem,
            name,
            *[f"{value:,.0f}" for value in values],
            f"{max(rates['ours']) / max(values):.1f}",
        ]
        for name, values in rates.items()
    ]


def report(results: list[dict[str, Any]]) -> str:
    """The tables that there is something for."""
    text = []
    if any(result["bare"] for result in results):
        head = ["config", "updates/s (quartiles)", "with clock", *PARTS.values()]
        head += [f"overhead, ms (target {TARGET})", "clock, ms", "start, s", "fit, s"]
        text.append(table(head, [fit_row(result) for result in results]))
    if any(result["loader"] for result in results):
        head = ["config", "loader", *[f"episodes/s, {n} workers" for n in WORKERS]]
        head.append("best of ours / best of it")
        text.append(table(head, [row for result in results for row in loader_rows(result)]))
    return "\n\n".join(text)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", nargs="+", default=["configs/sinusoid.yaml"])
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--warm-up", type=int, default=100, help="meta-updates before")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--seconds", type=float, default=3, help="for each rate of a loader")
    parser.add_argument("--only", choices=RUNS, help="both if not given")
    parser.add_argument("--json", type=Path, help="write all turns there, too")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    options, flags = parser.parse_known_args()
    if options.case:
        leave_result(options.case, RUNS[options.case["kind"]](options.case))
        return
    results = measure(options, flags)
    head = (
        f"{heading(results[0]['about'])} Medians of {options.turns} turns; {options.updates} "
        f"meta-updates after {options.warm_up}; torch uses {torch.get_num_threads()} threads."
    )
    print(f"{head}\n\n{report(results)}")
    if options.json:
        options.json.write_text(json.dumps({"about": head, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
