"""docs/your_own_model.md and docs/how_it_works.md keep their word: every block of Python runs."""

import re
from pathlib import Path

import pytest
import torch

import train

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / "docs" / f"{name}.md") for name in ("your_own_model", "how_it_works")}
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
FILES = ("my_net.py", "my_model.yaml")


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", TEXTS[page], re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_its_python_runs_in_order(page) -> None:
    torch.manual_seed(0)
    names = {"__name__": page}
    for block in blocks(page, "python"):
        exec(compile(block, f"{page}.md", "exec"), names)


@pytest.mark.parametrize("page", PAGES)
def test_what_it_names_exists(page) -> None:
    named = re.findall(r"`((?:configs|lightning_maml|docs)/[\w/]+\.\w+)`", TEXTS[page])
    linked = [f"docs/{name}" for name in re.findall(r"\]\(([\w.]+)\)", TEXTS[page])]
    assert named
    assert linked
    assert not [name for name in {*named, *linked} if not (ROOT / name).exists()]


def test_its_config_changes_the_named_keys_only(tmp_path, monkeypatch) -> None:
    kept = {}
    for text in [*blocks("your_own_model", "python"), *blocks("your_own_model", "yaml")]:
        if name := re.match(r"# (\S+\.\w+)\n", text):
            kept[name[1]] = (tmp_path / name[1]).write_text(text, encoding="utf-8")
    assert sorted(kept) == sorted(FILES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    base = ROOT / "configs" / "glyphs_5way_1shot.yaml"
    small = ["--data.characters=[5, 5, 5]", "--data.drawings=4", "--data.meta_batch_size=2"]
    run = ["--trainer.max_steps=1", "--trainer.log_every_n_steps=1"]
    run += ["--data.train_batches_per_epoch=1", "--data.val_tasks=2"]
    train.main(["fit", f"--config={base}", "--config=my_model.yaml", *small, *run])
    (path,) = tmp_path.glob("runs/*/version_0/checkpoints/last.ckpt")
    settings = torch.load(path, weights_only=True)["hyper_parameters"]
    assert settings["model"]["class_path"] == "my_net.MyNet"
    assert settings["model"]["init_args"] == {"n_way": 5, "width": 32}
    assert (settings["inner_lr"], settings["adapts"]) == (0.05, ["*"])
    assert settings["meta_lr"] == 0.003
