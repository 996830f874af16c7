"""A folder of images as they come, through fit, test and predict, each a process of its own."""

import csv
import os
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.run.conftest import TRAINER, result_of

ROOT = Path(__file__).parents[2]
COLOURS = {
    "red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "black": (10, 10, 10),
    "cyan": (30, 200, 200), "magenta": (200, 30, 200), "yellow": (220, 220, 30),
    "grey": (120, 120, 120), "orange": (240, 140, 20), "navy": (10, 10, 90),
    "white": (245, 245, 245), "olive": (110, 110, 10),
}  # fmt: skip
UNSEEN = ["orange", "navy", "white"]
COLOURED = cycle([("RGBA", "png"), ("CMYK", "jpg"), ("P", "png"), ("RGB", "jpeg"), ("P", "gif")])
GREYS = cycle([("L", "png"), ("RGBA", "png"), ("L", "jpg")])

CONFIG = f"""
model:
  class_path: lightning_maml.MetaLearner
  init_args:
    model:
      class_path: lightning_maml.models.Conv4
      init_args: {{n_way: 3, in_channels: 3, channels: 16, image_size: 8}}
    loss: cross_entropy
    metric: accuracy
    inner_lr: 0.5
    inner_steps: 2
    meta_lr: 0.01
data:
  class_path: datamodules.ImageFolder
  init_args:
    root: photos
    n_way: 3
    query_shot: 2
    meta_batch_size: 8
    train_batches_per_epoch: 150
    val_tasks: 10
    test_tasks: 20
    image_size: 8
    classes:
      train: {[name for name in COLOURS if name not in UNSEEN][:-3]}
      val: [yellow, grey, olive]
      test: {UNSEEN}
"""


def photo(colour: tuple[int, int, int], mode: str, rng: np.random.Generator) -> Image.Image:
    """A flat image with some noise, of any size."""
    height, width = rng.integers(9, 40, 2)
    noise = rng.integers(-8, 9, (height, width, 1))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def write_photos(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        kinds = GREYS if len(set(colour)) == 1 else COLOURED
        for number, (mode, ending) in zip(range(6), kinds, strict=False):
            photo(colour, mode, rng).save(folder / name / f"{number}.{ending}")


def command(folder: Path, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *args],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_from_a_folder_of_images_to_answers(tmp_path) -> None:
    write_photos(tmp_path / "photos")
    trainer = TRAINER.removesuffix("  callbacks:\n").replace("max_steps: 4", "max_steps: 300")
    (tmp_path / "colours.yaml").write_text(CONFIG + trainer, encoding="utf-8")
    command(tmp_path, "fit", "--config=colours.yaml")
    command(tmp_path, "test", "--ckpt_path=last")
    assert result_of(tmp_path)["mean"][-1] > 0.95

    expected = {}
    for name in UNSEEN:
        first, *others = sorted((tmp_path / "photos" / name).iterdir())
        (tmp_path / "shots" / name).mkdir(parents=True)
        first.rename(tmp_path / "shots" / name / first.name)
        for number, path in enumerate(others):
            file = f"{'deep/' * (number % 2)}{number}{name}{path.suffix}"
            (tmp_path / "new" / file).parent.mkdir(parents=True, exist_ok=True)
            path.rename(tmp_path / "new" / file)
            expected[file] = name
    data = ["--data=FewShotFolder", "--data.support=shots", "--data.query=new"]
    said = command(tmp_path, "predict", "--ckpt_path=last", *data)
    table = tmp_path / said.strip().removeprefix("predictions: ")
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert list(rows[0]) == ["file", "class", *(f"p_{name}" for name in sorted(UNSEEN))]
    assert {row["file"]: row["class"] for row in rows} == expected
    assert [row["file"] for row in rows] == sorted(expected)
