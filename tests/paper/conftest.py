"""Small stored results: what `test` would leave of each experiment, with numbers made up here."""

import json
import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIGS = Path(__file__).parents[2] / "configs"
MLP = {"class_path": "lightning_maml.models.MLP", "init_args": {"hidden": [40, 40]}}


def network(name: str, place: str = "models", **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"lightning_maml.{place}.{name}", "init_args": arguments}


def learner(kind: str = "MetaLearner", net: Any = MLP, **arguments: Any) -> dict[str, Any]:
    place = "lightning_maml" if kind == "MetaLearner" else "lightning_maml.baselines"
    return {"class_path": f"{place}.{kind}", "init_args": {"model": net, **arguments}}


def sinusoid(k_shot: int, **arguments: Any) -> dict[str, Any]:
    return {
        "class_path": "datamodules.Sinusoid",
        "init_args": {"k_shot": k_shot, "x_range": [-5.0, 5.0], "seed": 0, **arguments},
    }


def images(kind: str, n_way: int, k_shot: int, meta_batch_size: int) -> dict[str, Any]:
    given = {"n_way": n_way, "k_shot": k_shot, "meta_batch_size": meta_batch_size, "seed": 0}
    return {"class_path": f"datamodules.{kind}", "init_args": given}


@cache
def config_of(name: str) -> dict[str, Any]:
    """Read once: parsing all of them for each test took minutes."""
    found: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def data_of(config: str) -> dict[str, Any]:
    """Other systems have tasks of their own."""
    data = config_of(config)["data"]
    kept = ("n_way", "k_shot", "meta_batch_size", "seed")
    return {**data, "init_args": {key: data["init_args"][key] for key in kept}}


SINE = {"inner_lr": 0.01, "inner_steps": 1, "first_order": False, "adapts": ["*"]}
IMAGE = {"first_order": False, "adapts": ["*.conv.*", "head.*"]}


def classifier(how: str) -> dict[str, Any]:
    return learner("PretrainedClassifier", network("Conv4", channels=64), classify_by=how)


def settings() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Model and data of each experiment, as the configs have them."""
    found = {}
    for k in (5, 10, 20):
        found[f"sinusoid_maml_k{k}"] = learner(**SINE), sinusoid(k)
        found[f"sinusoid_pretrained_k{k}"] = learner("Pretrained"), sinusoid(k)
        found[f"sinusoid_oracle_k{k}"] = learner("Pretrained"), sinusoid(k, task_in_input=True)
    only_context = {**SINE, "adapts": ["context"]}
    inner = network("ContextVector", model=MLP)
    found["sinusoid_context_vector_k10"] = learner(net=inner, **only_context), sinusoid(10)
    for k in (5, 10):
        half = sinusoid(k, support_range=[0.0, 5.0])
        found[f"sinusoid_maml_k{k}_half"] = learner(**SINE), half
        found[f"sinusoid_pretrained_k{k}_half"] = learner("Pretrained"), half
    for name, kind in (("", None), ("_l2", "l2"), ("_l2_to_mean", "l2_to_mean")):
        average = learner("MultiTaskAverage", regularization=kind)
        found[f"sinusoid_multi_task{name}"] = average, sinusoid(5)
    for k in (1, 5):
        five = {"inner_lr": 0.4, "inner_steps": 1}
        twenty = {"inner_lr": 0.1, "inner_steps": 5}
        easy, hard = images("Omniglot", 5, k, 32), images("Omniglot", 20, k, 16)
        conv, dense = network("Conv4", channels=64), network("OmniglotDense")
        context = network("ContextVector", model=conv)
        found[f"omniglot_5way_{k}shot"] = learner(net=conv, **IMAGE, **five), easy
        found[f"omniglot_20way_{k}shot"] = learner(net=conv, **IMAGE, **twenty), hard
        found[f"omniglot_5way_{k}shot_dense"] = learner(net=dense, **IMAGE, **five), easy
        found[f"omniglot_5way_{k}shot_context_vector"] = (
            learner(net=context, inner_lr=1.0, inner_steps=1, adapts=["context"]),
            easy,
        )
        small = network("Conv4", channels=32)
        data = images("MiniImagenet", 5, k, 4 if k == 1 else 2)
        steps = {"inner_lr": 0.01, "inner_steps": 5, "adapts": ["*.conv.*", "head.*"]}
        found[f"mini_{k}shot"] = learner(net=small, first_order=False, **steps), data
        found[f"mini_{k}shot_first_order"] = learner(net=small, first_order=True, **steps), data
        found[f"mini_{k}shot_fine_tuning"] = classifier("fine_tuning"), data
        found[f"mini_{k}shot_nearest_neighbour"] = classifier("nearest_neighbour"), data
    for base in [name for name in found if re.fullmatch(r"(omniglot_.*|mini)_\dshot", name)]:
        for method, net in EPISODIC.items():
            if base.startswith(EPISODIC_ON.get(method, "omniglot")):
                solving = learner("EpisodicLearner", network(net, "baselines"))
                found[f"{base}_{method}"] = solving, data_of(f"{base}_{method}")
    for task, environment in ENVIRONMENTS.items():
        context = ["_context"] if task in ("point", "cheetah_direction") else []
        for method in ("", "_pretrained", "_random", "_oracle", *context):
            found[f"{task}{method}"] = policy(task, environment, method), rl_data(task)
    return found


EPISODIC = {
    "mann": "MANN",
    "meta_lstm": "MetaLSTM",
    "memory_module": "MemoryModule",
    "statistician": "NeuralStatistician",
    "siamese": "SiameseNets",
    "matching": "MatchingNets",
    "prototypical": "PrototypicalNets",
}
IMAGES = ("omniglot", "mini")
EPISODIC_ON = {
    "mann": "omniglot_5way",
    "meta_lstm": "mini",
    "matching": IMAGES,
    "prototypical": IMAGES,
}
ENVIRONMENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "point": ("Point", {"reward": "distance", "horizon": 100}),
    "cheetah_velocity": ("HalfCheetah", {"task": "velocity", "horizon": 200}),
    "cheetah_direction": ("HalfCheetah", {"task": "direction", "horizon": 200}),
    "ant_velocity": ("Ant", {"task": "velocity", "horizon": 200}),
    "ant_direction": ("Ant", {"task": "direction", "horizon": 200}),
}
TRAJECTORIES = {"cheetah_velocity": 10, "ant_direction": 40}  # of the others 20


def rl_data(task: str) -> dict[str, Any]:
    given = {"meta_batch_size": 20 if task == "point" else 40, "seed": 0}
    return {"class_path": "datamodules.RLTasks", "init_args": given}


def policy(task: str, environment: tuple[str, dict[str, Any]], method: str) -> dict[str, Any]:
    """A MetaPolicy as a result has it."""
    name, arguments = environment
    inside = {"task_in_observation": method == "_oracle", **arguments}
    net = "lightning_maml.rl.GaussianMLP"
    if method == "_context":
        net = "lightning_maml.models.ContextVector"
    settings = {
        "policy": {"class_path": net, "init_args": {}},
        "environment": {"class_path": f"lightning_maml.rl.envs.{name}", "init_args": inside},
        "inner_lr": 0.1,
        "trajectories": TRAJECTORIES.get(task, 20),
        "inner_steps": 0 if method in ("_pretrained", "_oracle") else 1,
        "adapts": ["context"] if method == "_context" else ["*"],
    }
    return {"class_path": "lightning_maml.rl.MetaPolicy", "init_args": settings}


def result(name: str, **changes: Any) -> dict[str, Any]:
    """The content of a result file of an experiment; made-up numbers that differ by experiment."""
    model, data = settings()[name]
    acting = name.startswith(tuple(ENVIRONMENTS))
    regression = name.startswith("sinusoid")
    steps = list(range(11 if regression or name.startswith("mini") else 6))
    level = 1 + sum(map(ord, name)) % 97
    mean = [3 * math.exp(-k / level) if regression else 0.9 - 1 / (level + k + 2) for k in steps]
    content = {
        "metric": "mse" if regression else "accuracy",
        "tasks": 40 if acting else 600,
        "fingerprint": "0123456789abcdef",
        "steps": steps,
        "mean": mean,
        "ci95": [m / 20 for m in mean],
        "median": [m / 2 for m in mean],
        "diverged": [0 for _ in steps],
        "checkpoint": "last.ckpt",
        "meta_updates": 0 if name.endswith("_random") else 70_000,
        "model": model,
        "data": data,
        "seed": 0,
        "command": f"train.py test --ckpt_path runs/{name}/last.ckpt",
        "date": "2026-11-20T10:00:00+00:00",
        "git": {"commit": "c0ffee" * 6 + "beef", "dirty": False},
        "versions": {"python": "3.11.7", "torch": "2.14.1", "lightning": "2.6.6"},
        "device": {"type": "cpu", "name": "A CPU", "precision": "32-true", "processes": 1},
        "per_task": "test_result_tasks.csv",
        "fits": None,
    }
    return {**content, **changes}


def fits() -> dict[str, Any]:
    """Fits of 20 tasks that move from 0 to a sine in ten steps."""
    x = [-5 + k / 5 for k in range(51)]
    tasks = []
    for t in range(20):
        y = [(1 + t % 5) * math.sin(v - t / 7) for v in x]
        outputs = {str(k): [v * k / 10 for v in y] for k in (0, 1, 10)}
        support = {"support_x": x[5:15:2], "support_y": y[5:15:2]}
        tasks.append({**support, "query_x": x, "query_y": y, "outputs": outputs})
    return {"fingerprint": "0123456789abcdef", "steps": [0, 1, 10], "tasks": tasks}


def tracks() -> dict[str, Any]:
    """Trajectories of four tasks: around the start, and to the goal in ten steps."""
    tasks = []
    for t in range(4):
        goal = [0.4 - 0.2 * t, 0.1 * t - 0.3]
        before = [[[0.0, 0.0], [0.1, 0.02 * t]], [[0.0, 0.0], [0.0, -0.1]]]
        after = [[[k / 10 * x for x in goal] for k in range(11)]]
        tasks.append({"goal": goal, "tracks": {"0": before, "3": after}})
    return {"fingerprint": "0123456789abcdef", "steps": [0, 3], "tasks": tasks}


Store = Callable[..., Path]


def store(folder: Path, name: str, place: str | None = None, **changes: Any) -> Path:
    """Write a result file into a folder of its own, and the fits that figures take."""
    content = result(name, **changes)
    path = folder / (place or name) / "test_result.json"
    path.parent.mkdir(parents=True)
    regression = name.startswith(("sinusoid_maml", "sinusoid_pretrained"))
    if "fits" not in changes and (regression or name in ("point", "point_pretrained")):
        content["fits"] = "test_result_fits.json"
        drawn = json.dumps(fits() if regression else tracks())
        path.with_name("test_result_fits.json").write_text(drawn, encoding="utf-8")
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a result of every experiment but those of reinforcement learning."""
    folder = tmp_path_factory.mktemp("results")
    for name in settings():
        store(folder, name)
    return folder
