"""benchmarks/scaling.py: its projection by hand, its check of weights, and two processes."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import scaling
from tests.run.conftest import CONFIG
from timed_fit import in_child

MEASURED = scaling.Measured(processes=2, alone=10.0, strong=7.3, gradients=1.1, one_number=0.1)


@pytest.mark.parametrize(
    ("devices", "exchange", "weak", "strong"),
    [
        # 3 x 0.1 x 1 + 1.0 x (1/2)/(1/2); shared: (10 - (7.3 - 1.3)) x 2/1 = 8, alone: 2
        (2, 1.3, 11.3, 7.3),
        # 3 x 0.1 x 7 + 1.0 x (7/8)/(1/2); 2 + 8/8
        (8, 3.85, 13.85, 6.85),
        # 3 x 0.1 x 63 + 1.0 x (63/64)/(1/2); 2 + 8/64
        (64, 20.86875, 30.86875, 22.99375),
    ],
)
def test_the_projection_by_hand(devices: int, exchange: float, weak: float, strong: float) -> None:
    assert MEASURED.exchange(devices) == pytest.approx(exchange)
    assert MEASURED.weak_update(devices) == pytest.approx(weak)
    assert MEASURED.strong_update(devices) == pytest.approx(strong)


def test_from_three_processes_by_hand() -> None:
    """8 devices: 3 x 0.2 x 7/2 + 0.8 x (7/8)/(2/3); shared: (9 - (5.4 - 1.4)) x 3/2 = 7.5."""
    measured = scaling.Measured(3, alone=9.0, strong=5.4, gradients=1.0, one_number=0.2)
    assert measured.exchange(3) == pytest.approx(1.4)
    assert measured.exchange(8) == pytest.approx(3.15)
    assert measured.strong_update(8) == pytest.approx(1.5 + 7.5 / 8 + 3.15)


def test_what_is_shared_is_within_the_whole() -> None:
    """Noise may say that sharing brings more than all, or less than nothing."""
    for strong, expected in ((1.0, 0.0), (100.0, 10.0)):
        measured = scaling.Measured(2, 10.0, strong, gradients=0.0, one_number=0.0)
        assert measured.strong_update(10**9) == pytest.approx(expected, abs=1e-6)


def turns(update_ms: float, exchange_ms: float = 0.0, gradients_ms: float = 0.0) -> list[dict]:
    times = {"update_ms": update_ms, "exchange_ms": exchange_ms, "gradients_ms": gradients_ms}
    return [{**times, "one_number_ms": 0.0}]


def result() -> dict[str, Any]:
    alone = turns(10.0, exchange_ms=0.5)
    return {
        "config": "a/b.yaml",
        "tasks": 4,
        "worst": {1: 0.0, 2: 1e-16},
        "runs": {
            "weak": {1: alone, 2: turns(12.5, 3.0, 2.0)},
            "strong": {1: alone, 2: turns(8.0, 2.5, 2.0)},
        },
    }


def test_efficiency_by_hand() -> None:
    """Weak: 10 / 12.5; strong: 10 / 8 / 2. The backward pass alone takes half a millisecond."""
    one, weak, _, strong = scaling.rows(result())
    assert one[1:8] == ["weak", "1", "4", "100.0 (100.0 to 100.0)", "400", "100%", "0.000 (0.0%)"]
    assert weak[1:8] == ["weak", "2", "8", "80.0 (80.0 to 80.0)", "640", "80%", "2.500 (20.0%)"]
    assert strong[1:8] == [
        "strong", "2", "4", "125.0 (125.0 to 125.0)", "500", "62%", "2.000 (25.0%)",
    ]  # fmt: skip


def test_projected_efficiency_by_hand() -> None:
    """Of the gradients alone: 2 ms on 2 devices, 3.5 ms on 8; shared: (10 - 6) x 2 = 8 of 10."""
    lines = scaling.projections(result(), [8])
    assert [line[1:] for line in lines] == [
        ["weak", "2", "2.000 (16.7%)", "667", "83%", "80%"],
        ["strong", "2", "2.000 (25.0%)", "500", "62%", "62%"],
        ["weak", "8", "3.500 (25.9%)", "2,370", "74%", ""],
        ["strong", "8", "3.500 (53.8%)", "615", "19%", ""],
    ]


@pytest.mark.parametrize("difference", [1e-6, float("nan")])
def test_weights_that_differ_are_an_error(difference: float) -> None:
    one = {"a": torch.ones(3, dtype=torch.float64), "b": torch.zeros(1, dtype=torch.float64)}
    near = {**one, "a": one["a"] + 1e-15}
    assert 0 < scaling.check_equal(one, near, 2) < 1e-14
    with pytest.raises(SystemExit, match="of 2 processes differs by"):
        scaling.check_equal(one, {**one, "b": one["b"] + difference}, 2)


def weights(case: dict[str, Any], folder: Path, child: bool = False) -> dict[str, torch.Tensor]:
    folder.mkdir()
    (folder / "small.yaml").write_text(CONFIG)
    case = {
        "kind": "check", "config": str(folder / "small.yaml"), "flags": [], "device": "cpu", **case,
    }  # fmt: skip
    if child:
        in_child(scaling.__file__, case, folder)
    else:
        scaling.run_check({**case, "folder": str(folder)})
    return torch.load(folder / "weights.pt", weights_only=True)


def test_two_processes_have_the_weights_of_one(tmp_path: Path) -> None:
    """With the same tasks; with others the check says so."""
    one = weights({"processes": 1, "tasks": 4}, tmp_path / "one")
    other = weights({"processes": 1, "tasks": 2}, tmp_path / "other")
    two = weights({"processes": 2, "tasks": 2}, tmp_path / "two", child=True)
    assert scaling.check_equal(one, two, 2) < 1e-12
    with pytest.raises(SystemExit, match="more than rounding"):
        scaling.check_equal(one, other, 2)


@pytest.mark.slow
def test_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Both scalings on two processes beside one, which is this one, and the projection."""

    def here(script: str, case: dict[str, Any], folder: Path, **environment: str) -> dict[str, Any]:
        if case["processes"] > 1:
            return in_child(script, case, folder, **environment)
        return scaling.RUNS[case["kind"]]({**case, "folder": str(folder)})

    config, out = tmp_path / "small.yaml", tmp_path / "out.json"
    config.write_text(CONFIG)
    monkeypatch.setattr(scaling, "in_child", here)
    command = f"scaling.py --config {config} --updates 5 --turns 1 --json {out}"
    monkeypatch.setattr(sys, "argv", command.split())
    scaling.main()
    printed = capfd.readouterr().out
    assert printed.count("| small | weak |") == printed.count("| small | strong |") == 5
    assert "A projection, not measured" in printed
    (found,) = json.loads(out.read_text())["results"]
    (weak,) = found["runs"]["weak"]["2"]
    assert 0 < weak["exchange_ms"] < weak["update_ms"]
    assert weak["gradients_ms"] > 0
    assert found["tasks"] == 4  # three, rounded up
