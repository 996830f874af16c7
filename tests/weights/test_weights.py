"""The weights that come with the package do what their cards say."""

import json
import re
from typing import Any

import pytest
import torch

import train
from datamodules import Omniglot, Sinusoid
from lightning_maml import MetaLearner
from lightning_maml.weights import FOLDER, available, weights_file
from lightning_maml.weights.export import KEPT, LOCAL, export

DATA = {"Sinusoid": Sinusoid, "Omniglot": Omniglot}
TASKS = 100


def on_the_card(name: str) -> dict[int, list[tuple[float, float]]]:
    """Mean and confidence interval after 0, 1, ... inner steps, by K."""
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    shots = [int(k) for k in re.findall(r"at K = (\d+), mean", text)]
    rows = re.findall(r"^\| (?:mse|accuracy) \| (.*) \|$", text, re.MULTILINE)
    pairs = [[cell.split(" +- ") for cell in row.split(" | ")] for row in rows]
    return {
        k: [(float(mean), float(ci)) for mean, ci in row]
        for k, row in zip(shots, pairs, strict=True)
    }


@pytest.mark.parametrize("name", available())
def test_weights_hold_no_more_than_they_should(name) -> None:
    path = weights_file(name)
    content = torch.load(path, weights_only=True)
    assert path.stat().st_size < 2_000_000
    assert set(content) <= set(KEPT)
    data = content["datamodule_hyper_parameters"]
    assert {key: data[key] for key in LOCAL if key in data} == {
        k: LOCAL[k] for k in LOCAL if k in data
    }
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    assert f"{content['global_step']} meta-updates" in card
    (config,) = re.findall(r"Config: `(.*)`", card)
    assert (FOLDER.parents[1] / config).exists()


@pytest.mark.parametrize("name", available())
def test_weights_do_what_their_card_says(name, request) -> None:
    """On the first 100 test tasks, for each K of the card."""
    content = torch.load(weights_file(name), weights_only=True)["datamodule_hyper_parameters"]
    data = {k: v for k, v in content.items() if k != "_instantiator"}
    data |= {"test_tasks": TASKS, "eval_batch_size": TASKS}
    kind = DATA[data.pop("_class_path").rpartition(".")[2]]
    if "root" in data:
        data["root"] = str(request.getfixturevalue("omniglot_root"))
    learner = MetaLearner.from_pretrained(name)
    said = on_the_card(name)
    assert said
    for k_shot, rows in said.items():
        tasks = kind(**(data | {"k_shot": k_shot}))
        (batch,) = tasks.test_dataloader()
        episode = tasks.on_after_batch_transfer(batch, 0)
        measured = learner.evaluate(episode).metric.mean(dim=1).tolist()
        assert len(measured) == len(rows)
        for mean, (expected, ci95) in zip(measured, rows, strict=True):
            # Four standard errors. Of 100 of the 600 tasks, so wider by the root of 6, and no
            # closer than one image.
            assert mean == pytest.approx(expected, abs=max(2 * ci95 * 6**0.5, 0.005))
        better = min if "mse" in learner.metric_name else max
        assert better(measured) != measured[0]


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"`name` must be one of .*sinusoid.*, got 'sinus'"):
        MetaLearner.from_pretrained("sinus")


def test_the_command_line_takes_them(tmp_path, monkeypatch) -> None:
    """Same result as in Python."""
    monkeypatch.chdir(tmp_path)
    path = str(weights_file("sinusoid"))
    train.main(["test", "--ckpt_path", path, f"--data.test_tasks={TASKS}", "--data.k_shot=5"])
    (file,) = tmp_path.rglob("test_result.json")
    result = json.loads(file.read_text())
    episodes = iter(Sinusoid(k_shot=5, test_tasks=TASKS, eval_batch_size=TASKS).test_dataloader())
    values = MetaLearner.from_pretrained("sinusoid").evaluate(next(episodes)).metric.double()
    assert result["mean"] == pytest.approx(values.mean(dim=1).tolist(), rel=1e-4)


def test_results_must_be_of_these_weights_and_settings(tmp_path, monkeypatch) -> None:
    """Another run's checkpoint may have the same name and step."""
    monkeypatch.chdir(tmp_path)
    weights = str(weights_file("sinusoid"))
    settings = ["--data.k_shot=5", "--data.test_tasks=600"]
    train.main(["test", "--ckpt_path", weights, *settings])
    train.main(["test", "--ckpt_path", weights, *settings, "--data.support_range=[0, 5]"])
    usual, half = sorted(tmp_path.rglob("test_result.json"))
    made = export(weights_file("sinusoid"), [usual], "sinusoid", "mine", tmp_path / "out")
    assert "| mse | 2.9615 +- 0.2247 |" in made.with_suffix(".md").read_text()
    with pytest.raises(ValueError, match=r"`data.support_range` must be None, got \[0"):
        export(weights_file("sinusoid"), [half], "sinusoid", "mine", tmp_path / "out")
    other = torch.load(weights, weights_only=True)
    other["state_dict"]["model.layers.0.bias"] += 1e-6
    torch.save(other, tmp_path / "sinusoid.ckpt")
    with pytest.raises(ValueError, match=r"`results` must be of the weights .* got .*test_result"):
        export(tmp_path / "sinusoid.ckpt", [usual], "sinusoid", "mine", tmp_path / "out")


def test_results_of_no_known_weights_are_refused(tmp_path) -> None:
    path = tmp_path / "result.json"
    facts: dict[str, Any] = {"checkpoint": "runs/x/best-10.ckpt", "meta_updates": 10}
    path.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=r"`results` must be of .*sinusoid.ckpt, got .*best-10"):
        export(weights_file("sinusoid"), [path], "sinusoid", "mine", tmp_path)
    assert list(tmp_path.iterdir()) == [path]
