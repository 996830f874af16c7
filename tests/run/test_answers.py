"""`predict` from a support folder and a query folder: the table, and what is refused."""

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train
from datamodules import FewShotFolder
from lightning_maml import MetaLearner
from lightning_maml.baselines import (
    EpisodicLearner,
    Pretrained,
    PretrainedClassifier,
    PrototypicalNets,
)
from lightning_maml.models import Conv4, ConvEmbedding
from lightning_maml.run.answers import check_question
from lightning_maml.weights import weights_file
from tests.run.conftest import QUIET

CLASSES = ["kappa", "Alpha", "zeta", "beta", "mu"]  # five, as the weights have it
SORTED = sorted(CLASSES)
WEIGHTS = weights_file("omniglot_5way_1shot")
GLYPHS = ["--data.characters=[6, 6, 6]", "--data.drawings=4", "--data.query_shot=2"]
GLYPHS += ["--data.meta_batch_size=2", "--data.train_batches_per_epoch=1", "--data.val_tasks=2"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def drawing(number: int, seed: int) -> Image.Image:
    """A character of dark strokes on white paper, each time a little different."""
    paper, rng = np.full((40, 40), 255, np.uint8), np.random.default_rng(seed)
    for x, y in np.random.default_rng(number).integers(4, 30, (4, 2)) + rng.integers(0, 2, (4, 2)):
        paper[y : y + 2, 4 : x + 4] = 0
        paper[4 : y + 4, x : x + 2] = 0
    return Image.fromarray(paper)


def write(folder: Path, queries: list[str], classes: list[str] = CLASSES) -> list[str]:
    """Support and query folders; a query is named after its class and something else."""
    for number, name in enumerate(classes):
        place = folder / "support" / name
        place.mkdir(parents=True)
        drawing(number, seed=100).save(place / "a.png")
    for seed, name in enumerate(queries):
        path = folder / "query" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing(classes.index(path.stem.partition("-")[0]), seed).save(path)
    return [f"--data.support={folder / 'support'}", f"--data.query={folder / 'query'}"]


def predict(*flags: str, ckpt: Path = WEIGHTS) -> list[dict[str, str]]:
    """The rows of the only table that the command wrote."""
    train.main(["predict", f"--ckpt_path={ckpt}", "--data=FewShotFolder", *flags, *QUIET])
    (path,) = Path().rglob("predictions.csv")
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def shares(rows: list[dict[str, str]]) -> torch.Tensor:
    return torch.tensor([[float(row[f"p_{name}"]) for name in SORTED] for row in rows])


@pytest.mark.parametrize("statistics", ["support", "transductive"])
def test_a39_the_command_and_python_agree(tmp_path, statistics) -> None:
    """A39: class names, probabilities that sum to 1, files as on disk, the checkpoint untouched."""
    queries = ["mu-1.png", "b/zeta-1.png", "b/Alpha-1.PNG", "kappa-1.png", "kappa-2.png"]
    flags, before = write(tmp_path, queries), hashlib.sha256(WEIGHTS.read_bytes()).digest()
    (tmp_path / "query" / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "query" / "notes.txt").write_text("no image")
    rows = predict(*flags, f"--data.statistics={statistics}")
    assert list(rows[0]) == ["file", "class", *(f"p_{name}" for name in SORTED)]
    assert [row["file"] for row in rows] == sorted(queries)
    found = shares(rows)
    torch.testing.assert_close(found.sum(1), torch.ones(5), rtol=0, atol=1e-6)
    assert [row["class"] for row in rows] == [SORTED[i] for i in found.argmax(1)]
    assert [Path(row["file"]).stem.partition("-")[0] for row in rows] == [r["class"] for r in rows]

    learner = MetaLearner.from_pretrained("omniglot_5way_1shot")
    paths = {"support": tmp_path / "support", "query": tmp_path / "query"}
    data = FewShotFolder(
        **{key: str(path) for key, path in paths.items()}, image_size=28, channels=1, invert=True
    )
    question = data.question()
    adapted = learner.fast_adapt(question.support_x, question.labels, statistics=statistics)
    torch.testing.assert_close(found, adapted.probabilities(question.query_x), rtol=0, atol=1e-6)
    assert adapted.class_names == tuple(SORTED)
    assert hashlib.sha256(WEIGHTS.read_bytes()).digest() == before


def test_one_image_alone_gets_the_answer_it_has_among_others(tmp_path) -> None:
    flags = write(tmp_path, ["mu-1.png", "zeta-1.png"])
    both = shares(predict(*flags))
    for number, name in enumerate(["mu-1.png", "zeta-1.png"]):
        (folder := tmp_path / name[:-4]).mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            (row,) = predict(*flags[:1], f"--data.query={tmp_path / 'query' / name}")
        assert row["file"] == name
        torch.testing.assert_close(shares([row])[0], both[number], rtol=0, atol=1e-5)
    assert (both[0] - both[1]).abs().max() > 0.1


REFUSED = {
    "a class too few": ([], CLASSES[:4], "`support` must have 5 classes, as the model has 5"),
    "another size": (["--data.image_size=32"], CLASSES, "`image_size` must be 28, as in training"),
    "colours": (["--data.channels=3"], CLASSES, "`channels` must be 1, as in training, got 3"),
    "not inverted": (["--data.invert=false"], CLASSES, "`invert` must be True, as in training"),
    "no folder": (
        ["--data.support=nowhere"],
        CLASSES,
        "got nowhere, which is not there (folders",
    ),
    "no images": (["--data.query=empty"], CLASSES, "`query` must hold images, got empty"),
    "one transductive": (["--data.statistics=transductive"], CLASSES, "for a single image"),
}


@pytest.mark.parametrize(("flags", "classes", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_is_written(tmp_path, refused, flags, classes, message) -> None:
    paths = write(tmp_path, ["zeta-1.png"], classes)
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    end = refused(
        "predict", f"--ckpt_path={WEIGHTS}", "--data=FewShotFolder", *paths, *flags, *QUIET
    )
    assert end.code == 2
    assert message in end.message
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["validate", "test"])
def test_it_is_for_predict_only(tmp_path, refused, command) -> None:
    paths = write(tmp_path, ["mu-1.png"])
    flags = ["--data=FewShotFolder", *paths, *QUIET]
    end = refused(command, f"--ckpt_path={WEIGHTS}", *flags)
    assert "got FewShotFolder, which is for `predict` only" in end.message


def test_baselines_that_tune_are_refused(tmp_path) -> None:
    paths = (flag.partition("=")[2] for flag in write(tmp_path, ["mu-1.png"]))
    data = FewShotFolder(*paths, image_size=28, channels=1, invert=True)
    with pytest.raises(ValueError, match="on which Pretrained tunes its steps, got FewShotFolder"):
        check_question(Pretrained(Conv4(5), loss="cross_entropy"), data)


def test_methods_without_an_inner_loop_answer_for_any_number_of_classes(tmp_path) -> None:
    train.main([
        "fit", "--config=omniglot_5way_1shot_prototypical_short.yaml", "--data=Glyphs", *GLYPHS,
        "--model.model.init_args.encoder.init_args.channels=8", "--trainer.max_steps=1",
        "--trainer.log_every_n_steps=1", *QUIET,
    ])  # fmt: skip
    (checkpoint,) = Path().rglob("last.ckpt")
    classes = ["pine", "fir", "larch"]
    flags = [*write(tmp_path, ["fir-1.png", "larch-1.png"], classes), "--data.invert=true"]
    rows = predict(*flags, ckpt=checkpoint)
    learner = EpisodicLearner.load_from_checkpoint(
        checkpoint, model=PrototypicalNets(ConvEmbedding(channels=8))
    )
    paths = (str(tmp_path / part) for part in ("support", "query"))
    question = FewShotFolder(*paths, image_size=28, channels=1, invert=True).question()
    solved = learner.fast_adapt(question.support_x, question.labels)
    expected = solved.probabilities(question.query_x)
    found = torch.tensor([[float(row[f"p_{name}"]) for name in sorted(classes)] for row in rows])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("how", ["nearest_neighbour", "fine_tuning"])
def test_neighbours_answer_where_fine_tuning_cannot(how, tmp_path) -> None:
    paths = (flag.partition("=")[2] for flag in write(tmp_path, ["mu-1.png"], ["mu", "nu"]))
    data = FewShotFolder(*paths, image_size=28, channels=1, invert=True)
    learner = PretrainedClassifier(Conv4(7), classify_by=how)
    if how == "nearest_neighbour":
        check_question(learner, data)
    else:
        with pytest.raises(ValueError, match="on which PretrainedClassifier tunes its steps, got"):
            check_question(learner, data)


def test_what_python_trained_on_is_asked_for(tmp_path) -> None:
    """A datamodule made in Python keeps its settings under no class name; or there is none."""
    paths = {name: str(tmp_path / name) for name in ("support", "query")}
    write(tmp_path, ["mu-1.png"])
    with pytest.raises(ValueError, match="`image_size` must be given"):
        FewShotFolder(**paths)
    with pytest.raises(ValueError, match="`channels` must be given"):
        FewShotFolder(**paths, image_size=28)
    with pytest.raises(ValueError, match="`invert` must be given"):
        FewShotFolder(**paths, image_size=28, channels=1)
    with pytest.raises(ValueError, match="`invert` must be given"):  # their ink may be either
        FewShotFolder(**paths, trained_on={"class_path": "datamodules.Glyphs", "init_args": {}})
    with pytest.raises(ValueError, match=r"true if yours are dark on white.* --data\.invert"):
        FewShotFolder(**paths, image_size=28, channels=1)
    with pytest.raises(ValueError, match=r"needs a classifier of images, got .* of Sinusoid"):
        FewShotFolder(**paths, trained_on={"class_path": "datamodules.Sinusoid", "init_args": {}})
    kept = {"class_path": None, "init_args": {"image_size": 20, "channels": 3, "invert": False}}
    question = FewShotFolder(**paths, trained_on=kept).question()
    assert question.query_x.shape == (1, 3, 20, 20)
    with pytest.raises(ValueError, match="`channels` must be 3, as in training, got 1"):
        FewShotFolder(**paths, trained_on=kept, channels=1)


def test_the_network_refuses_other_images_too(tmp_path, refused) -> None:
    """The weights do not know the data, so only the network can tell."""
    content = torch.load(WEIGHTS, weights_only=True)
    content["datamodule_hyper_parameters"] = {}
    torch.save(content, "unknown.ckpt")
    paths = [*write(tmp_path, ["mu-1.png"]), "--data.image_size=32", "--data.channels=1"]
    paths += ["--data.invert=true"]
    end = refused("predict", "--ckpt_path=unknown.ckpt", "--data=FewShotFolder", *paths, *QUIET)
    assert "Expected images [N, 1, 28, 28]" in end.message
    assert Conv4(5).image_shape == (1, 28, 28)
