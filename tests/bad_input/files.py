"""Files that are not what they should be.

Each maker writes into the working directory, given a function that writes class folders of images
(tests/datamodules/conftest.py). Its name is the id of its rows in rows.yaml, its docstring says
what is wrong.
"""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

Write = Callable[..., None]


def _split_folders(write: Write) -> None:
    for split, names in {"train": ["a", "b"], "val": ["c", "d"], "test": ["e", "f"]}.items():
        write(Path(split), names, 3)


def _pickles(content: Any = None, cut: int | None = None) -> None:
    images = np.zeros((4, 84, 84, 3), np.uint8)
    good = {"image_data": images, "class_dict": {"a": [0, 1], "b": [2, 3]}}
    for split in ("train", "val", "test"):
        data = pickle.dumps(good if content is None or split != "val" else content)
        path = Path(f"mini-imagenet-cache-{split}.pkl")
        path.write_bytes(data[: cut if split == "val" else None])


def _tables(write: Write, text: str) -> None:
    write(Path("images"), ["x"], 1)
    for path in Path("images/x").iterdir():
        path.rename(Path("images") / path.name)
    Path("images/x").rmdir()
    for split in ("train", "val", "test"):
        Path(f"{split}.csv").write_text(text)


def no_images(write: Write) -> None:
    """an empty folder"""


def empty_class(write: Write) -> None:
    """a class folder without images"""
    _split_folders(write)
    Path("train/empty").mkdir()


def too_few_images(write: Write) -> None:
    """classes of three images for 1 + 15"""
    _split_folders(write)


def too_few_classes(write: Write) -> None:
    """two classes for 5-way"""
    _split_folders(write)


def shared_class(write: Write) -> None:
    """a class in two splits"""
    _split_folders(write)
    write(Path("val"), ["a"], 3)


def cut_image(write: Write) -> None:
    """an image file that ends early"""
    _split_folders(write)
    path = sorted(Path("train/a").iterdir())[0]
    path.write_bytes(path.read_bytes()[:60])


def no_image(write: Write) -> None:
    """a text file with the name of an image"""
    _split_folders(write)
    Path("train/a/text.png").write_text("no image")


def csv_columns(write: Write) -> None:
    """a CSV file without the column `label`"""
    _tables(write, "filename,class\nx_00.png,x\n")


def csv_missing_image(write: Write) -> None:
    """a CSV file that names an image that is not there"""
    _tables(write, "filename,label\ny.png,x\n")


def csv_empty(write: Write) -> None:
    """a CSV file of its head alone"""
    _tables(write, "filename,label\n")


def pickle_cut(write: Write) -> None:
    """a pickle that ends early"""
    _pickles(cut=5000)


def pickle_of_code(write: Write) -> None:
    """a pickle that names a function to call"""
    _pickles(content={"image_data": print})


def pickle_keys(write: Write) -> None:
    """a pickle without `class_dict`"""
    _pickles(content={"image_data": np.zeros((1, 84, 84, 3), np.uint8)})


def pickle_of_floats(write: Write) -> None:
    """a pickle of images as floats"""
    _pickles(content={"image_data": np.zeros((1, 84, 84, 3)), "class_dict": {"a": [0]}})


def pickle_of_grey(write: Write) -> None:
    """a pickle of images without a colour axis"""
    _pickles(content={"image_data": np.zeros((1, 84, 84), np.uint8), "class_dict": {"a": [0]}})


def pickle_shared_image(write: Write) -> None:
    """a pickle with an image in two classes"""
    images = np.zeros((2, 84, 84, 3), np.uint8)
    _pickles(content={"image_data": images, "class_dict": {"a": [0, 1], "b": [1]}})


def pickle_out_of_range(write: Write) -> None:
    """a pickle whose class names an image beyond the last"""
    images = np.zeros((2, 84, 84, 3), np.uint8)
    _pickles(content={"image_data": images, "class_dict": {"a": [0], "b": [7]}})


def pickle_of_objects(write: Write) -> None:
    """a pickle of an array of Python objects"""
    _pickles(content={"image_data": np.array([None])})


def few_characters(write: Write) -> None:
    """Omniglot with a character instead of 1,623"""
    for folder in ("images_background", "images_evaluation"):
        write(Path("omniglot-py") / folder / "Latin", [f"{folder}_character01"], 2)


def checkpoint_of_text(write: Write) -> None:
    """a text file as checkpoint"""
    Path("x.ckpt").write_text("weights")


def checkpoint_of_weights(write: Write) -> None:
    """a bare `state_dict` as checkpoint"""
    torch.save({"weight": torch.zeros(1)}, "x.ckpt")


def checkpoint_of_another_program(write: Write) -> None:
    """a checkpoint of another LightningModule"""
    torch.save({"state_dict": {}, "hyper_parameters": {"lr": 0.1}}, "x.ckpt")


def checkpoint_of_code(write: Write) -> None:
    """a checkpoint that names a function to call"""
    torch.save({"state_dict": {}, "x": print}, "x.ckpt")


def checkpoint_empty(write: Write) -> None:
    """an empty checkpoint file"""
    Path("x.ckpt").write_bytes(b"")


def config_broken(write: Write) -> None:
    """a config that is not YAML"""
    Path("x.yaml").write_text("model: [unclosed\n")


def config_of_a_list(write: Write) -> None:
    """a config that is a list"""
    Path("x.yaml").write_text("- model\n- data\n")


def config_empty(write: Write) -> None:
    """an empty config"""
    Path("x.yaml").write_text("")


def config_misspelt(write: Write) -> None:
    """a config with a key that does not exist"""
    Path("x.yaml").write_text("modle: {class_path: lightning_maml.MetaLearner}\n")
