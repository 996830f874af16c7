"""Every number the paper prints (Finn, Abbeel, Levine, ICML 2017), and the authors' RL returns.

Three sources: tables are exact; curves are read off the figures, so approximate, and two figures
that show the same have two readings; the authors' RL result files are exact, and sometimes differ
from the figures. What was not printed or read is None: nothing is interpolated.
"""

from dataclasses import dataclass
from typing import Final

READ_OFF, AUTHORS_FILES = "read off the figure", "the authors' result files"


@dataclass(frozen=True)
class Score:
    """A printed mean and, where it is given, the half-width of its 95% confidence interval."""

    mean: float
    ci95: float | None = None

    def text(self, digits: int) -> str:
        """As printed.

        >>> Score(41.08, 0.7).text(2)
        '41.08 +- 0.70'
        """
        half = "" if self.ci95 is None else f" +- {self.ci95:.{digits}f}"
        return f"{self.mean:.{digits}f}{half}"


@dataclass(frozen=True)
class Row:
    """One row of a table; None where the paper prints nothing."""

    name: str
    scores: tuple[Score | None, ...]


@dataclass(frozen=True)
class Table:
    """A table of the paper: each row has a score per column, printed with so many decimals."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    digits: int = 2

    def row(self, name: str) -> Row:
        """The row of that name."""
        return next(row for row in self.rows if row.name == name)


@dataclass(frozen=True)
class Curve:
    """One line of a figure.

    Attributes:
        steps, values: the readings; a value is None where none was taken
        level: where the figure was read as one level ("about 0.05") rather than point by point
        sd: standard deviation over tasks, one per value, where it is known
    """

    figure: str
    panel: str
    method: str
    steps: tuple[int, ...] = ()
    values: tuple[float | None, ...] = ()
    level: float | None = None
    sd: tuple[float, ...] = ()
    source: str = READ_OFF


def _scores(*values: float | tuple[float, float] | None) -> tuple[Score | None, ...]:
    def one(value: float | tuple[float, float] | None) -> Score | None:
        if value is None:
            return None
        return Score(*value) if isinstance(value, tuple) else Score(value)

    return tuple(one(value) for value in values)


OMNIGLOT: Final = Table(
    "table1.omniglot",
    "Table 1, Omniglot: accuracy in %",
    ("5-way 1-shot", "5-way 5-shot", "20-way 1-shot", "20-way 5-shot"),
    (
        Row("MANN, no conv", _scores(82.8, 94.9, None, None)),
        Row("MAML, no conv", _scores((89.7, 1.1), (97.5, 0.6), None, None)),
        Row("Siamese nets", _scores(97.3, 98.4, 88.2, 97.0)),
        Row("matching nets", _scores(98.1, 98.9, 93.8, 98.5)),
        Row("neural statistician", _scores(98.1, 99.5, 93.2, 98.1)),
        Row("memory module", _scores(98.4, 99.6, 95.0, 98.6)),
        Row("MAML", _scores((98.7, 0.4), (99.9, 0.1), (95.8, 0.3), (98.9, 0.2))),
    ),
    digits=1,
)

MINI_IMAGENET: Final = Table(
    "table1.mini_imagenet",
    "Table 1, mini-ImageNet: accuracy in %",
    ("5-way 1-shot", "5-way 5-shot"),
    (
        Row("fine-tuning", _scores((28.86, 0.54), (49.79, 0.79))),
        Row("nearest neighbour", _scores((41.08, 0.70), (51.04, 0.65))),
        Row("matching nets", _scores((43.56, 0.84), (55.31, 0.73))),
        Row("meta-learner LSTM", _scores((43.44, 0.77), (60.60, 0.71))),
        Row("first-order MAML", _scores((48.07, 1.75), (63.15, 0.91))),
        Row("MAML", _scores((48.70, 1.84), (63.11, 0.92))),
    ),
)

SINUSOID: Final = Table(
    "table2",
    "Table 2, sinusoids, 5-shot: mean squared error",
    ("1 step", "5 steps", "10 steps"),
    (
        Row("multi-task, no regularisation", _scores(4.19, 3.85, 3.69)),
        Row("multi-task, l2", _scores(7.18, 5.69, 5.60)),
        Row("multi-task, l2 to mean theta", _scores(2.91, 2.72, 2.71)),
        Row("pretrain on all tasks", _scores(2.41, 2.23, 2.19)),
        Row("MAML", _scores(0.67, 0.38, 0.35)),
    ),
)

CONTEXT_OMNIGLOT: Final = Table(
    "table3",
    "Table 3, Omniglot with a context vector: accuracy in %",
    OMNIGLOT.columns[:2],
    (
        Row("context vector", _scores((94.9, 0.9), (97.7, 0.3))),
        Row("MAML", OMNIGLOT.row("MAML").scores[:2]),
    ),
    digits=1,
)

_RETURNS = ("0 steps", "1 step", "2 steps", "3 steps")
POINT: Final = Table(
    "table4",
    "Table 4, 2D point mass: average return",
    _RETURNS,
    (
        Row("context vector", _scores(-42.42, -13.90, -5.17, -3.18)),
        Row("MAML", _scores(-40.41, -11.68, -3.33, -3.23)),
    ),
)

CHEETAH_DIRECTION: Final = Table(
    "table5",
    "Table 5, half-cheetah forward/backward: average return",
    _RETURNS,
    (
        Row("context vector", _scores(-40.49, -44.08, -38.27, -42.50)),
        Row("MAML", _scores(-50.69, 293.19, 313.48, 315.65)),
    ),
)

TABLES: Final = (
    OMNIGLOT,
    MINI_IMAGENET,
    SINUSOID,
    CONTEXT_OMNIGLOT,
    POINT,
    CHEETAH_DIRECTION,
)

_AT = (0, 1, 2, 5, 9)
REGRESSION: Final = (
    Curve("figure3", "K = 10", "MAML", _AT, (3.0, 0.4, 0.25, 0.15, 0.11)),
    Curve("figure3", "K = 10", "pretrained", _AT, (3.0, 2.3, 2.1, 1.9, 1.7)),
    Curve("figure3", "K = 10", "oracle", _AT, (0.05, None, None, None, 0.01)),
    Curve("figure6", "K = 5", "MAML", _AT, (2.8, 0.7, None, None, 0.4)),
    Curve("figure6", "K = 5", "pretrained", _AT, (2.9, 2.3, 2.1, None, 2.1)),
    Curve("figure6", "K = 5", "oracle", level=0.05),
    Curve("figure6", "K = 10", "MAML", _AT, (3.0, 0.4, None, None, 0.2)),
    Curve("figure6", "K = 10", "pretrained", _AT, (3.0, 2.1, 1.8, None, 1.8)),
    Curve("figure6", "K = 10", "oracle", level=0.1),
    Curve("figure6", "K = 20", "MAML", _AT, (3.0, 0.3, None, None, 0.15)),
    Curve("figure6", "K = 20", "pretrained", _AT, (3.0, 2.1, 1.5, None, 1.5)),
    Curve("figure6", "K = 20", "oracle", level=0.1),
)
PRETRAINED_STEP_SIZES: Final = {5: 0.01, 10: 0.02, 20: 0.02}  # Fig. 6, by K

CHEETAH_V, CHEETAH_D = "half-cheetah, goal velocity", "half-cheetah, forward/backward"
ANT_V, ANT_D = "ant, goal velocity", "ant, forward/backward"
POINT_MASS = "2D point mass"
_UP_TO = (0, 1, 2, 3)


def _fig5(panel: str, method: str, *values: float | None, level: float | None = None) -> Curve:
    return Curve("figure5", panel, method, _UP_TO if values else (), values, level)


LOCOMOTION: Final = (
    _fig5(CHEETAH_V, "MAML", -130, -80, -75, -75),
    _fig5(CHEETAH_V, "pretrained", -160, None, None, -130),
    _fig5(CHEETAH_V, "oracle", level=-60),
    _fig5(CHEETAH_D, "MAML", 0, 300, 320, 320),
    _fig5(CHEETAH_D, "pretrained", None, None, None, 50),
    _fig5(CHEETAH_D, "random", None, None, None, 100),
    _fig5(CHEETAH_D, "oracle", level=400),
    _fig5(ANT_V, "MAML", 0, 95, 100, 100),
    _fig5(ANT_V, "pretrained", -20, None, None, 15),
    _fig5(ANT_V, "oracle", level=115),
    _fig5(ANT_D, "MAML", 0, 500, 500, 500),
    _fig5(ANT_D, "pretrained", level=0),
    _fig5(ANT_D, "oracle", level=520),
)


def _file(panel: str, method: str, *values: float, sd: tuple[float, ...] = ()) -> Curve:
    figure = "figure4" if panel == POINT_MASS else "figure5"
    return Curve(figure, panel, method, _UP_TO[: len(values)], values, None, sd, AUTHORS_FILES)


RETURNS: Final = (  # mean over 40 tasks; an oracle does not adapt, so it has step 0 only
    _file(POINT_MASS, "MAML", -40.41, -11.68, -3.33, -3.23, sd=(12.92, 6.98, 1.78, 1.86)),
    _file(POINT_MASS, "random", -82.66, -57.96, -53.84, -46.81),
    _file(POINT_MASS, "oracle", -2.29),
    _file(CHEETAH_V, "MAML", -129.53, -78.57, -66.62, -60.78, sd=(53.36, 31.79, 28.83, 27.81)),
    _file(CHEETAH_V, "pretrained", -158.00, -135.39, -128.47, -133.61),
    _file(CHEETAH_V, "random", -254.83, -254.33, -246.79, -230.83),
    _file(CHEETAH_V, "oracle", -54.47),
    _file(CHEETAH_D, "MAML", -50.69, 293.19, 313.48, 315.65, sd=(18.54, 54.90, 50.88, 44.68)),
    _file(CHEETAH_D, "pretrained", -43.03, -24.75, -12.85, 19.57),
    _file(CHEETAH_D, "random", -35.73, 21.83, 62.32, 86.18),
    _file(CHEETAH_D, "oracle", 442.69),
    _file(ANT_V, "MAML", 30.58, 96.74, 100.06, 101.41, sd=(96.89, 66.91, 69.25, 67.89)),
    _file(ANT_V, "pretrained", -1.83, 6.11, 8.47, 9.47),
    _file(ANT_V, "random", -78.64, -62.81, -48.55, -35.56),
    _file(ANT_V, "oracle", 107.89),
    _file(ANT_D, "MAML", 8.66, 499.15, 500.68, 499.11, sd=(45.87, 103.59, 101.77, 104.96)),
    _file(ANT_D, "pretrained", 3.16, 1.27, 6.51, 6.86),
    _file(ANT_D, "random", 3.11, 9.25, 15.96, 26.11),
    _file(ANT_D, "oracle", 524.80),
)


def curve(
    curves: tuple[Curve, ...], method: str, panel: str, figure: str | None = None
) -> Curve | None:
    """The curve of a method in a panel, None where there is none."""
    for one in curves:
        if (one.method, one.panel) == (method, panel) and figure in (None, one.figure):
            return one
    return None
