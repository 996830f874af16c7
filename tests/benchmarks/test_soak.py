"""A long run keeps its memory, files and threads; a leak would be seen."""

import sys

import pytest

from soak import Sample, draw, faults, main


def samples(**changed: int) -> list[Sample]:
    return [Sample(n, 1000, 5, 2)._replace(**changed if n > 12 else {}) for n in range(20)]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, []),
        ({"memory": 1019}, []),
        ({"memory": 1021}, ["memory grew by 2.1%"]),
        ({"files": 6}, ["files changed: [5, 6]"]),
        ({"threads": 1}, ["threads changed: [1, 2]"]),
    ],
)
def test_what_grows_is_said(changed, said) -> None:
    assert faults(samples(**changed)) == said


def test_what_grew_in_the_first_tenth_does_not_count() -> None:
    assert faults([Sample(0, 500, 3, 1), Sample(1, 800, 4, 1), *samples()[2:]]) == []


def test_the_memory_is_drawn(tmp_path) -> None:
    draw(samples(), tmp_path / "memory.svg")
    assert "resident memory" in (tmp_path / "memory.svg").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_thousand_updates_and_fifty_validations(tmp_path, capsys) -> None:
    picture = tmp_path / "memory.png"
    code = main(["--updates=2000", "--rounds=50", f"--out={picture}"])
    said = capsys.readouterr().out
    assert code == 0, said
    assert said.splitlines()[-1] == "50 rounds: nothing grew"
    assert picture.read_bytes().startswith(b"\x89PNG")
