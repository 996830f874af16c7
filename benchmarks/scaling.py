"""Training on several processes: rates, efficiency, equality with one process, communication.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --config configs/omniglot_5way_1shot.yaml --processes 1 2 4 \
        --device cuda --updates 200 --data.root data

Through the Lightning Trainer, `ddp` with gloo on CPUs (`--threads` each) and nccl on CUDA, without
loggers and checkpoints; flags that are not the benchmark's go to the fit. `tasks` are the config's
`meta_batch_size`, rounded up so that all numbers of processes divide it.

- weak: p processes take p times `tasks` per meta-update. Efficiency: tasks/s over p times those
  of one process.
- strong: p processes share `tasks`. Efficiency: updates/s over p times those of one.
- exchange: the backward pass, in which DDP adds up gradients, and the signals by which processes
  agree to stop, with the wait for the slowest; less what the same calls take on one process.
- all-reduce alone: as many numbers as there are gradients, and one number, one after the other
  without anything in between; what the network takes.

First it trains in 64 bits on the same tasks with each number of processes, and stops with an error
if a weight differs by more than `ROUNDING` from that of one process.

The projection is no measurement. With A and L the times of the all-reduce alone of the gradients
and of one number on p processes, and T1 and Tp the times of a meta-update on one, and strong on p:

    exchange(n) = (1 + SIGNALS) L (n-1)/(p-1) + (A - L) ((n-1)/n) / ((p-1)/p)      a ring's
    shared      = (T1 - (Tp - exchange(p))) p/(p-1)             what n processes divide, 0 .. T1
    weak(n)     = T1 + exchange(n)
    strong(n)   = T1 - shared + shared/n + exchange(n)

It takes n devices to be joined as these p are, and none to wait for another; for p, measured and
projected values stand side by side. A ring's steps are pessimistic where trees are used.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml
from torch import Tensor

from lightning_maml.run.provenance import surroundings
from quartiles import quartiles
from timed_fit import (
    Built,
    Clock,
    between,
    heading,
    in_child,
    leave_result,
    median_of,
    table,
)

ROUNDING = 1e-7  # largest difference of a weight, after `CHECKED` meta-updates in 64 bits; batch
# norm of five images and Adam, of steps of 1e-3, leave some 1e-9 of rounding
CHECKED = 4
SIGNALS = 2  # small collectives per meta-update: Lightning's of SIGTERM, and ours to stop together
WARM_UP = 20
QUIET = [
    "--trainer.logger=false",
    "--trainer.callbacks=null",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.limit_val_batches=0",
]


def build(case: dict[str, Any], *flags: str) -> Built:
    """A fit on `processes`, with `tasks` for each."""
    processes = case["processes"]
    ours = [
        f"--trainer.accelerator={case['device']}",
        f"--trainer.devices={processes}",
        f"--trainer.strategy={'ddp' if processes > 1 else 'auto'}",
        f"--data.meta_batch_size={case['tasks']}",
    ]
    return Built(["--config", case["config"], *QUIET, *case["flags"], *ours, *flags], Path())


def run_rate(case: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds per meta-update, and in it those of the exchange; those of an all-reduce."""
    last = WARM_UP + case["updates"]
    built = build(case, f"--trainer.max_steps={last + 1}")
    trainer, learner = built.trainer, built.model
    clock = Clock("rest", device=case["device"])
    clock.around(learner, "backward", "exchange")
    clock.around(trainer.fit_loop.epoch_loop, "_broadcast_sigterm_tensor", "exchange")
    clock.around(trainer.strategy, "reduce_boolean_decision", "exchange")
    fit = partial(trainer.fit, learner, datamodule=built.datamodule)
    between(trainer, fit, WARM_UP, last, clock.start, clock.stop)
    numbers = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    return {
        "update_ms": 1e3 * sum(clock.seconds.values()) / case["updates"],
        "exchange_ms": 1e3 * clock.seconds["exchange"] / case["updates"],
        "gradients_ms": all_reduce_ms(numbers, trainer.strategy.root_device),
        "one_number_ms": all_reduce_ms(1, trainer.strategy.root_device),
        "first": trainer.is_global_zero,
        "about": surroundings(trainer),
    }


def all_reduce_ms(numbers: int, device: torch.device, repeats: int = 50) -> float:
    """Milliseconds of an all-reduce, the median over rows of them; 0 on one process."""
    if not dist.is_initialized():
        return 0.0
    tensor = torch.zeros(numbers, device=device)
    times = []
    for _ in range(6):
        start = time.perf_counter()
        for _ in range(repeats):
            dist.all_reduce(tensor)
        tensor[0].item()  # waits for the device
        times.append(1e3 * (time.perf_counter() - start) / repeats)
    return statistics.median(times[1:])


def run_check(case: dict[str, Any]) -> dict[str, Any]:
    """Leave the weights after `CHECKED` meta-updates in 64 bits."""
    built = build(
        case,
        f"--trainer.max_steps={CHECKED}",
        "--trainer.precision=64-true",
        "--model.compile=false",
    )
    built.trainer.fit(built.model, datamodule=built.datamodule)
    if built.trainer.is_global_zero:
        torch.save(built.model.state_dict(), Path(case["folder"], "weights.pt"))
    return {"first": built.trainer.is_global_zero}


RUNS = {"rate": run_rate, "check": run_check}


def check_equal(one: dict[str, Tensor], several: dict[str, Tensor], processes: int) -> float:
    """The largest difference of a weight.

    Raises:
        SystemExit: if it is more than rounding.
    """
    differences = [(one[name] - several[name]).abs().flatten() for name in one]
    worst = torch.cat(differences).max().item()  # of which NaN is the largest
    if not worst <= ROUNDING:
        raise SystemExit(
            f"After {CHECKED} meta-updates in 64 bits on the same tasks a weight of {processes} "
            f"processes differs by {worst:.2g} from that of one: more than rounding, {ROUNDING:g}."
        )
    return worst


@dataclass(frozen=True)
class Measured:
    """What the projection needs, in milliseconds.

    Attributes:
        processes: p.
        alone: a meta-update on one process.
        strong: one whose tasks p share.
        gradients: an all-reduce of the gradients on p.
        one_number: of one number.
    """

    processes: int
    alone: float
    strong: float
    gradients: float
    one_number: float

    def exchange(self, n: int) -> float:
        """What n processes take to tell each other."""
        p = self.processes
        steps, sent = (n - 1) / (p - 1), ((n - 1) / n) / ((p - 1) / p)
        volume = max(self.gradients - self.one_number, 0.0)
        return (1 + SIGNALS) * self.one_number * steps + volume * sent

    def weak_update(self, n: int) -> float:
        """A meta-update in which each of n has the tasks of one."""
        return self.alone + self.exchange(n)

    def strong_update(self, n: int) -> float:
        """A meta-update whose tasks n share."""
        p = self.processes
        shared = (self.alone - (self.strong - self.exchange(p))) * p / (p - 1)
        shared = min(max(shared, 0.0), self.alone)
        return self.alone - shared + shared / n + self.exchange(n)


def measure(config: str, options: argparse.Namespace, flags: list[str]) -> dict[str, Any]:
    """The check, then the rates: a list over turns for each scaling and number of processes."""
    settings = yaml.safe_load(Path(config).read_text())["data"]["init_args"]
    together = math.lcm(*options.processes)
    tasks = -(-settings["meta_batch_size"] // together) * together
    case = {"config": config, "flags": flags, "device": options.device}
    case["updates"] = options.updates
    environment = {"OMP_NUM_THREADS": str(options.threads)} if options.device == "cpu" else {}
    weights, worst = {}, {}
    for p in options.processes:
        with tempfile.TemporaryDirectory() as folder:
            check = {**case, "kind": "check", "processes": p, "tasks": tasks // p}
            in_child(__file__, check, Path(folder), **environment)
            weights[p] = torch.load(Path(folder, "weights.pt"), weights_only=True)
        worst[p] = check_equal(weights[1], weights[p], p)
    runs: dict[str, dict[int, list[dict[str, Any]]]] = {"weak": {}, "strong": {}}
    for _ in range(options.turns):
        for p in options.processes:
            for scaling, share in (("weak", tasks), ("strong", tasks // p)):
                if p == 1 and scaling == "strong":
                    continue
                rate = {**case, "kind": "rate", "processes": p, "tasks": share}
                with tempfile.TemporaryDirectory() as folder:
                    result = in_child(__file__, rate, Path(folder), **environment)
                about = result.pop("about")
                runs[scaling].setdefault(p, []).append(result)
    runs["strong"] = {1: runs["weak"][1], **runs["strong"]}
    return {"config": config, "tasks": tasks, "worst": worst, "runs": runs, "about": about}


def median_ms(turns: list[dict[str, Any]], key: str) -> float:
    """Of the turns."""
    return float(median_of([turn[key] for turn in turns]))


def rows(result: dict[str, Any]) -> list[list[str]]:
    """A config's lines in the table of what was measured."""
    lines = []
    idle = median_ms(result["runs"]["weak"][1], "exchange_ms")
    for scaling, by_processes in result["runs"].items():
        alone = median_ms(by_processes[1], "update_ms")
        for p, turns in by_processes.items():
            tasks = result["tasks"] * (p if scaling == "weak" else 1)
            update, exchange = median_ms(turns, "update_ms"), median_ms(turns, "exchange_ms") - idle
            efficiency = alone / update / (1 if scaling == "weak" else p)
            low, mid, high = quartiles([1e3 / turn["update_ms"] for turn in turns])
            lines += [
                [
                    Path(result["config"]).stem,
                    scaling,
                    str(p),
                    str(tasks),
                    f"{mid:,.1f} ({low:,.1f} to {high:,.1f})",
                    f"{mid * tasks:,.0f}",
                    f"{efficiency:.0%}",
                    f"{exchange:.3f} ({exchange / update:.1%})",
                    f"{median_ms(turns, 'gradients_ms'):.3f}",
                    f"{median_ms(turns, 'one_number_ms'):.3f}",
                    f"{result['worst'][p]:.1e}",
                ]
            ]
    return lines


def projections(result: dict[str, Any], to: list[int]) -> list[list[str]]:
    """A config's lines in the table of what was not measured, from its most processes."""
    runs = result["runs"]
    p = max(runs["weak"])
    measured = Measured(
        p,
        median_ms(runs["weak"][1], "update_ms"),
        median_ms(runs["strong"][p], "update_ms"),
        median_ms(runs["weak"][p], "gradients_ms"),
        median_ms(runs["weak"][p], "one_number_ms"),
    )
    lines = []
    for n in (p, *to):
        update = {"weak": measured.weak_update(n), "strong": measured.strong_update(n)}
        for scaling, ms in update.items():
            share = 1 if scaling == "weak" else n
            seen = median_ms(runs[scaling][n], "update_ms") if n == p else None
            lines += [
                [
                    Path(result["config"]).stem,
                    scaling,
                    str(n),
                    f"{measured.exchange(n):.3f} ({measured.exchange(n) / ms:.1%})",
                    f"{1e3 * result['tasks'] * n / share / ms:,.0f}",
                    f"{measured.alone / ms / share:.0%}",
                    "" if seen is None else f"{measured.alone / seen / share:.0%}",
                ]
            ]
    return lines


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", nargs="+", default=["configs/sinusoid.yaml"])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1, help="of each process, on a CPU")
    parser.add_argument("--project", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--json", type=Path, help="write all turns there, too")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    options, flags = parser.parse_known_args()
    if options.case:
        result = RUNS[options.case["kind"]](options.case)
        if result["first"]:
            leave_result(options.case, result)
        return
    options.processes = sorted({1, *options.processes})
    results = [measure(config, options, flags) for config in options.config]
    head = (
        f"{heading(results[0]['about'])} Medians of {options.turns} turns of {options.updates} "
        f"meta-updates after {WARM_UP}; on a CPU {options.threads} threads for each process."
    )
    print(f"{head}\n")
    columns = ["config", "scaling", "processes", "tasks", "updates/s (quartiles)", "tasks/s"]
    columns += ["efficiency", "exchange, ms", "all-reduce alone, ms", "of one number, ms"]
    columns += [f"difference of weights, at most {ROUNDING:.0e}"]
    print(table(columns, [row for result in results for row in rows(result)]))
    if max(options.processes) > 1:
        print(
            "\nA projection, not measured; its formula is at the head of benchmarks/scaling.py:\n"
        )
        columns = ["config", "scaling", "devices", "exchange, ms", "tasks/s", "efficiency"]
        columns += ["measured efficiency"]
        lines = [row for result in results for row in projections(result, options.project)]
        print(table(columns, lines))
    if options.json:
        options.json.write_text(json.dumps({"about": head, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
