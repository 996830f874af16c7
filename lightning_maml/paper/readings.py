"""The curves of the figures as numbers: the paper's reading, the authors' files, ours."""

from dataclasses import dataclass

from lightning_maml.paper import figure4, figure5
from lightning_maml.paper.book import Book
from lightning_maml.paper.cells import RL_METHODS, experiment_name
from lightning_maml.paper.reported import AUTHORS_FILES, LOCOMOTION, REGRESSION, RETURNS, Curve
from lightning_maml.paper.tables import shown

OURS = "ours (95% CI)"
PANELS = {"figure4": figure4.PANELS, "figure5": figure5.PANELS}
TASK_OF = {panel: task for panels in PANELS.values() for task, panel in panels.items()}


@dataclass(frozen=True)
class Reading:
    """One line: of what, from where, the experiment behind it, and a text per step."""

    label: str
    source: str
    experiment: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Readings:
    """The numbers behind a figure."""

    steps: tuple[int, ...]
    lines: tuple[Reading, ...]


def readings(figure: str, book: Book) -> Readings | None:
    """The numbers behind a figure, None for one that shows single tasks."""
    curves = [c for c in (*REGRESSION, *LOCOMOTION, *RETURNS) if c.figure == figure]
    if not curves:
        return None
    steps = (0, 1, 2, 5, 9) if curves[0] in REGRESSION else (0, 1, 2, 3)
    lines = []
    kinds = [(c.panel, c.method) for c in curves]  # then those that only we have
    kinds += [(p, m) for p in PANELS.get(figure, {}).values() for m in RL_METHODS]
    for panel, method in dict.fromkeys(kinds):
        name, label = _experiment(panel, method), f"{panel}: {method}"
        for one in (c for c in curves if (c.panel, c.method) == (panel, method)):
            lines.append(Reading(label, one.source, name, _texts(one, steps)))
        lines.append(Reading(label, OURS, name, _ours(name, steps, book)))
    return Readings(steps, tuple(lines))


def _texts(curve: Curve, steps: tuple[int, ...]) -> tuple[str, ...]:
    if curve.level is not None:
        return (f"about {curve.level:g} throughout", *("" for _ in steps[1:]))
    sd = dict(zip(curve.steps, curve.sd, strict=False))
    values = dict(zip(curve.steps, curve.values, strict=True))
    digits = 2 if curve.source == AUTHORS_FILES else None
    return tuple(_number(values.get(step), sd.get(step), digits) for step in steps)


def _number(value: float | None, sd: float | None, digits: int | None) -> str:
    if value is None:
        return ""
    text = f"{value:g}" if digits is None else f"{value:.{digits}f}"
    return text if sd is None else f"{text} (SD {sd:.2f})"


def _ours(name: str, steps: tuple[int, ...], book: Book) -> tuple[str, ...]:
    chosen = book.get(name)
    if chosen is None:
        return tuple("" for _ in steps)
    values = [chosen.value(step) for step in steps]
    after = f" after {chosen.shortened} updates" if chosen.shortened else ""
    return tuple("" if value.absent else shown(value) + after for value in values)


def _experiment(panel: str, method: str) -> str:
    if panel.startswith("K = "):
        return f"sinusoid_{method.lower()}_k{panel.removeprefix('K = ')}"
    return experiment_name(TASK_OF[panel], method)
