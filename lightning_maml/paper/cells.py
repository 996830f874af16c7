"""Which run fills which cell: the one list that tables, figures and missing commands share.

An experiment is one test of one trained model: how its result is recognised by the recorded
settings (results.py), which settings the paper has, and which commands make it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

TEST_TASKS, PRECISION = 600, "32-true"


@dataclass(frozen=True)
class Experiment:
    """One test result that the paper has a number or a line for.

    Attributes:
        method: see methods.py
        needs: settings that tell it from other experiments of the method; None: any result
        paper: the paper's settings; a result that has others is shown with them
        updates: the paper's number of meta-updates, of other systems that of the full config; None
            where there is none
        config: name of the file in configs/, without its ending
        checkpoint: of a run, the one that is tested: "best" on the validation tasks, or "last";
            empty where nothing is trained
        test_tasks: how many the paper has
        reference: whose settings `paper` has; of other systems the config's, as their papers leave
            some open
        test_flags: what `test` is given beside the checkpoint
        fit_flags: what `fit` is given beside the config
    """

    name: str
    method: str
    needs: Mapping[str, Any]
    config: str
    updates: int | None = None
    paper: Mapping[str, Any] = field(default_factory=dict)
    test_flags: tuple[str, ...] = ()
    fit_flags: tuple[str, ...] = ()
    checkpoint: str = "best"
    test_tasks: int = TEST_TASKS
    reference: str = "the paper"

    @property
    def commands(self) -> tuple[str, ...]:
        """How to make it: fit, then test (of the config's newest run)."""
        data = () if self.config.startswith(("sinusoid", *RL_TASKS)) else DATA_FLAG
        fit = ("python train.py fit", f"--config configs/{self.config}.yaml", *self.fit_flags)
        test = ("python train.py test", f"--config configs/{self.config}.yaml")
        if not self.checkpoint:
            return (" ".join((*test, *data, *self.test_flags)),)
        more = (f"--ckpt_path {self.checkpoint}", *self.test_flags)
        return " ".join((*fit, *data)), " ".join((*test, *data, *more))


DATA_FLAG = ("--data.root DATA",)
_POINT, _CHEETAH, _ANT = (
    {"environment": f"lightning_maml.{name}"} for name in ("Point", "HalfCheetah", "Ant")
)
RL_TASKS: Final[dict[str, dict[str, Any]]] = {
    "point": {**_POINT, "environment.reward": "distance"},
    "cheetah_velocity": {**_CHEETAH, "environment.task": "velocity"},
    "cheetah_direction": {**_CHEETAH, "environment.task": "direction"},
    "ant_velocity": {**_ANT, "environment.task": "velocity"},
    "ant_direction": {**_ANT, "environment.task": "direction"},
}
RL_UPDATES: Final = {
    "point": 100,
    "cheetah_velocity": 475,
    "cheetah_direction": 100,
    "ant_velocity": 375,
    "ant_direction": 500,
}
RL_BATCHES: Final = {  # tasks of a meta-update, and trajectories in each
    "point": (20, 20),
    "cheetah_velocity": (40, 10),
    "cheetah_direction": (40, 20),
    "ant_velocity": (40, 20),
    "ant_direction": (40, 40),
}
RL_HORIZONS: Final = {task: 100 if task == "point" else 200 for task in RL_TASKS}
PRETRAINING_UPDATES: Final = {
    "point": 100,
    "cheetah_velocity": 1000,
    "cheetah_direction": 1000,
    "ant_velocity": 2000,
    "ant_direction": 2000,
}
RANDOM_STEP_SIZES: Final = {
    "point": 0.5,
    "cheetah_velocity": 0.1,
    "cheetah_direction": 1.0,
    "ant_velocity": 1.0,
    "ant_direction": 1.0,
}
META_LEARNED = ("maml", "first_order", "context_vector")
SINUSOID_MODEL = {"network.hidden": [40, 40], "data.x_range": [-5, 5]}


def experiment_name(task: str, method: str) -> str:
    """How experiments, configs and runs of a task are called: MAML's by the task alone.

    >>> experiment_name("point", "MAML"), experiment_name("point", "oracle")
    ('point', 'point_oracle')
    """
    return task if method.lower() == "maml" else f"{task}_{method}"


def _sinusoid(
    method: str, k_shot: int, half: bool = False, paper: Mapping[str, Any] | None = None
) -> Experiment:
    """Sec. 5.1: `half`: all support points in the right half of the range (Fig. 2)."""
    flags = [f"--data.k_shot {k_shot}"]
    bounds = [0, 5] if half else None
    if half:
        flags.append("--data.support_range '[0, 5]'")
    return Experiment(
        name=f"sinusoid_{method}_k{k_shot}{'_half' if half else ''}",
        method=method,
        needs={"data": "datamodules.Sinusoid", "data.k_shot": k_shot, "data.support_range": bounds},
        config=experiment_name("sinusoid", method),
        updates=70_000,
        paper={**SINUSOID_MODEL, **(paper or {})},
        test_flags=tuple(flags),
        # Validation judges the baselines by a step size that test does not use.
        checkpoint="best" if method in META_LEARNED else "last",
    )


def _sinusoid_context() -> Experiment:
    """App. C.2; the network is within another."""
    one = _sinusoid("context_vector", 10)
    return replace(one, paper={"data.x_range": SINUSOID_MODEL["data.x_range"]})


def _multi_task(method: str) -> Experiment:
    """App. C.1: 500 models, averaged; a meta-update is a model."""
    one = _sinusoid(method, 5)
    return replace(one, name=f"sinusoid_{method}", updates=500)


def _omniglot(n_way: int, k_shot: int, network: str = "Conv4", suffix: str = "") -> Experiment:
    """Sec. 5.2: 5-way 1 step at 0.4; 20-way 5 steps at 0.1."""
    name = f"omniglot_{n_way}way_{k_shot}shot{suffix}"
    steps, inner_lr, tasks = (1, 0.4, 32) if n_way == 5 else (5, 0.1, 16)
    context = network == "ContextVector"
    return Experiment(
        name=name,
        method="context_vector" if context else "maml",
        needs={
            "data": "datamodules.Omniglot",
            "data.n_way": n_way,
            "data.k_shot": k_shot,
            "network": f"lightning_maml.{network}",
        },
        config=name,
        updates=60_000,
        paper={
            "data.meta_batch_size": tasks,
            "model.inner_steps": steps,
            **({} if context else {"model.inner_lr": inner_lr}),
        },
    )


def _mini(k_shot: int, method: str = "maml") -> Experiment:
    """Sec. 5.2: 5 inner steps at 0.01 in training, 10 in test."""
    name = experiment_name(f"mini_{k_shot}shot", method)
    return Experiment(
        name=name,
        method=method,
        needs={"data": "datamodules.MiniImagenet", "data.n_way": 5, "data.k_shot": k_shot},
        config=name,
        updates=60_000,
        paper={
            "data.meta_batch_size": 4 if k_shot == 1 else 2,
            "network.channels": 32,
            "model.inner_lr": 0.01,
            "model.inner_steps": 5,
        },
    )


def _classifier(k_shot: int, method: str) -> Experiment:
    """Table 1's baselines of mini-ImageNet, of Ravi and Larochelle (2017): one trained network."""
    one, flags = _mini(k_shot, method), [f"--data.k_shot {k_shot}"]
    if method != "fine_tuning":
        flags.append(f"--model.classify_by {method}")
    return replace(one, config="mini_classifier", updates=30_000, paper={}, test_flags=tuple(flags))


# Settings of another system's network in its configs, but for those in `_of_network`.
OF_NETWORK: Final[dict[str, dict[str, Any]]] = {
    "mann": {"image_size": 20, "hidden": 200, "slots": 128, "width": 40, "heads": 4, "decay": 0.95},
    "matching": {"distance": "cosine", "scale": 1.0},
    "memory_module": {"slots": 256, "margin": 0.1},
    "meta_lstm": {"hidden": 20},
    "prototypical": {"scale": 1.0},
    "siamese": {"class_score": "mean"},
    "statistician": {"channels": 64, "context": 512, "latent": 16, "hidden": 256},
}

# Tasks of an update in its configs: of Omniglot with 5 and with 20 classes, of mini-ImageNet.
_TASKS: Final[dict[str, tuple[int | None, int | None, int | None]]] = {
    "mann": (16, None, None),
    "matching": (8, 2, 1),
    "memory_module": (16, 16, None),
    "meta_lstm": (None, None, 1),
    "prototypical": (8, 2, 4),
    "siamese": (8, 2, None),
    "statistician": (6, 2, None),
}


def _of_network(like: Experiment, method: str) -> dict[str, Any]:
    found = dict(OF_NETWORK.get(method, {}))
    if method == "matching":
        found["context_steps"] = 3 if like.config.startswith("mini") else 0
    if method == "meta_lstm":
        found["steps"] = 12 if like.needs["data.k_shot"] == 1 else 8
    return {f"network.{name}": value for name, value in found.items()}


def _episodic(like: Experiment, method: str, updates: int = 20_000) -> Experiment:
    """Another system of Table 1, or prototypical nets, on the tasks of an experiment."""
    name = f"{like.name}_{method}"
    column = 2 if name.startswith("mini") else int(like.needs["data.n_way"] == 20)
    return replace(
        like,
        name=name,
        method=method,
        needs={key: value for key, value in like.needs.items() if key != "network"},
        config=name,
        updates=updates,
        paper={"data.meta_batch_size": _TASKS[method][column], **_of_network(like, method)},
        reference="the config",
    )


def _rl(task: str, method: str) -> Experiment:
    """Sec. 5.3, App. A.2; the authors' numbers of meta-updates, and the step sizes they tuned."""
    name = experiment_name(task, method)
    paper: dict[str, Any] = {"environment.horizon": RL_HORIZONS[task]}
    if method in ("MAML", "context"):
        tasks, trajectories = RL_BATCHES[task]
        paper |= {"data.meta_batch_size": tasks, "model.trajectories": trajectories}
    if method == "MAML":
        paper |= {"model.inner_lr": 0.1, "model.discount": 0.99}
    one = Experiment(
        name=name,
        method={"MAML": "maml", "context": "context_vector"}.get(method, method),
        needs=RL_TASKS[task],
        config=name,
        updates=RL_UPDATES[task],
        paper=paper,
        test_tasks=40,
    )
    if method in ("pretrained", "oracle"):
        return replace(one, updates=PRETRAINING_UPDATES[task])
    if method == "random":  # a policy as it is drawn
        alpha = RANDOM_STEP_SIZES[task]
        later = alpha * (0.01 if task == "ant_direction" else 0.5)
        flags = (f"--model.inner_lr {alpha:g}", f"--model.later_inner_lr {later:g}")
        return replace(one, config=task, updates=0, checkpoint="", test_flags=flags)
    return one


RL_METHODS: Final = ("MAML", "pretrained", "random", "oracle")  # as the figures call them
_MAML = {"model.inner_lr": 0.01, "model.inner_steps": 1}

EXPERIMENTS: Final = {
    one.name: one
    for one in (
        *(_sinusoid("maml", k, paper=_MAML) for k in (5, 10, 20)),
        *(_sinusoid("maml", k, True, _MAML) for k in (5, 10)),
        *(_sinusoid("pretrained", k) for k in (5, 10, 20)),
        *(_sinusoid("pretrained", k, True) for k in (5, 10)),
        *(_sinusoid("oracle", k) for k in (5, 10, 20)),
        _sinusoid_context(),
        *(_multi_task(f"multi_task{kind}") for kind in ("", "_l2", "_l2_to_mean")),
        *(_omniglot(n_way, k) for n_way in (5, 20) for k in (1, 5)),
        *(_omniglot(5, k, "OmniglotDense", "_dense") for k in (1, 5)),
        *(_omniglot(5, k, "ContextVector", "_context_vector") for k in (1, 5)),
        *(_mini(k, method) for method in ("maml", "first_order") for k in (1, 5)),
        *(
            _classifier(k, method)
            for method in ("fine_tuning", "nearest_neighbour")
            for k in (1, 5)
        ),
        *(
            _episodic(_omniglot(n_way, k), method)
            for method in ("siamese", "matching", "prototypical")
            for n_way in (5, 20)
            for k in (1, 5)
        ),
        *(_episodic(_omniglot(5, k), "mann", 100_000) for k in (1, 5)),
        *(
            _episodic(_omniglot(n_way, k), method, updates)
            for method, updates in (("statistician", 150_000), ("memory_module", 100_000))
            for n_way in (5, 20)
            for k in (1, 5)
        ),
        *(_episodic(_mini(k), "matching", 75_000) for k in (1, 5)),
        *(_episodic(_mini(k), "meta_lstm", 75_000 if k == 1 else 50_000) for k in (1, 5)),
        *(_episodic(_mini(k), "prototypical") for k in (1, 5)),
        *(_rl(task, method) for task in RL_TASKS for method in RL_METHODS),
        _rl("point", "context"),
        _rl("cheetah_direction", "context"),
    )
}

LAST = -1  # the last inner step of a result
Source = tuple[str, int]  # name of an experiment, and after how many inner steps


def _steps(name: str, *steps: int) -> tuple[Source, ...]:
    return tuple((name, step) for step in steps)


def _shots(name: str, step: int) -> tuple[Source, ...]:
    return tuple((name.format(k=k), step) for k in (1, 5))


def _ways_and_shots(method: str) -> tuple[Source, ...]:
    return tuple((f"omniglot_{n}way_{k}shot_{method}", LAST) for n in (5, 20) for k in (1, 5))


# Table of reported.py -> row -> what fills each column; rows that are not here are other systems.
SOURCES: Final[dict[str, dict[str, tuple[Source, ...]]]] = {
    "table1.omniglot": {
        "MAML, no conv": _shots("omniglot_5way_{k}shot_dense", 3),
        "MANN, no conv": _shots("omniglot_5way_{k}shot_mann", LAST),
        "Siamese nets": _ways_and_shots("siamese"),
        "matching nets": _ways_and_shots("matching"),
        "neural statistician": _ways_and_shots("statistician"),
        "memory module": _ways_and_shots("memory_module"),
        "MAML": (*_shots("omniglot_5way_{k}shot", 3), *_shots("omniglot_20way_{k}shot", 5)),
    },
    "table1.omniglot_prototypical": {"prototypical nets": _ways_and_shots("prototypical")},
    "table1.mini_imagenet": {
        "fine-tuning": _shots("mini_{k}shot_fine_tuning", LAST),
        "nearest neighbour": _shots("mini_{k}shot_nearest_neighbour", LAST),
        "matching nets": _shots("mini_{k}shot_matching", LAST),
        "meta-learner LSTM": _shots("mini_{k}shot_meta_lstm", LAST),
        "first-order MAML": _shots("mini_{k}shot_first_order", 10),
        "MAML": _shots("mini_{k}shot", 10),
    },
    "table1.mini_imagenet_prototypical": {
        "prototypical nets": _shots("mini_{k}shot_prototypical", LAST)
    },
    "table2": {
        "multi-task, no regularisation": _steps("sinusoid_multi_task", 1, 5, 10),
        "multi-task, l2": _steps("sinusoid_multi_task_l2", 1, 5, 10),
        "multi-task, l2 to mean theta": _steps("sinusoid_multi_task_l2_to_mean", 1, 5, 10),
        "pretrain on all tasks": _steps("sinusoid_pretrained_k5", 1, 5, 10),
        "MAML": _steps("sinusoid_maml_k5", 1, 5, 10),
    },
    "table3": {
        "context vector": _shots("omniglot_5way_{k}shot_context_vector", 3),
        "MAML": _shots("omniglot_5way_{k}shot", 3),
    },
    "table3.sinusoid": {
        "context vector": _steps("sinusoid_context_vector_k10", 1, 5, 10),
        "MAML": _steps("sinusoid_maml_k10", 1, 5, 10),
    },
    "table4": {
        "context vector": _steps("point_context", 0, 1, 2, 3),
        "MAML": _steps("point", 0, 1, 2, 3),
    },
    "table5": {
        "context vector": _steps("cheetah_direction_context", 0, 1, 2, 3),
        "MAML": _steps("cheetah_direction", 0, 1, 2, 3),
    },
}
