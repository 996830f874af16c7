"""What training.py and scaling.py share: a `fit` as the command line builds it, and its clock."""

import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer

from lightning_maml.run.cli import MetaLearningCLI
from lightning_maml.run.console import readable_output
from lightning_maml.run.wandb_logging import finish


class Clock:
    """Gives each moment between `start` and `stop` to one part, so that the parts are the whole.

    It is the part of the innermost call under way of those that `around` wrapped, or `rest`. What
    is called in one of the parts `closed` is that part's. A CUDA device finishes its work before
    each reading. What the readings take is in the parts: see `calls` and `cost_of_a_call`.
    """

    def __init__(self, rest: str, closed: Sequence[str] = (), device: str = "cpu") -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls = 0
        self.started = 0.0
        self._closed, self._cuda = closed, device == "cuda"
        self._parts = [rest]  # under way, the innermost last
        self._since: float | None = None

    def start(self) -> None:
        """Begin."""
        self.started = self._since = self._now()

    def stop(self) -> None:
        """End; what is called later is not counted."""
        self._pass()
        self._since = None

    def enter(self, part: str) -> None:
        """What comes now is `part`."""
        if self._since is not None:
            self._pass()
            inside = self._parts[-1]
            self._parts.append(inside if inside in self._closed else part)
            self.calls += 1

    def leave(self) -> None:
        """What comes now is what was before the last `enter`."""
        if self._since is not None:
            self._pass()
            self._parts.pop()

    def around(self, owner: Any, name: str, part: str) -> None:
        """Have each call of the method `name` of `owner` be `part` from now on."""
        call = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.enter(part)
            try:
                return call(*args, **kwargs)
            finally:
                self.leave()

        object.__setattr__(owner, name, timed)  # the engine is frozen

    def _pass(self) -> None:
        assert self._since is not None
        now = self._now()
        self.seconds[self._parts[-1]] += now - self._since
        self._since = now

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def cost_of_a_call(device: str = "cpu", calls: int = 20_000) -> float:
    """Seconds that `Clock.around` adds to a call, on the average."""

    class Idle:
        def call(self) -> None:
            """Nothing."""

    clock, idle = Clock("rest", device=device), Idle()
    clock.start()
    times = []
    for _ in range(2):
        start = time.perf_counter()
        for _ in range(calls):
            idle.call()
        times.append(time.perf_counter() - start)
        clock.around(idle, "call", "part")
    return (times[1] - times[0]) / calls


def between(
    trainer: Trainer,
    fit: Callable[[], None],
    first: int,
    last: int,
    start: Callable[[], None],
    stop: Callable[[], None],
) -> None:
    """Fit; `start` as the batch after meta-update `first` begins, `stop` as that after `last` does.

    In between are whole rounds of the loop. A callback would do it, too, but Lightning calls each
    hook of each callback, and that takes time.

    Raises:
        SystemExit: if the fit ends before.
    """
    loop, due = trainer.fit_loop.epoch_loop, [(first, start), (last, stop)]
    advance = loop.advance

    def noticing(fetcher: Any) -> None:
        if due and trainer.global_step == due[0][0]:
            due.pop(0)[1]()
        advance(fetcher)

    loop.advance = noticing  # type: ignore[method-assign, assignment]
    fit()
    if due:
        raise SystemExit(f"The fit ended at meta-update {trainer.global_step}, not after {last}.")


class Built(MetaLearningCLI):
    """Trainer, model and data of a `fit`, as the command line builds them, but not started.

    What the config's loggers write goes to `folder`.
    """

    def __init__(self, args: Sequence[str], folder: Path) -> None:
        self.folder = folder
        with readable_output(["lightning_maml", "datamodules"]):
            super().__init__(["fit", *args])

    def before_instantiate_classes(self) -> None:
        """Move the loggers."""
        given = self._get(self.config, "trainer").logger
        for logger in given if isinstance(given, list) else [given]:
            if isinstance(logger, Namespace) and "save_dir" in logger.init_args:
                logger.init_args.save_dir = str(self.folder)

    def _run_subcommand(self, subcommand: str) -> None:
        """The benchmark does."""


def in_child(script: str, case: dict[str, Any], folder: Path, **environment: str) -> dict[str, Any]:
    """What `script` leaves when it is called with `--case`, in a process of its own.

    Raises:
        SystemExit: if it fails.
    """
    command = [sys.executable, script, "--case", json.dumps({**case, "folder": str(folder)})]
    # Runs of a benchmark are for nobody's dashboards.
    surroundings = {"WANDB_MODE": "offline", **os.environ, **environment}
    done = subprocess.run(command, stdout=sys.stderr, env=surroundings)
    if done.returncode:
        raise SystemExit(f"The run of {case} failed; what it said is above.")
    return json.loads((folder / "result.json").read_text())


def leave_result(case: dict[str, Any], result: dict[str, Any]) -> None:
    """In the child: write it for `in_child`."""
    finish(0)
    Path(case["folder"], "result.json").write_text(json.dumps(result))


def heading(about: dict[str, Any]) -> str:
    """Command, device, versions, date and seed, from the `surroundings` of a run's trainer."""
    device, versions, git = about["device"], about["versions"], about["git"] or {}
    name = f"{device['name']}, {os.cpu_count()} cores"
    if device["type"] != "cpu":
        name = f"{device['name']}; the CPU has {os.cpu_count()} cores"
    commit = f"{git.get('commit', 'unknown')[:7]}{' with changes' if git.get('dirty') else ''}"
    return (
        f"`python {shlex.join(sys.argv)}`\n\n{device['type']} ({name}), "
        + ", ".join(f"{package} {version}" for package, version in versions.items())
        + f", commit {commit}, {about['date']}, seed {about['seed']}."
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def median_of(values: list[Any]) -> Any:
    """The median, of lists element by element."""
    if isinstance(values[0], list):
        return [statistics.median(column) for column in zip(*values, strict=True)]
    return statistics.median(values)
