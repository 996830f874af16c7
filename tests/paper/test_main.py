"""The command line, and the page that it writes."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lightning_maml.paper.__main__ import main
from lightning_maml.paper.book import sort_results
from lightning_maml.paper.cells import EXPERIMENTS
from lightning_maml.paper.contents import PARTS
from lightning_maml.paper.markdown import markdown
from lightning_maml.paper.results import read_results
from tests.paper.conftest import store

ROOT = Path(__file__).parents[2]


def test_help_lists_every_figure_and_table() -> None:
    command = [sys.executable, "-m", "lightning_maml.paper", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for part in PARTS.values():
        assert re.search(rf"^  {part.name} +{re.escape(part.title)}$", shown, re.MULTILINE)
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["table2"], "--results"),
        (["table9", "--results", "."], "table9"),
        (["figure3", "--results", "."], "figure3 needs --out"),
        (["all", "--results", "."], "all needs --out"),
        (["table2", "--results", "nowhere"], "`--results` must be a folder"),
    ],
)
def test_wrong_arguments_end_in_a_line_that_names_them(arguments, says, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert says in capsys.readouterr().err.splitlines()[-1]


def test_a_table_with_its_runs_and_what_is_missing(tmp_path, capsys) -> None:
    store(tmp_path, "sinusoid_maml_k5")
    main(["table2", "--results", str(tmp_path)])
    shown = capsys.readouterr().out
    assert shown.startswith("Table 2, sinusoids, 5-shot: mean squared error\n")
    assert "sinusoid_maml_k5: sinusoid_maml_k5/test_result.json" in shown
    missing = shown.partition("\nMissing")[2]
    assert re.findall(r"^(\w+):", missing, re.MULTILINE) == [
        "sinusoid_multi_task",
        "sinusoid_multi_task_l2",
        "sinusoid_multi_task_l2_to_mean",
        "sinusoid_pretrained_k5",
    ]


def test_a_figure_is_written(tmp_path, capsys) -> None:
    store(tmp_path / "results", "sinusoid_maml_k10")
    main(["figure3", "--results", str(tmp_path / "results"), "--out", str(tmp_path / "out")])
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"figure3.png", "figure3.svg"}
    assert "sinusoid_oracle_k10: no result" in capsys.readouterr().out
    main(["figure2", "--results", str(tmp_path / "out"), "--out", str(tmp_path / "out")])
    assert "not drawn: there is no result with fits" in capsys.readouterr().out


class Page(HTMLParser):
    """Ids, links to them, and everything that would be fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        self.fetched += [given["src"]] if "src" in given else []


@pytest.fixture(scope="module")
def made(everything: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `all` writes from a result of every experiment."""
    out = tmp_path_factory.mktemp("out")
    main(["all", "--results", str(everything), "--out", str(out)])
    return out


def test_all_writes_every_figure_the_page_and_the_text(made) -> None:
    figures = [part.name for part in PARTS.values() if part.draw]
    expected = {f"{name}.{ending}" for name in figures for ending in ("png", "svg")}
    assert {path.name for path in made.iterdir()} == expected | {"index.html", "results.md"}


def test_the_page_stands_alone(made) -> None:
    page = Page((made / "index.html").read_text(encoding="utf-8"))
    assert len(page.ids) == len(set(page.ids))
    assert {link.partition("#")[0] for link in page.links} == {""}
    assert {link[1:] for link in page.links} <= set(page.ids)
    figures = [part for part in PARTS.values() if part.draw]
    assert len(page.fetched) == len(figures)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.fetched)
    assert not page.tags & {"script", "link", "iframe"}


def test_each_number_on_the_page_links_to_its_run(made) -> None:
    text = (made / "index.html").read_text(encoding="utf-8")
    for name, experiment in EXPERIMENTS.items():
        block = text.partition(f'<h3 id="{name}">')[2].partition("<h3")[0]
        tasks = f"{experiment.test_tasks} test tasks"
        for fact in ("A CPU", "torch 2.14.1", "2026-11-20", "seed 0", tasks):
            assert fact in block
        assert f"python train.py test --ckpt_path runs/{name}/last.ckpt" in block
    assert '<a href="#omniglot_20way_5shot">' in text


def test_what_results_say_is_escaped(tmp_path) -> None:
    store(tmp_path / "in", "sinusoid_maml_k5", command="train.py <script>alert(1)</script>")
    main(["all", "--results", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    page = Page((tmp_path / "out" / "index.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags


def test_unknown_results_are_listed(tmp_path, capsys) -> None:
    store(tmp_path / "in", "sinusoid_maml_k5", data=None)
    main(["all", "--results", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert "not used: sinusoid_maml_k5/test_result.json: no experiment" in capsys.readouterr().out
    for name in ("index.html", "results.md"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "Results that belong to none of these" in text


def test_the_results_in_the_docs_are_made_of_their_files() -> None:
    written = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^python -m lightning_maml.paper all .*$", written, re.MULTILINE)
    assert "--results docs/results " in command
    book = sort_results(read_results(ROOT / "docs" / "results"))
    assert not book.unknown
    figures = [name for name, part in PARTS.items() if part.draw and part.drawable(book)]
    assert written == markdown(book, command, figures)
    assert all((ROOT / "docs" / f"{name}.svg").is_file() for name in figures)
