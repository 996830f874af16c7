"""Sorts results into the experiments of the paper, and says what was taken and what was not."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lightning_maml.paper.cells import EXPERIMENTS, LAST, PRECISION, Experiment
from lightning_maml.paper.methods import method_of
from lightning_maml.paper.results import Result

NETWORK = "network."  # how its settings begin


@dataclass(frozen=True)
class Value:
    """Our number for a cell; `mean` is None where a task diverged, `absent` says what it lacks."""

    mean: float | None = None
    ci95: float | None = None
    median: float | None = None
    diverged: int = 0
    absent: str = ""


@dataclass(frozen=True)
class Chosen:
    """The results that stand for an experiment: one per seed, of the same settings.

    Attributes:
        results: the most meta-updates, then the newest; one per seed
        passed_over: others of the same experiment
        departures: where their settings are not the paper's
    """

    experiment: Experiment
    results: tuple[Result, ...]
    passed_over: tuple[Result, ...]
    departures: tuple[str, ...]

    @property
    def first(self) -> Result:
        """The one that the others join."""
        return self.results[0]

    @property
    def other_config(self) -> str:
        """The config that its network was trained with, where not the experiment's; else empty."""
        return _other_config(self.experiment, self.first)

    @property
    def shortened(self) -> str:
        """How many meta-updates of how many, where they are fewer than the paper's; else empty."""
        done, paper = self.first.meta_updates, self.experiment.updates
        if paper is None or (done is not None and done >= paper):
            return ""
        return f"{'?' if done is None else f'{done:,}'} of {paper:,}"

    @property
    def other_network(self) -> str:
        """Settings of its network that are not the paper's, or the config's; else empty."""
        notes = (note for note in self.departures if note.startswith(NETWORK))
        return ", ".join(note.removeprefix(NETWORK).partition(" where ")[0] for note in notes)

    def value(self, step: int) -> Value:
        """The metric after so many inner steps (`LAST`: the last), mean over seeds."""
        values = []
        for one in self.results:
            number = one.steps[-1] if step == LAST else step
            if number not in one.steps:
                return Value(absent=f"{one.name} has no {step} inner steps, only {one.steps[-1]}")
            k = one.steps.index(number)
            values.append(Value(one.mean[k], one.ci95[k], one.median[k], one.diverged[k]))
        return Value(
            mean=_mean(value.mean for value in values),
            ci95=_mean(value.ci95 for value in values),
            median=_mean(value.median for value in values),
            diverged=sum(value.diverged for value in values),
        )

    @property
    def facts(self) -> list[str]:
        """What a reader must know beside the numbers, one fact a line."""
        one = self.first
        seeds = ", ".join("?" if r.seed is None else str(r.seed) for r in self.results)
        count = f"mean of {len(self.results)} seeds: {seeds}" if len(self.results) > 1 else ""
        updates = self.shortened or (f"{one.meta_updates:,}" if one.meta_updates else "")
        seconds = _mean(result.training_seconds for result in self.results)
        time = "" if seconds is None else f" in {seconds / 60:,.1f} minutes"
        facts = [
            f"{updates} meta-updates{time}" if updates else "",
            f"{one.tasks} test tasks (fingerprint {one.fingerprint}), 95% CI over tasks",
            count or f"seed {seeds}",
            f"step size chosen on validation tasks: {one.tuned}" if one.tuned else "",
            *self.departures,
        ]
        worst = max(max(r.diverged) for r in self.results)
        if worst:
            facts.append(f"diverged: {worst} of {one.tasks} tasks at the worst step")
        if self.passed_over:
            others = ", ".join(_named(other) for other in self.passed_over)
            foreign = any(_other_config(self.experiment, other) for other in self.passed_over)
            why = "its own config, then the" if foreign else "its"
            facts.append(f"taken for {why} most meta-updates, then the newest; not taken: {others}")
        return [fact for fact in facts if fact]


@dataclass(frozen=True)
class Book:
    """All experiments that there are results for, and the results that fit none."""

    chosen: dict[str, Chosen]
    unknown: tuple[tuple[Result, str], ...]

    def get(self, name: str) -> Chosen | None:
        """What stands for the experiment of that name."""
        assert name in EXPERIMENTS, name
        return self.chosen.get(name)

    def missing(self, names: Iterable[str]) -> list[Experiment]:
        """Which of these experiments have no result, or only one of another config's network."""
        return [
            EXPERIMENTS[name]
            for name in dict.fromkeys(names)
            if name not in self.chosen or self.chosen[name].other_config
        ]


def sort_results(results: Iterable[Result]) -> Book:
    """Give each result to its experiment."""
    fitting: dict[str, list[Result]] = {}
    unknown = []
    for result in results:
        experiment, why = experiment_of(result)
        if experiment is None:
            unknown.append((result, why))
        else:
            fitting.setdefault(experiment.name, []).append(result)
    chosen = {
        name: choose(EXPERIMENTS[name], fitting[name]) for name in EXPERIMENTS if name in fitting
    }
    return Book(chosen, tuple(unknown))


def experiment_of(result: Result) -> tuple[Experiment | None, str]:
    """The experiment that a result belongs to, and why it is none where it is None."""
    method, why = method_of(result.settings)
    if method is None:
        return None, why
    alike = [one for one in EXPERIMENTS.values() if one.method == method]
    for experiment in alike:
        if all(_same(result.settings.get(key), want) for key, want in experiment.needs.items()):
            return experiment, ""
    shown = ", ".join(
        f"{key} {result.settings.get(key)}"
        for key in sorted({k for one in alike for k in one.needs})
    )
    return None, f"no experiment of the paper has {method} with {shown}"


def choose(experiment: Experiment, results: list[Result]) -> Chosen:
    """Of those by its own config the most meta-updates, then the newest; other seeds join it."""

    def rank(result: Result) -> tuple[bool, int, str]:
        return not _other_config(experiment, result), result.meta_updates or 0, result.date

    ordered = sorted(results, key=rank, reverse=True)
    first = ordered[0]
    ours = departures(experiment, first)
    taken = {_seed(first): first}
    for other in ordered:
        same = other.meta_updates == first.meta_updates and other.steps == first.steps
        if same and departures(experiment, other) == ours:
            taken.setdefault(_seed(other), other)
    rest = tuple(one for one in ordered if all(one is not other for other in taken.values()))
    return Chosen(experiment, tuple(taken.values()), rest, ours)


def departures(experiment: Experiment, result: Result) -> tuple[str, ...]:
    """Where the recorded settings differ from the paper's, beside the number of meta-updates."""
    foreign = _other_config(experiment, result)
    found = [
        f"{key} {result.settings[key]} where {experiment.reference} has {want}"
        for key, want in experiment.paper.items()
        if key in result.settings and not _same(result.settings[key], want)
        if not (foreign and key.startswith("data."))  # which are the other's
    ]
    if result.tasks != experiment.test_tasks:
        found.append(f"{result.tasks} test tasks where the paper has {experiment.test_tasks}")
    if result.device.get("precision") != PRECISION:
        found.append(f"precision {result.device.get('precision')}, not {PRECISION}")
    if foreign:
        found.append(f"trained by {foreign}.yaml, on its tasks")
    found += [
        f"trained with {size} {result.settings[f'training.{size}']}"
        for size in ("n_way", "k_shot")
        if f"training.{size}" in result.settings
    ]
    found += [f"trained in {p}" for p in _flags(result, r"--trainer\.precision") if p != PRECISION]
    return tuple(found)


def _flags(result: Result, name: str) -> list[str]:
    """What the commands of its training gave to a flag."""
    return re.findall(rf"(?<!\S){name}[ =](\S+)", " ".join(result.training))


def _other_config(experiment: Experiment, result: Result) -> str:
    """The config it was trained with, where that is of another experiment; else empty.

    A config of the user's own is of none.
    """
    others = {one.config for one in EXPERIMENTS.values()} - {experiment.config}
    names = {Path(path).stem for path in _flags(result, "(?:--config|-c)")}
    return ", ".join(sorted(name for name in names if name.removesuffix("_short") in others))


def _same(one: Any, other: Any) -> bool:
    return (one or None) == (other or None)


def _seed(result: Result) -> tuple[Any, Any]:
    return result.seed, result.settings.get("data.seed")


def _named(result: Result) -> str:
    updates = "" if result.meta_updates is None else f" ({result.meta_updates:,} meta-updates)"
    return f"{result.name}{updates}"


def _mean(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if None in known else fmean(v for v in known if v is not None)
