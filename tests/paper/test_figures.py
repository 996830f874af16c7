"""Figures: the values given, every axis named, PNG and SVG, and no method that has no result."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from lightning_maml.paper.book import sort_results
from lightning_maml.paper.contents import PARTS, needs
from lightning_maml.paper.drawing import LOOKS, save
from lightning_maml.paper.readings import OURS, readings
from lightning_maml.paper.results import read_results
from tests.paper.conftest import fits, result, store, tracks

FIGURES = [part for part in PARTS.values() if part.draw]
SHOTS = {"figure3": (10,), "figure6": (5, 10, 20)}


def book_of(folder: Path):
    return sort_results(read_results(folder))


def panels(part, folder: Path) -> list[Axes]:
    return part.draw(book_of(folder)).axes


def lines(axes: Axes) -> dict[str, np.ndarray]:
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in axes.get_lines()}


@pytest.mark.parametrize("part", FIGURES, ids=lambda part: part.name)
def test_every_figure_is_written_whole_and_labelled(part, everything, tmp_path) -> None:
    figure = part.draw(book_of(everything))
    png, svg = save(figure, tmp_path / part.name)
    assert png.read_bytes().startswith(b"\x89PNG")
    assert svg.read_text(encoding="utf-8").rstrip().endswith("</svg>")
    bottom = figure.axes[-1]
    assert bottom.get_xlabel()
    assert figure.axes[0].get_ylabel()
    assert all(axes.get_title() for axes in figure.axes)
    assert all(axes.get_legend() is None for axes in figure.axes)  # one, beside the panels
    frame = figure.bbox
    for axes in figure.axes:
        box = axes.get_tightbbox()
        assert box is not None
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1 + 1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1 + 1
    (legend,) = figure.legends
    below = legend.get_window_extent()
    assert below.x0 >= frame.x0
    assert below.x1 <= frame.x1
    assert below.y1 <= min(axes.get_tightbbox().y0 for axes in figure.axes)  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["figure2", "figure6"])
def test_the_same_results_give_the_same_bytes(name, everything, tmp_path) -> None:
    first, second = (
        save(PARTS[name].draw(book_of(everything)), tmp_path / place / name)  # type: ignore[misc]
        for place in ("one", "two")
    )
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", SHOTS)
def test_curves_have_the_values_of_the_results(name, everything) -> None:
    for axes, k in zip(panels(PARTS[name], everything), SHOTS[name], strict=True):
        drawn = lines(axes)
        for method in ("MAML", "pretrained", "oracle"):
            given = result(f"sinusoid_{method.lower()}_k{k}")
            np.testing.assert_array_equal(drawn[f"{method}, ours"][:, 0], given["steps"])
            np.testing.assert_array_equal(drawn[f"{method}, ours"][:, 1], given["mean"])
        bands = [band.get_paths()[0].vertices for band in axes.collections]
        given = result(f"sinusoid_maml_k{k}")
        high = np.array(given["mean"]) + given["ci95"]
        low = np.array(given["mean"]) - given["ci95"]
        assert set(np.round([*high, *low], 9)) <= set(np.round(bands[0][:, 1], 9))


def test_the_papers_readings_are_open_markers_without_a_line(everything) -> None:
    (axes,) = panels(PARTS["figure3"], everything)
    np.testing.assert_array_equal(
        lines(axes)["MAML, paper"], [[0, 3.0], [1, 0.4], [2, 0.25], [5, 0.15], [9, 0.11]]
    )
    np.testing.assert_array_equal(lines(axes)["oracle, paper"], [[0, 0.05], [9, 0.01]])
    for line in axes.get_lines():
        if str(line.get_label()).endswith("paper"):
            assert line.get_linestyle() == "None"
            assert line.get_markerfacecolor() == "none"


def test_methods_differ_without_colour() -> None:
    assert len({str(look.line) for look in LOOKS.values()}) == len(LOOKS)
    assert len({look.marker for look in LOOKS.values()}) == len(LOOKS)
    assert len({to_hex(look.color) for look in LOOKS.values()}) == len(LOOKS)


def test_a_missing_method_is_left_out_and_named(tmp_path) -> None:
    store(tmp_path, "sinusoid_maml_k10")
    part = PARTS["figure3"]
    (axes,) = panels(part, tmp_path)
    ours = [label for label in lines(axes) if "ours" in label]
    assert ours == ["MAML, ours"]
    assert [need.what for need in needs(part, book_of(tmp_path))] == [
        "sinusoid_pretrained_k10",
        "sinusoid_oracle_k10",
    ]


def test_a_shortened_run_is_named_in_the_legend(tmp_path) -> None:
    store(tmp_path, "sinusoid_maml_k10", meta_updates=30_000)
    (axes,) = panels(PARTS["figure3"], tmp_path)
    assert "MAML, ours (30,000 of 70,000 updates)" in lines(axes)


@pytest.mark.parametrize("name", ["figure2", "figure7"])
def test_a_shortened_run_is_named_above_its_fits(name, tmp_path) -> None:
    store(tmp_path, "sinusoid_maml_k10", meta_updates=30_000)
    store(tmp_path, "sinusoid_maml_k5")
    titles = [axes.get_title() for axes in panels(PARTS[name], tmp_path)]
    short = [title for title in titles if title.endswith(", 30,000 of 70,000 updates")]
    assert short == [title for title in titles if title.startswith("MAML, K = 10\n")]
    assert short


def test_a_diverged_mean_is_an_arrow_and_the_median_is_drawn(tmp_path) -> None:
    mean = [3.0, 1.0, 1e9, *[None] * 8]
    store(tmp_path, "sinusoid_maml_k10", mean=mean, diverged=[0] * 3 + [2] * 8)
    (axes,) = panels(PARTS["figure3"], tmp_path)
    drawn = lines(axes)
    np.testing.assert_array_equal(drawn["MAML, ours"][:, 1], [3.0, 1.0, *[np.nan] * 9])
    arrows = drawn["MAML, ours: mean above 20 or not finite"]
    np.testing.assert_array_equal(arrows[:, 0], range(2, 11))
    given = result("sinusoid_maml_k10")["median"]
    np.testing.assert_array_equal(drawn["MAML, ours, median"][:, 1], given)


@pytest.mark.parametrize(("name", "first", "per_row"), [("figure2", 0, 2), ("figure7", 2, 4)])
def test_fits_are_those_of_the_file(name, first, per_row, everything) -> None:
    for place, axes in enumerate(panels(PARTS[name], everything)):
        task = fits()["tasks"][first + place % per_row]
        assert f"task {first + place % per_row}" in axes.get_title()
        drawn = lines(axes)
        for label, values in {
            "ground truth": task["query_y"],
            "pre-update": task["outputs"]["0"],
            "1 gradient step": task["outputs"]["1"],
            "10 gradient steps": task["outputs"]["10"],
        }.items():
            np.testing.assert_allclose(drawn[label].T, [task["query_x"], values])
        points = drawn["points used for gradient steps"]
        np.testing.assert_allclose(points.T, [task["support_x"], task["support_y"]])


@pytest.mark.parametrize("name", ["figure2", "figure7"])
def test_fits_that_are_not_there_leave_an_empty_panel(name, tmp_path) -> None:
    part = PARTS[name]
    assert not part.drawable(book_of(tmp_path))
    store(tmp_path, "sinusoid_maml_k10")
    assert part.drawable(book_of(tmp_path))
    for axes in panels(part, tmp_path):
        has = "MAML, K = 10" in axes.get_title() and "half" not in axes.get_title()
        assert bool(lines(axes)) == has
        assert [t.get_text() for t in axes.texts] == ([] if has else ["no result yet"])


def test_figure_5_has_both_readings_of_the_paper(everything) -> None:
    drawn = lines(panels(PARTS["figure5"], everything)[1])
    assert drawn["MAML, paper's figure"][0, 1] == 0
    assert drawn["MAML, authors' files"][0, 1] == -50.69
    assert any(label.startswith("MAML, ours") for label in drawn)


def test_numbers_behind_a_figure(tmp_path) -> None:
    changes = {"mean": [k / 10 for k in range(11)], "ci95": [0.01] * 11}
    store(tmp_path, "sinusoid_maml_k10", **changes, meta_updates=100)
    found = readings("figure3", book_of(tmp_path))
    assert found is not None
    maml = [line for line in found.lines if line.label == "K = 10: MAML"]
    assert [line.texts[:2] for line in maml] == [
        ("3", "0.4"),
        (
            "0.000 +- 0.010 after 100 of 70,000 updates",
            "0.100 +- 0.010 after 100 of 70,000 updates",
        ),
    ]
    oracle = [line.texts for line in found.lines if line.label == "K = 10: oracle"]
    assert oracle == [("0.05", "", "", "", "0.01"), ("",) * 5]
    sources = [line.source for line in readings("figure5", book_of(tmp_path)).lines]  # type: ignore[union-attr]
    assert sources[:3] == ["read off the figure", "the authors' result files", OURS]


def test_trajectories_are_those_of_the_file(everything) -> None:
    _, *below = panels(PARTS["figure4"], everything)
    titles = [axes.get_title() for axes in below]
    assert titles == [f"{who}, task {k}" for who in ("MAML", "pretrained") for k in (0, 1)]
    for place, axes in enumerate(below):
        task, drawn = tracks()["tasks"][place % 2], lines(axes)
        np.testing.assert_array_equal(drawn["goal"], [task["goal"]])
        np.testing.assert_array_equal(drawn["3 gradient steps"], task["tracks"]["3"][0])
        several = [line for line in axes.get_lines() if line.get_label() == "pre-update"]
        for line, track in zip(several, task["tracks"]["0"], strict=True):
            np.testing.assert_array_equal(line.get_xydata(), track)


def test_returns_are_on_a_logarithmic_axis_and_an_oracle_is_a_level(tmp_path) -> None:
    store(tmp_path, "point_oracle", steps=[0], mean=[-2.5], ci95=[0.5], median=[-2], diverged=[0])
    above, *below = panels(PARTS["figure4"], tmp_path)
    assert above.get_yscale() == "symlog"
    np.testing.assert_array_equal(lines(above)["oracle, ours"], [[0, -2.5], [3, -2.5]])
    assert all(not lines(axes) for axes in below)


@pytest.mark.parametrize("wrong", [{"goal": [0.1]}, {"tracks": {"0": [[[0.0, 0.0], [1.0]]]}}])
def test_malformed_trajectories_are_named(wrong, tmp_path) -> None:
    path = store(tmp_path, "point").with_name("test_result_fits.json")
    content = tracks()
    content["tasks"][1] |= wrong
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{path.name}: `(goal|point 1)`"):
        panels(PARTS["figure4"], tmp_path)
