"""Tables: our number in its own cell beside the paper's, as text and as Markdown."""

import re
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser
from lightning import LightningModule

from lightning_maml.paper import reported, table1
from lightning_maml.paper.book import sort_results
from lightning_maml.paper.contents import PARTS
from lightning_maml.paper.markdown import all_needs, markdown, view_lines
from lightning_maml.paper.page import page
from lightning_maml.paper.parameters import PARAMETERS
from lightning_maml.paper.results import read_results
from lightning_maml.paper.table1 import PROTOTYPICAL
from lightning_maml.paper.table3 import CONTEXT_SINUSOID
from lightning_maml.paper.tables import fill, text
from tests.paper.conftest import settings, store

TABLES = [part for part in PARTS.values() if part.views]


def book_of(folder: Path):
    return sort_results(read_results(folder))


@pytest.fixture
def all_rows(everything) -> dict[str, list[str]]:
    """Our cells of each row, by the table's and the row's name."""
    book = book_of(everything)
    views = [view for part in TABLES for view in part.views(book)]
    return {
        f"{view.table.name} {line.name}": [entry.ours for entry in line.entries]
        for view in views
        for line in view.lines
    }


def test_every_table_fits_a_terminal(everything, tmp_path) -> None:
    for book in (book_of(everything), book_of(tmp_path)):
        for part in TABLES:
            for view in part.views(book):
                assert max(map(len, text(view).splitlines())) <= 100


def test_each_number_stands_in_its_own_cell(tmp_path) -> None:
    """Values that say where they belong: 0.51 for 5-way 1-shot, and so on."""
    for n_way, k_shot in ((5, 1), (5, 5), (20, 1), (20, 5)):
        steps, mark = range(6), n_way / 100 + k_shot / 1000
        mean = [0.5 + mark + step / 10_000 for step in steps]
        store(tmp_path, f"omniglot_{n_way}way_{k_shot}shot", mean=mean, ci95=[0.01] * 6)
    view = fill(reported.OMNIGLOT, book_of(tmp_path))
    ours = {line.name: [entry.ours for entry in line.entries] for line in view.lines}
    assert ours.pop("MAML") == [  # 3 steps at 5-way, 5 at 20-way
        "55.13 +- 1.00",
        "55.53 +- 1.00",
        "70.15 +- 1.00",
        "70.55 +- 1.00",
    ]
    assert {cell for cells in ours.values() for cell in cells} == {""}


def test_steps_of_table_2(tmp_path) -> None:
    mean = [k / 10 for k in range(11)]
    store(tmp_path, "sinusoid_maml_k5", mean=mean, ci95=[0.01] * 11)
    store(tmp_path, "sinusoid_maml_k10", mean=[9.0] * 11)
    lines = text(fill(reported.SINUSOID, book_of(tmp_path))).splitlines()
    assert lines[-1].split() == [
        *["ours", "0.100", "+-", "0.010", "0.500", "+-", "0.010", "1.000", "+-", "0.010"]
    ]
    assert lines[-2].split() == ["MAML", "paper", "0.67", "0.38", "0.35"]


def test_rows_with_a_result_are_filled_and_no_others(all_rows) -> None:
    beside = (CONTEXT_SINUSOID, *PROTOTYPICAL)
    tables = {table.name: table for table in (*reported.TABLES, *beside)}
    for name, cells in all_rows.items():
        table, _, row = name.partition(" ")
        ours_alone = tables[table] is CONTEXT_SINUSOID
        assert [bool(cell) for cell in cells] == [
            ours_alone or score is not None for score in tables[table].row(row).scores
        ]


def test_a_shortened_run_is_marked_in_every_form(tmp_path) -> None:
    store(tmp_path, "omniglot_5way_1shot", meta_updates=4_000)
    book = book_of(tmp_path)
    view = fill(reported.OMNIGLOT, book)
    assert "  meta-updates" in text(view)
    assert "4,000 of 60,000" in text(view)
    assert "after 4,000 of 60,000 meta-updates ([run](#omniglot_5way_1shot))" in view_lines(view)


def test_another_network_is_marked_in_every_form(tmp_path) -> None:
    """Not the other settings that differ; they stand with the run."""
    name = "omniglot_5way_1shot_matching"
    model, data = deepcopy(settings()[name])
    model["init_args"]["model"]["init_args"] |= {"distance": "euclidean", "scale": 10.0}
    data["init_args"]["meta_batch_size"] = 2
    store(tmp_path, name, model=model, data=data)
    book = book_of(tmp_path)
    view = fill(reported.OMNIGLOT, book)
    assert f", distance euclidean, scale 10.0 ([run](#{name}))" in view_lines(view)
    assert re.search(r"\n  network +distance\n +euclidean, scale\n +10.0\n", text(view))
    assert "<small>distance euclidean, scale 10.0</small>" in page(book, "the command", {})
    store(tmp_path / "as the config has it", name)
    same = book_of(tmp_path / "as the config has it")
    assert "  network" not in text(fill(reported.OMNIGLOT, same))


def test_the_number_of_parameters_stands_in_every_form(tmp_path) -> None:
    """Those of a result, those of the cell's config where they differ; none without a cell."""
    store(tmp_path, "omniglot_5way_1shot_matching", parameters=222)
    store(tmp_path, "omniglot_5way_1shot_dense")  # its number is not recorded
    book = book_of(tmp_path)
    view = fill(reported.OMNIGLOT, book)
    assert "\n  parameters" in text(view)
    assert re.search(r"222 \(config: +111,936.*\n +111,936\)\n", text(view))
    assert "| matching nets | 222 (config: 111,936) / 111,936 |" in view_lines(view)
    assert "| MAML | 112,005 / 112,980 |" in view_lines(view)
    assert [entry.parameters for entry in view.lines[1].entries] == ["247,109", "247,109", "", ""]
    assert "<th>parameters</th>" in page(book, "the command", {})
    assert "parameters" not in view_lines(fill(reported.SINUSOID, book))


@pytest.mark.parametrize("config", sorted(PARAMETERS))
def test_numbers_of_parameters_are_those_of_the_configs(config) -> None:
    parser = ArgumentParser()
    parser.add_argument("--model", type=LightningModule)
    model = yaml.safe_load(Path(f"configs/{config}.yaml").read_text())["model"]
    learner = parser.instantiate(parser.parse_object({"model": model})).model
    assert sum(p.numel() for p in learner.parameters()) == PARAMETERS[config]


def test_all_of_table_1_is_counted(tmp_path) -> None:
    for view in table1.views(book_of(tmp_path)):
        for entry in (entry for line in view.lines for entry in line.entries):
            assert bool(entry.parameters) == (entry.experiment is not None)


def test_a_mean_that_is_not_finite_is_marked(tmp_path) -> None:
    changes = {"mean": [1.0] * 10 + [None], "ci95": [1.0] * 10 + [None]}
    store(tmp_path, "sinusoid_maml_k5", **changes, median=[0.25] * 11, diverged=[0] * 10 + [1])
    shown = text(fill(reported.SINUSOID, book_of(tmp_path)))
    assert "median 0.250*" in shown
    assert "* The mean is not finite: some tasks diverged." in shown


def test_markdown_has_every_number_its_run_and_every_missing_command(tmp_path) -> None:
    store(tmp_path, "sinusoid_maml_k5", mean=[0.5] * 11, ci95=[0.04] * 11)
    book = book_of(tmp_path)
    shown = markdown(book, "the command", ["figure3"])
    assert "| MAML | 0.500 +- 0.040 ([run](#sinusoid_maml_k5)) | 0.67 |" in shown
    assert "![Figure 3" in shown
    assert "![Figure 6" not in shown
    for fact in ("A CPU", "torch 2.14.1", "2026-11-20", "seed 0", "600 test tasks", "the command"):
        assert fact in shown
    assert "python train.py test --ckpt_path runs/sinusoid_maml_k5/last.ckpt" in shown
    for need in all_needs(book):
        assert f"### {need.what}\n" in shown
    links, headings = (
        set(re.findall(r"\]\(#(\w+)\)", shown)),
        re.findall(r"^### (\w+)$", shown, re.M),
    )
    assert links <= set(headings)
    assert len(headings) == len(set(headings))


def test_missing_cells_name_their_commands(tmp_path) -> None:
    book = book_of(tmp_path)
    needs = {need.what: need for need in all_needs(book)}
    assert needs["omniglot_20way_5shot"].commands == (
        "python train.py fit --config configs/omniglot_20way_5shot.yaml --data.root DATA",
        "python train.py test --config configs/omniglot_20way_5shot.yaml --data.root DATA "
        "--ckpt_path best",
    )
    assert needs["sinusoid_maml_k5_half"].commands == (
        "python train.py fit --config configs/sinusoid.yaml",
        "python train.py test --config configs/sinusoid.yaml --ckpt_path best "
        "--data.k_shot 5 --data.support_range '[0, 5]'",
    )
    assert needs["omniglot_20way_5shot"].why == "no result"
    assert needs["ant_velocity_random"].commands == (
        "python train.py test --config configs/ant_velocity.yaml --model.inner_lr 1 "
        "--model.later_inner_lr 0.5",
    )


def test_a_result_without_fits_or_steps_is_to_be_tested_again(tmp_path) -> None:
    short = {"steps": [0, 1], "mean": [1.0, 1.0], "ci95": [0.1, 0.1], "median": [1.0, 1.0]}
    store(tmp_path, "sinusoid_maml_k5", **short, diverged=[0, 0], fits=None)
    needs = [need for need in all_needs(book_of(tmp_path)) if need.what.endswith("_again")]
    assert [need.why for need in needs] == [
        "sinusoid_maml_k5/test_result.json has no 5 inner steps, only 1",
        "sinusoid_maml_k5/test_result.json has no 10 inner steps, only 1",
        "sinusoid_maml_k5/test_result.json has no fits",
    ]
    assert {need.commands for need in needs} == {
        ("python train.py test --ckpt_path runs/sinusoid_maml_k5/last.ckpt",)
    }
