"""The paper's numbers against the prose they were first written down in, parsed independently."""

import re
from pathlib import Path

import pytest

from lightning_maml.paper import reported

HERE = Path(__file__).resolve()
PLACES = [parent / "shared" / "paper.md" for parent in HERE.parents]
PROSE = next((place for place in PLACES if place.is_file()), None)
needs_prose = pytest.mark.skipif(
    PROSE is None, reason="shared/paper.md, the notes on the paper, lies beside no parent folder"
)
NUMBER = r"-?\d+(?:\.\d+)?"


def prose(after: str, until: str, file: str = "paper.md") -> str:
    """What stands in the notes after a heading, up to a word."""
    assert PROSE is not None
    text = (PROSE.parent / file).read_text(encoding="utf-8")
    text = text[text.index(after) + len(after) :]
    return text[: text.index(until)]


def scores(text: str) -> list[tuple[float, float | None]]:
    """`98.7 +- 0.4, 82.8` as pairs of mean and half-width."""
    found = re.findall(rf"(?<![\w.-])({NUMBER})(?: \+- ({NUMBER}))?", text)
    return [(float(mean), float(ci95) if ci95 else None) for mean, ci95 in found]


def rows(text: str, names: dict[str, str]) -> dict[str, list[tuple[float, float | None]]]:
    """Rows told apart by the names that the prose has for them."""
    places = sorted(
        (re.search(rf"\b{re.escape(name)} (?=-?\d)", text).span(), ours)
        for name, ours in names.items()
    )  # type: ignore[union-attr]
    ends = [span[0] for span, _ in places[1:]] + [len(text)]
    return {
        ours: scores(re.sub(r"\(.*?\)", "", text[span[1] : end]))
        for (span, ours), end in zip(places, ends, strict=True)
    }


def printed(table: reported.Table) -> dict[str, list[tuple[float, float | None]]]:
    return {row.name: [(s.mean, s.ci95) for s in row.scores if s] for row in table.rows}


@needs_prose
def test_table_1() -> None:
    text = prose("5-way 1-shot / 5-shot, 20-way 1-shot / 5-shot.", "Table 3")
    names = {
        "MAML": "MAML",
        "MAML no conv": "MAML, no conv",
        "MANN no conv": "MANN, no conv",
        "Siamese": "Siamese nets",
        "matching nets": "matching nets",
        "neural statistician": "neural statistician",
        "memory module": "memory module",
    }
    assert printed(reported.OMNIGLOT) == rows(text, names)
    text = prose("Table 1 (5-way 1-shot / 5-shot):", "First order gave")
    names = {
        "MAML": "MAML",
        "first-order MAML": "first-order MAML",
        "meta-learner LSTM": "meta-learner LSTM",
        "matching nets": "matching nets",
        "nearest neighbour": "nearest neighbour",
        "fine-tuning": "fine-tuning",
    }
    assert printed(reported.MINI_IMAGENET) == rows(text, names)


@needs_prose
def test_tables_2_and_3() -> None:
    text = prose("Table 2 (5-shot MSE at 1 / 5 / 10 steps):", "Multi-task: 500")
    names = {
        "multi-task no reg": "multi-task, no regularisation",
        "multi-task l2 reg": "multi-task, l2",
        "multi-task reg to mean theta": "multi-task, l2 to mean theta",
        "pretrain on all tasks": "pretrain on all tasks",
        "MAML": "MAML",
    }
    assert printed(reported.SINUSOID) == rows(text, names)
    assert reported.SINUSOID.columns == ("1 step", "5 steps", "10 steps")
    found = scores(prose("Table 3, context vector:", "(5-way)"))
    assert printed(reported.CONTEXT_OMNIGLOT)["context vector"] == found


@needs_prose
@pytest.mark.parametrize(
    ("table", "heading", "until"),
    [
        (reported.POINT, "Table 4 (2D pointmass, average return at 0/1/2/3 steps):", "Table 5"),
        (reported.CHEETAH_DIRECTION, "Table 5 (half-cheetah forward/backward):", "- Fig. 5"),
    ],
    ids=["table 4", "table 5"],
)
def test_tables_4_and_5(table, heading, until) -> None:
    text = prose(heading, until)
    assert printed(table) == rows(text, {"context vector": "context vector", "MAML": "MAML"})


def readings(text: str) -> list[float | None]:
    return [None if word == "-" else float(word) for word in text.replace(",", " ").split()]


@needs_prose
def test_curves_of_figures_3_and_6() -> None:
    steps = readings(prose("(MSE at steps", "), so approximate"))
    figure3 = prose("Fig. 3 (K=10):", "Fig. 6:")
    figure6 = prose("Fig. 6:", "Pretrained step sizes")
    texts = {("figure3", "K = 10"): figure3}
    for k, part in re.findall(r"K=(\d+) (MAML[^;]*oracle[^;.]*\.\d+)", figure6):
        texts["figure6", f"K = {k}"] = part
    assert len(texts) == 4
    for (figure, panel), text in texts.items():
        ours = {c.method: c for c in reported.REGRESSION if (c.figure, c.panel) == (figure, panel)}
        assert set(ours) == {"MAML", "pretrained", "oracle"}
        for method in ("MAML", "pretrained"):
            numbers = re.search(rf"{method} ((?:{NUMBER}|-)(?:, (?:{NUMBER}|-))*)", text)
            assert numbers is not None
            assert list(ours[method].values) == readings(numbers[1])
            assert list(ours[method].steps) == steps
        oracle = re.search(rf"oracle (?:about )?({NUMBER})(?: falling to ({NUMBER}))?", text)
        assert oracle is not None
        if oracle[2]:
            values = [float(oracle[1]), None, None, None, float(oracle[2])]
            assert list(ours["oracle"].values) == values
        else:
            assert ours["oracle"].level == float(oracle[1])
    (sizes,) = re.findall(
        rf"step sizes ({NUMBER}) \(K=5\), ({NUMBER}) \(K=10, 20\)", prose("Fig. 6:", "A point")
    )
    assert {5: float(sizes[0]), 10: float(sizes[1]), 20: float(sizes[1])} == (
        reported.PRETRAINED_STEP_SIZES
    )


@needs_prose
def test_curves_of_figure_5() -> None:
    text = prose("keep both, as two columns):", "\n")
    panels = dict(zip(
        (reported.CHEETAH_V, reported.CHEETAH_D, reported.ANT_V, reported.ANT_D),
        text.split(";"), strict=True,
    ))  # fmt: skip
    for panel, part in panels.items():
        ours = {c.method: c for c in reported.LOCOMOTION if c.panel == panel}
        for method, curve in ours.items():
            (after,) = re.findall(rf"{method} (.*?)(?=, [a-z]|\.?$)", part)
            numbers = [float(n) for n in re.findall(NUMBER, after.replace("->", ">"))]
            if after.startswith("->"):
                assert curve.values == (None, None, None, *numbers)
            elif "->" in after:
                assert curve.values == (numbers[0], None, None, numbers[1])
            elif len(numbers) == 1:
                assert (curve.level, curve.values) == (numbers[0], ())
            else:
                assert list(curve.values) == numbers
        words = set(re.findall(r"MAML|pretrained|random|oracle", part))
        assert words == set(ours)


@needs_prose
def test_returns_of_the_authors_files() -> None:
    lines = prose("by number of gradient steps", "\n\n", "rl.md").splitlines()[3:]
    names = {
        "point": reported.POINT_MASS,
        "cheetah velocity": reported.CHEETAH_V,
        "cheetah direction": reported.CHEETAH_D,
        "ant velocity": reported.ANT_V,
        "ant direction": reported.ANT_D,
    }
    panel, found = "", {}
    for line in filter(lambda line: line.startswith("|"), lines):
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        for short, long in names.items():
            if name.startswith(short):
                panel, name = long, name.removeprefix(short).strip()
        if "(paper)" not in name:
            found[panel, name] = [pair for cell in cells for pair in scores(cell)]
    ours = {
        (c.panel, c.method): list(zip(c.values, c.sd or [None] * 4, strict=False))
        for c in reported.RETURNS
    }
    assert ours == found


def test_every_row_has_a_score_per_column() -> None:
    for table in reported.TABLES:
        assert {len(row.scores) for row in table.rows} == {len(table.columns)}


def test_values_and_steps_of_curves_match() -> None:
    for curve in (*reported.REGRESSION, *reported.LOCOMOTION, *reported.RETURNS):
        assert len(curve.values) == len(curve.steps)
        assert (curve.level is None) == bool(curve.values)
        assert len(curve.sd) in (0, len(curve.values))
