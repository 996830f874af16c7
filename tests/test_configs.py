"""Each config has the paper's numbers, runs through the entry point, differs where it says so."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import train

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))

# Sec. 5.1, App. A.1, App. B and the authors' code: support and query examples (per class), inner
# step size and steps, steps in evaluation, tasks per meta-update, meta-updates.
PAPER = {
    "sinusoid": (10, 10, 0.01, 1, 10, 25, 70_000),
    "omniglot_5way_1shot": (1, 1, 0.4, 1, 3, 32, 60_000),
    "omniglot_5way_5shot": (5, 5, 0.4, 1, 3, 32, 60_000),
    "omniglot_20way_1shot": (1, 1, 0.1, 5, 5, 16, 60_000),
    "omniglot_20way_5shot": (5, 5, 0.1, 5, 5, 16, 60_000),
    "omniglot_5way_1shot_dense": (1, 1, 0.4, 1, 3, 32, 60_000),
    "omniglot_5way_5shot_dense": (5, 5, 0.4, 1, 3, 32, 60_000),
    "mini_1shot": (1, 15, 0.01, 5, 10, 4, 60_000),
    "mini_1shot_first_order": (1, 15, 0.01, 5, 10, 4, 60_000),
    "mini_5shot": (5, 15, 0.01, 5, 10, 2, 60_000),
    "mini_5shot_first_order": (5, 15, 0.01, 5, 10, 2, 60_000),
    "sinusoid_context_vector": (10, 10, 0.01, 1, 10, 25, 70_000),
    "omniglot_5way_1shot_context_vector": (1, 1, 0.4, 1, 3, 32, 60_000),
    "omniglot_5way_5shot_context_vector": (5, 5, 0.4, 1, 3, 32, 60_000),
}
PAPER |= {  # the same with a shorter schedule, of ours
    "omniglot_5way_1shot_short": (1, 1, 0.4, 1, 3, 32, 9_000),
    "omniglot_5way_5shot_short": (5, 5, 0.4, 1, 3, 16, 6_000),
    "omniglot_5way_1shot_dense_short": (1, 1, 0.4, 1, 3, 32, 9_000),
    "omniglot_5way_5shot_dense_short": (5, 5, 0.4, 1, 3, 16, 6_000),
    "omniglot_5way_1shot_context_vector_short": (1, 1, 0.4, 1, 3, 32, 9_000),
    "omniglot_5way_5shot_context_vector_short": (5, 5, 0.4, 1, 3, 16, 6_000),
    "mini_1shot_short": (1, 15, 0.01, 5, 10, 4, 1_500),
    "mini_1shot_first_order_short": (1, 15, 0.01, 5, 10, 4, 1_500),
    "mini_5shot_short": (5, 15, 0.01, 5, 10, 2, 1_500),
    "mini_5shot_first_order_short": (5, 15, 0.01, 5, 10, 2, 1_500),
}
PAPER |= {"glyphs_5way_1shot": (1, 3, 0.4, 1, 3, 16, 400)}  # ours altogether
OTHERS = {  # on the paper's data
    "omniglot_5way_1shot_meta_sgd": (1, 1, 0.01, 1, 1, 32, 60_000),
    "mini_5shot_meta_sgd": (5, 15, 0.01, 1, 1, 2, 60_000),
    "mini_5shot_anil": (5, 15, 0.01, 5, 10, 2, 60_000),
    "mini_5shot_boil": (5, 15, 0.01, 5, 10, 2, 60_000),
    "mini_5shot_protomaml": (5, 15, 0.01, 5, 10, 2, 60_000),
    "mini_5shot_resnet12": (5, 15, 0.01, 5, 10, 2, 60_000),
}
PAPER |= OTHERS
FIRST_ORDER = {name for name in PAPER if "first_order" in name} | {"mini_5shot_resnet12"}
# The settings of mini-ImageNet on data sets of torchvision (tests of their splits:
# datamodules/test_torchvision_classes.py).
CIFAR = [f"{data}_5way_{k}shot" for data in ("cifar_fs", "fc100") for k in (1, 5)]
PHOTOS = [f"{data}_5way_1shot" for data in ("flowers", "aircraft", "dtd")] + ["eurosat_3way_1shot"]
TORCHVISION = [*CIFAR, *PHOTOS]
PAPER |= {name: PAPER["mini_5shot" if "5shot" in name else "mini_1shot"] for name in TORCHVISION}
# Sec. 5.1 and App. C.1: the baselines have no inner loop; `inner_lr` is that of validation.
PRETRAINED = ["sinusoid_oracle", "sinusoid_pretrained"]
MULTI_TASK = ["sinusoid_multi_task", "sinusoid_multi_task_l2", "sinusoid_multi_task_l2_to_mean"]
CLASSIFIER = "mini_classifier"
META_LEARNED = sorted(PAPER)
# Other systems of Table 1, and prototypical nets: support and query examples per class, tasks per
# update, updates, rate of Adam. Those of mini-ImageNet's matching nets are Ravi and Larochelle's.
EPISODIC = {
    f"omniglot_{n_way}way_{k_shot}shot_{method}": (k_shot, 5, tasks, 20_000, 0.001)
    for method in ("matching", "prototypical", "siamese")
    for n_way, tasks in ((5, 8), (20, 2))
    for k_shot in (1, 5)
}
EPISODIC |= {f"omniglot_5way_{k}shot_mann": (k, 5, 16, 100_000, 0.001) for k in (1, 5)}
EPISODIC |= {
    f"omniglot_{n_way}way_{k}shot_memory_module": (k, 5, 16, 100_000, 0.0001)
    for n_way in (5, 20)
    for k in (1, 5)
}
EPISODIC |= {
    f"omniglot_{n_way}way_{k}shot_statistician": (k, queries, tasks, 150_000, 0.001)
    for n_way, tasks in ((5, 6), (20, 2))
    for k, queries in ((1, 4), (5, 1))
}
EPISODIC |= {f"mini_{k}shot_matching": (k, 15, 1, 75_000, 0.0001) for k in (1, 5)}
EPISODIC |= {
    "mini_1shot_meta_lstm": (1, 15, 1, 75_000, 0.001),
    "mini_5shot_meta_lstm": (5, 15, 1, 50_000, 0.001),
}
EPISODIC |= {f"mini_{k}shot_prototypical": (k, 15, 4, 20_000, 0.001) for k in (1, 5)}
EPISODIC |= {
    f"{name}_short": (k_shot, queries, 2, 2_000, rate)
    for name, (k_shot, queries, _, _, rate) in EPISODIC.items()
    if "_5way_" in name and name.endswith(("matching", "prototypical", "siamese"))
}
EPISODIC |= {
    "mini_1shot_matching_short": (1, 5, 1, 1_500, 0.001),
    "mini_1shot_prototypical_short": (1, 5, 1, 1_500, 0.001),
}
EPISODIC |= {
    "omniglot_5way_1shot_matching_euclidean_short": (1, 5, 2, 2_000, 0.001),
    "omniglot_5way_1shot_memory_module_short": (1, 5, 2, 2_000, 0.001),
    "omniglot_5way_1shot_statistician_short": (1, 4, 2, 4_000, 0.001),
}
# Sec. 5.3, App. A.2 and the authors' code: tasks, trajectories, steps of an episode, alpha, inner
# steps in evaluation, meta-updates.
POLICIES = {
    "point": (20, 20, 100, 0.1, 4, 100),
    "point_squared": (20, 20, 100, 0.1, 4, 100),
    "point_context": (20, 20, 100, 0.1, 4, 100),
    "cheetah_velocity": (40, 10, 200, 0.1, 3, 475),
    "cheetah_direction": (40, 20, 200, 0.1, 3, 100),
    "cheetah_direction_context": (40, 20, 200, 0.1, 3, 100),
    "ant_velocity": (40, 20, 200, 0.1, 3, 375),
    "ant_direction": (40, 40, 200, 0.1, 3, 500),
}
# The same of one policy for all tasks, each trajectory in a task of its own.
ONE_POLICY = {
    "point_pretrained": (400, 1, 100, 0.5, 4, 100),
    "cheetah_velocity_pretrained": (100, 1, 200, 0.02, 3, 1000),
    "cheetah_direction_pretrained": (100, 1, 200, 0.2, 3, 1000),
    "ant_velocity_pretrained": (100, 1, 200, 0.2, 3, 2000),
    "ant_direction_pretrained": (100, 1, 200, 0.2, 3, 2000),
}
ORACLES = [name.replace("pretrained", "oracle") for name in ONE_POLICY]
RL_TASKS = {"point": [[-0.5, -0.5], [0.5, 0.5]], "cheetah": [[0], [2]], "ant": [[0], [3]]}
NETWORKS = {
    "sinusoid": {"in_features": 1, "out_features": 1, "hidden": [40, 40], "init": "pytorch"},
    "omniglot": {
        "in_channels": 1,
        "channels": 64,
        "image_size": 28,
        "downsample": "stride",
        "head": "mean",
    },
    "dense": {"image_size": 28, "hidden": [256, 128, 64, 64]},
    "mini": {
        "in_channels": 3,
        "channels": 32,
        "image_size": 84,
        "downsample": "max_pool",
        "head": "flatten",
    },
}
NETWORKS["glyphs"] = NETWORKS["omniglot"]
NETWORKS |= {name.partition("_")[0]: NETWORKS["mini"] for name in PHOTOS}
NETWORKS |= {data: NETWORKS["mini"] | {"image_size": 32} for data in ("cifar", "fc100")}
# App. C.2 does not give sizes: ours, and the inputs that the network then has.
CONTEXT = {
    "sinusoid": (20, {"in_features": 21}),
    "omniglot": ([1, 28, 28], {"in_channels": 2}),
}
SMALL = {  # flags for small data and little work
    "sinusoid": ["--data.val_tasks=4", "--data.eval_query_shot=10"],
    "omniglot": ["--data.characters=[5, 5, 5]", "--data.meta_batch_size=2", "--data.val_tasks=2"],
    "mini": [
        "--data.query_shot=1",
        "--data.eval_query_shot=1",
        "--data.meta_batch_size=1",
        "--data.val_tasks=1",
        "--model.eval_inner_steps=2",
    ],
}
SMALL["glyphs"] = [*SMALL["omniglot"], "--data.drawings=4"]
SMALL["point"] = [
    "--data.meta_batch_size=2",
    "--data.val_tasks=2",
    "--model.trajectories=2",
    "--model.eval_trajectories=2",
    "--model.environment.init_args.horizon=10",
]
# The LSTMs over the 1600 numbers of an embedding have 72 million parameters.
SMALL_CONTEXT = [
    "--model.model.init_args.encoder.init_args.channels=2",
    "--model.model.init_args.features=50",
]
SMALL_NETWORK = {  # of methods that are slow, by the ends of their configs
    "statistician": {"channels": 2, "context": 8, "hidden": 8},
    "meta_lstm": {"steps": 2, "hidden": 2, "model.init_args.channels": 2},
}
SMALL["cheetah"] = SMALL["ant"] = SMALL["point"]
SMALL |= {
    name.partition("_")[0]: [
        *SMALL["mini"],
        "--data.dataset=tests.test_configs.Noise",
        "--data.parts=[{}]",
        "--data.classes=null",
        "--data.fractions=[0.4, 0.3, 0.3]",
    ]
    for name in TORCHVISION
}
NO_FILES = ("sinusoid", "glyphs", "point", "cheetah", "ant")  # their data need none
TWO_STEPS = [
    "--trainer.max_steps=2",
    "--data.train_batches_per_epoch=2",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from leaves(item, f"{key}.{name}".lstrip("."))
    else:
        yield key, value


def differing(one: str, other: str) -> set[str]:
    """Keys that differ, without `init_args`, but for the name of the run, which always does."""
    a, b = (dict(leaves(with_named_loggers(name))) for name in (one, other))
    keys = {key for key in a.keys() | b.keys() if a.get(key, "absent") != b.get(key, "absent")}
    short = {key.replace("init_args.", "") for key in keys}
    names = {f"trainer.logger.{kind}.name" for kind in ("CSVLogger", "WandbLogger")}
    assert names <= short
    return short - names


def with_named_loggers(name: str) -> dict[str, Any]:
    config = load(name)
    loggers = config["trainer"]["logger"]
    by_class = {one["class_path"].split(".")[-1]: one["init_args"] for one in loggers}
    config["trainer"]["logger"] = by_class
    return config


def n_way(name: str) -> int:
    return int(re.findall(r"(\d+)way", name)[0]) if "way" in name else 5


class Noise:
    """A data set like torchvision's: six 9x9 images of each of 20 classes."""

    classes = tuple(f"noise {number}" for number in range(20))
    targets = tuple(number // 6 for number in range(120))

    def __init__(self, root: str) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (120, 9, 9, 3), np.uint8)

    def __len__(self) -> int:
        return 120

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[i]), self.targets[i]


def test_there_is_a_config_for_each_row_of_the_table() -> None:
    acting = [*POLICIES, *ONE_POLICY, *ORACLES]
    assert sorted([*PAPER, *PRETRAINED, *MULTI_TASK, CLASSIFIER, *EPISODIC, *acting]) == NAMES


@pytest.mark.parametrize("name", META_LEARNED)
def test_numbers_are_those_of_the_paper(name) -> None:
    config = load(name)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert PAPER[name] == (
        data["k_shot"],
        data["query_shot"],
        model["inner_lr"],
        model["inner_steps"],
        model["eval_inner_steps"],
        data["meta_batch_size"],
        config["trainer"]["max_steps"],
    )
    assert model["meta_lr"] == (0.003 if name.startswith("glyphs") else 0.001)
    assert model["first_order"] == (name in FIRST_ORDER)
    clips = name.startswith("mini") or name in TORCHVISION
    assert model["clip_meta_grad_value"] == (10.0 if clips else None)
    assert data["test_tasks"] == 600


@pytest.mark.parametrize("name", EPISODIC)
def test_other_systems_have_the_numbers_of_the_table(name) -> None:
    config = load(name)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert EPISODIC[name] == (
        data["k_shot"],
        data["query_shot"],
        data["meta_batch_size"],
        config["trainer"]["max_steps"],
        model["meta_lr"],
    )
    # Snell et al. train on tasks of more classes than they test with.
    mini_short = name.startswith("mini") and name.endswith("_short")
    trained_way = 20 if mini_short else n_way(name)
    assert (data["n_way"], data.get("eval_n_way") or data["n_way"]) == (trained_way, n_way(name))
    evaluated = data.get("eval_query_shot") or data["query_shot"]
    maml = load(re.sub(r"shot_.*", "shot", name))["data"]["init_args"]
    assert (evaluated, data["test_tasks"]) == (maml["query_shot"], maml["test_tasks"])
    method = model["model"]["init_args"]
    if name.endswith("meta_lstm"):
        assert method["model"]["init_args"] == NETWORKS["mini"] | {"n_way": 5}
        assert method["steps"] == (12 if "1shot" in name else 8)
        assert model["clip_meta_grad_norm"] == 0.25
    own_networks = ("meta_lstm", "mann", "statistician")
    if name.removesuffix("_short").endswith(own_networks):
        return
    mini, ravi = name.startswith("mini"), name.startswith("mini") and "matching" in name
    assert method["encoder"]["init_args"] == {
        "in_channels": 3 if mini else 1,
        "channels": 64,
        "dropout": 0.1 if ravi else 0.0,
    }
    if "matching" in name:
        distance = "euclidean" if "euclidean" in name else "cosine"
        assert (method["distance"], method["context_steps"]) == (
            distance,
            3 if ravi and not mini_short else 0,
        )


SHORT_EPISODIC = [n for n in EPISODIC if n.endswith("_short") and "euclidean" not in n]


def test_matching_nets_differ_in_their_distance() -> None:
    name = "omniglot_5way_1shot_matching{}_short"
    assert differing(name.format(""), name.format("_euclidean")) == {"model.model.distance"}


@pytest.mark.parametrize("name", SHORT_EPISODIC)
def test_short_runs_of_other_systems_differ_in_their_schedule(name) -> None:
    changed = {"trainer.max_steps", "model.scheduler.class_path", "model.scheduler.T_max"}
    if name != "mini_1shot_matching_short":  # which has a task an update, and Ravi's one rate
        changed |= {"data.meta_batch_size"}
        if name.endswith(("matching_short", "prototypical_short", "siamese_short")):
            changed |= {"model.scheduler.step_size", "model.scheduler.gamma"}
    if name.startswith("mini"):
        sizes = ("n_way", "query_shot")
        changed |= {f"data.{part}{size}" for part in ("", "eval_") for size in sizes}
        changed |= {"model.model.scale"}
    # The long one's 0.0001 would take them too long.
    if name in ("mini_1shot_matching_short", "omniglot_5way_1shot_memory_module_short"):
        changed |= {"model.meta_lr"}
    if name == "mini_1shot_matching_short":
        changed |= {"model.model.context_steps", "model.model.features"}
        changed |= {"data.train_batches_per_epoch"}
    assert differing(name.removesuffix("_short"), name) == changed
    config = load(name)
    scheduler = config["model"]["init_args"]["scheduler"]["init_args"]
    assert scheduler["T_max"] == config["trainer"]["max_steps"]


@pytest.mark.parametrize("name", [*POLICIES, *ONE_POLICY])
def test_policies_have_the_numbers_of_the_paper(name) -> None:
    config = load(name)
    model, data = (config[part]["init_args"] for part in ("model", "data"))
    meta = name in POLICIES
    tasks, trajectories, horizon, alpha, steps, updates = (POLICIES | ONE_POLICY)[name]
    assert (data["meta_batch_size"], model["trajectories"]) == (tasks, trajectories)
    assert model["environment"]["init_args"]["horizon"] == horizon
    later = alpha * (0.01 if name.startswith("ant_direction") else 0.5)
    assert (model["inner_lr"], model["later_inner_lr"]) == (alpha, pytest.approx(later))
    assert (model["inner_steps"], model["eval_inner_steps"]) == (int(meta), steps)
    assert model["pooled"] == (not meta)
    evaluated = 8000 if name.startswith("ant_direction") else 4000  # time steps
    assert model["eval_trajectories"] * horizon == evaluated
    assert (model["discount"], data["test_tasks"]) == (0.99, 40)
    assert model["max_kl"] == (0.02 if meta and name.startswith("cheetah_direction") else 0.01)
    assert config["trainer"]["max_steps"] == updates
    assert updates % data["train_batches_per_epoch"] == 0  # the last ones are validated
    policy = model["policy"]["init_args"]
    if name.endswith("context"):
        assert (model["adapts"], policy["size"]) == (["context"], 20)
        policy = policy["model"]["init_args"]
    assert policy["hidden"] == [100, 100]
    if "direction" in name:
        assert data["choices"] == [[-1], [1]]
    else:
        assert [data["low"], data["high"]] == RL_TASKS[name.partition("_")[0]]


@pytest.mark.parametrize("task", ["point", "cheetah_direction"])
def test_context_vector_of_policies_is_another_setting_of_the_inner_loop(task) -> None:
    keys = differing(task, f"{task}_context")
    assert {key for key in keys if not key.startswith("model.policy.")} == {"model.adapts"}


@pytest.mark.parametrize("name", ONE_POLICY)
def test_pretraining_policies_differs_in_named_keys(name) -> None:
    more = {"cheetah_direction_pretrained": {"model.max_kl"}, "point_pretrained": set()}
    task, local = name.removesuffix("_pretrained"), {"trainer.max_steps"}
    assert differing(task, name) == more.get(name, set()) | (
        set() if name == "point_pretrained" else local
    ) | {
        *(f"model.{key}" for key in ("inner_lr", "later_inner_lr", "inner_steps", "trajectories")),
        *(f"model.{key}" for key in ("pooled", "tasks_at_once")),
        "data.meta_batch_size",
        "data.train_batches_per_epoch",
    }


@pytest.mark.parametrize("name", ORACLES)
def test_oracles_differ_from_pretraining_in_what_is_observed(name) -> None:
    assert differing(name.replace("oracle", "pretrained"), name) == {
        "model.environment.task_in_observation",
        "model.policy.observation_size",
        "model.eval_inner_steps",
    }


def test_the_reward_of_the_text_differs_in_the_reward() -> None:
    assert differing("point", "point_squared") == {"model.environment.reward"}


@pytest.mark.parametrize("name", [name for name in META_LEARNED if name not in OTHERS])
def test_networks_are_those_of_the_paper(name) -> None:
    config = load(name)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    network, name = dict(model["model"]["init_args"]), name.removesuffix("_short")
    layers = "linear" if name.endswith("dense") else "conv"
    adapts = ["*"] if name.startswith("sinusoid") else [f"*.{layers}.*", "head.*"]
    more_inputs = {}
    if name.endswith("context_vector"):
        size, network = network["size"], dict(network["model"]["init_args"])
        adapts, more_inputs = ["context"], CONTEXT[name.partition("_")[0]][1]
        assert size == CONTEXT[name.partition("_")[0]][0]
    assert model["adapts"] == adapts
    if name.startswith("sinusoid"):
        assert model["loss"] == "mse"
    else:
        assert model["loss"] == "cross_entropy_n_way"
        assert network.pop("n_way") == data["n_way"] == n_way(name)
    family = "dense" if name.endswith("dense") else name.partition("_")[0]
    assert network == NETWORKS[family] | more_inputs


@pytest.mark.parametrize("name", [name for name in NAMES if name not in EPISODIC])
def test_config_says_what_alpha_acts_on(name) -> None:
    (comment,) = re.findall(r" inner_lr: .*?# (.*)", (CONFIGS / f"{name}.yaml").read_text())
    if name.startswith("sinusoid") or name == CLASSIFIER or name.startswith(tuple(RL_TASKS)):
        assert "acts on the mean" in comment
        return
    (on_a_mean,) = re.findall(r"acts on N x mean, so ([\d.]+) would be the same", comment)
    assert float(on_a_mean) == pytest.approx(
        load(name)["model"]["init_args"]["inner_lr"] * n_way(name)
    )


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_monitor_the_metric_after_the_last_step(name) -> None:
    config = load(name)
    checkpoint = config["trainer"]["callbacks"][0]["init_args"]
    usual = "accuracy" if name in EPISODIC else "return"
    metric = config["model"]["init_args"].get("metric", usual)
    assert checkpoint["monitor"] == f"val/{metric}"
    assert checkpoint["mode"] == {"mse": "min", "accuracy": "max", "return": "max"}[metric]
    for logger in config["trainer"]["logger"]:
        assert logger["init_args"]["name"] == name


@pytest.mark.parametrize("k_shot", [1, 5])
def test_first_order_differs_from_maml_in_one_key(k_shot) -> None:
    keys = differing(f"mini_{k_shot}shot", f"mini_{k_shot}shot_first_order")
    assert keys == {"model.first_order"}


@pytest.mark.parametrize("variant", ["", "_first_order"])
def test_shots_of_mini_imagenet_differ_in_the_batch_and_the_derivation(variant) -> None:
    keys = differing(f"mini_1shot{variant}", f"mini_5shot{variant}")
    assert keys == {"data.k_shot", "data.meta_batch_size", "model.derivation"}


@pytest.mark.parametrize("setting", ["5way_{}shot", "20way_{}shot", "5way_{}shot_dense"])
def test_shots_of_omniglot_differ_in_two_keys(setting) -> None:
    keys = differing(*(f"omniglot_{setting.format(k)}" for k in (1, 5)))
    assert keys == {"data.k_shot", "data.query_shot"}


@pytest.mark.parametrize("k_shot", [1, 5])
def test_ways_of_omniglot_differ_in_seven_keys(k_shot) -> None:
    assert differing(f"omniglot_5way_{k_shot}shot", f"omniglot_20way_{k_shot}shot") == {
        "data.n_way",
        "data.meta_batch_size",
        "model.model.n_way",
        "model.inner_lr",
        "model.inner_steps",
        "model.eval_inner_steps",
        "model.tasks_at_once",
    }


@pytest.mark.parametrize("k_shot", [1, 5])
def test_dense_differs_in_the_network_only(k_shot) -> None:
    keys = differing(f"omniglot_5way_{k_shot}shot", f"omniglot_5way_{k_shot}shot_dense")
    assert {key for key in keys if not key.startswith("model.model.")} == {"model.adapts"}


@pytest.mark.parametrize("other", [name for name in META_LEARNED if name.endswith("_short")])
def test_short_runs_differ_in_their_schedule(other) -> None:
    smaller = {"data.meta_batch_size"} if other.startswith("omniglot_5way_5shot") else set()
    schedule = {"class_path", "T_max"}
    assert differing(other.removesuffix("_short"), other) == smaller | {
        "trainer.max_steps",
        *(f"model.scheduler.{key}" for key in schedule),
    }
    settings = load(other)
    updates = settings["model"]["init_args"]["scheduler"]["init_args"]["T_max"]
    assert updates == settings["trainer"]["max_steps"]


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("omniglot_5way_1shot_meta_sgd", {"learn_inner_lr", "inner_lr", "eval_inner_steps"}),
        ("mini_5shot_meta_sgd", {"learn_inner_lr", "inner_steps", "eval_inner_steps"}),
        ("mini_5shot_anil", {"adapts"}),
        ("mini_5shot_boil", {"adapts"}),
        ("mini_5shot_protomaml", set()),
        ("mini_5shot_resnet12", {"first_order"}),
    ],
)
def test_other_methods_differ_from_maml_in_named_keys(name, keys) -> None:
    """Beside the network: of Meta-SGD, ANIL and BOIL it is the same."""
    found = differing(name.rpartition("_")[0].removesuffix("_meta"), name)
    network = {key for key in found if key.startswith("model.model.")}
    assert found - network == {f"model.{key}" for key in keys}
    assert bool(network) == name.endswith(("protomaml", "resnet12"))


def test_the_body_of_protomaml_is_the_papers_network() -> None:
    model = load("mini_5shot_protomaml")["model"]["init_args"]["model"]["init_args"]
    assert model["body"]["init_args"] == NETWORKS["mini"] | {"n_way": None}
    assert (model["features"], model["initial"]) == (32 * 5 * 5, "prototypes")


def test_meta_sgd_learns_a_step_size_for_each_weight() -> None:
    for name in ("omniglot_5way_1shot_meta_sgd", "mini_5shot_meta_sgd"):
        assert load(name)["model"]["init_args"]["learn_inner_lr"] == "per_weight"


def test_generated_characters_differ_from_omniglot_in_data_and_schedule() -> None:
    keys = differing("omniglot_5way_1shot_short", "glyphs_5way_1shot")
    assert {key for key in keys if not key.startswith("data.")} == {
        "model.meta_lr",
        "model.scheduler.T_max",
        "model.tasks_at_once",
        "model.compile",
        "trainer.max_steps",
    }
    settings = load("glyphs_5way_1shot")
    updates = settings["model"]["init_args"]["scheduler"]["init_args"]["T_max"]
    assert updates == settings["trainer"]["max_steps"]


@pytest.mark.parametrize("name", TORCHVISION)
def test_data_sets_of_torchvision_have_the_settings_of_mini_imagenet(name) -> None:
    keys = differing("mini_5shot" if "5shot" in name else "mini_1shot", name)
    expected = {"model.tasks_at_once", "model.model.image_size"} if name in CIFAR else set()
    expected |= {"model.model.n_way"} if n_way(name) != 5 else set()
    assert {key for key in keys if not key.startswith("data.")} == expected
    more = {key for key in keys if key.startswith("data.")} - {"data.n_way"}
    assert more - {"data.fractions"} - {f"data.classes.{s}" for s in ("train", "val", "test")} == {
        "data.class_path",
        "data.dataset",
        "data.parts",
        "data.image_size",
    }


@pytest.mark.parametrize("k_shot", [1, 5])
def test_fc100_differs_from_cifar_fs_in_its_classes(k_shot) -> None:
    keys = differing(f"cifar_fs_5way_{k_shot}shot", f"fc100_5way_{k_shot}shot")
    assert keys == {f"data.classes.{split}" for split in ("train", "val", "test")}


@pytest.mark.parametrize("k_shot", [1, 5])
def test_context_vector_of_omniglot_is_another_setting_of_the_inner_loop(k_shot) -> None:
    base = f"omniglot_5way_{k_shot}shot"
    keys = differing(base, f"{base}_context_vector")
    assert {key for key in keys if not key.startswith("model.model.")} == {"model.adapts"}
    assert set(differing(*(f"omniglot_5way_{k}shot_context_vector" for k in (1, 5)))) == {
        "data.k_shot",
        "data.query_shot",
    }


def test_context_vector_of_sinusoids_is_another_setting_of_the_inner_loop() -> None:
    keys = differing("sinusoid", "sinusoid_context_vector")
    assert {key for key in keys if not key.startswith("model.model.")} == {"model.adapts"}


def test_pretraining_differs_from_maml_in_the_learner_only() -> None:
    assert differing("sinusoid", "sinusoid_pretrained") == {
        "model.class_path",
        "model.inner_steps",
        "model.first_order",
        "model.derivation",
        "model.fine_tuning_lrs",
    }


def test_the_oracle_differs_from_pretraining_in_its_inputs() -> None:
    keys = differing("sinusoid_pretrained", "sinusoid_oracle")
    assert keys == {"model.model.in_features", "data.task_in_input"}


def test_multi_task_averages_train_on_the_same_sinusoids() -> None:
    keys = differing("sinusoid_pretrained", "sinusoid_multi_task")
    assert {key for key in keys if not key.startswith("model.")} == {
        "data.k_shot",
        "data.query_shot",
        "data.meta_batch_size",
        "data.train_batches_per_epoch",
        "trainer.max_steps",
        "trainer.check_val_every_n_epoch",
        "trainer.log_every_n_steps",
    }
    assert not {key for key in keys if key.startswith("model.model.")}
    config = load("sinusoid_multi_task")
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert model["networks"] == data["meta_batch_size"] * config["trainer"]["max_steps"] == 500
    assert model["target_loss"] == 0.02


def test_multi_task_averages_differ_in_what_they_are_drawn_to() -> None:
    settings = {}
    for name in MULTI_TASK:
        model = load(name)["model"]["init_args"]
        settings[name] = (model["regularization"], model["strength"] > 0)
        if name != MULTI_TASK[0]:
            keys = differing(MULTI_TASK[0], name)
            assert keys == {"model.regularization", "model.strength"}
    assert [*settings.values()] == [(None, False), ("l2", True), ("l2_to_mean", True)]


def test_the_classifier_has_the_settings_of_ravi_and_larochelle() -> None:
    config = load(CLASSIFIER)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert model["model"]["init_args"] == NETWORKS["mini"] | {"channels": 64, "n_way": 64}
    assert (data["class_batch_size"], config["trainer"]["max_steps"]) == (64, 30_000)
    assert (model["meta_lr"], model["eval_inner_steps"], model["adapts"]) == (0.001, 15, ["*"])
    assert model["fine_tuning_lrs"] == [0.5, 0.1, 0.01, 1e-3, 1e-4, 1e-5]
    assert model["fine_tuning_decays"] == [1.0, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 0.0]


@pytest.fixture(scope="module")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise in the layouts of Omniglot (15 characters) and mini-ImageNet (15 classes)."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    splits = {"images_background": 10, "images_evaluation": 5}
    for part, characters in splits.items():
        for character in range(characters):
            place = root / "omniglot-py" / part / part[7:] / f"character{character + 1:02}"
            place.mkdir(parents=True)
            for i in range(10):
                Image.fromarray(rng.random((28, 28)) < 0.9).save(place / f"0001_{i:02}.png")
    for split in ("train", "val", "test"):
        for number in range(20 if split == "train" else 5):  # a config trains on 20 at once
            place = root / split / f"n_{split}_{number}"
            place.mkdir(parents=True)
            for i in range(6):
                pixels = rng.integers(0, 256, (84, 84, 3), np.uint8)
                Image.fromarray(pixels).save(place / f"{split}_{number}_{i}.jpg")
    return root


SLOW = {"mini_5shot_anil", "mini_5shot_boil", "mini_5shot_meta_sgd", "mini_5shot_resnet12"}
SLOW |= {"mini_1shot_first_order", *MULTI_TASK[1:]}
SLOW |= {name for name in NAMES if name.endswith("_short")}
ALWAYS = {"point", "point_context", "cheetah_direction_oracle", "ant_velocity"}  # of the policies
ALWAYS |= {"cifar_fs_5way_1shot", "eurosat_3way_1shot"}  # of torchvision's data sets
ALWAYS |= {  # of the other systems, one of each method
    "omniglot_20way_1shot_siamese",
    "omniglot_5way_1shot_prototypical_short",
    "mini_1shot_matching",
    "omniglot_5way_1shot_mann",
    "omniglot_5way_5shot_memory_module",
    "omniglot_5way_1shot_statistician",
    "mini_1shot_meta_lstm",
}
RUNS = [
    pytest.param(name, marks=[pytest.mark.slow] if seldom and name not in ALWAYS else [])
    for name in NAMES
    for seldom in [name.startswith(tuple(RL_TASKS)) or name in {*SLOW, *EPISODIC, *TORCHVISION}]
]


@pytest.mark.parametrize("name", RUNS)
def test_config_runs_through_the_entry_point(name, small_root, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    family = name.partition("_")[0]
    data = [] if family in NO_FILES else [f"--data.root={small_root}"]
    if "compile" in load(name)["model"]["init_args"]:
        data += ["--model.compile=false"]
    small = SMALL[family]
    if name in EPISODIC:
        small = [flag for flag in small if "eval_inner_steps" not in flag]
        for ending, values in SMALL_NETWORK.items():
            if name.endswith(ending):
                small += [f"--model.model.init_args.{key}={values[key]}" for key in values]
        small += SMALL_CONTEXT if name.startswith("mini") and "matching" in name else []
    train.main(["fit", f"--config={CONFIGS / name}.yaml", *TWO_STEPS, *small, *data])
    folder = tmp_path / "runs" / name / "version_0"
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert (folder / "checkpoints" / "best-2.ckpt").is_file()
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    monitored = load(name)["trainer"]["callbacks"][0]["init_args"]["monitor"]
    assert sum(bool(row[monitored]) for row in rows) == 1
    assert sum(bool(row["train/loss"]) for row in rows) == 2
