"""Which method of the paper a result is of, by its recorded settings alone.

Classes are told by their names as results have them; none is imported.
"""

from collections.abc import Mapping
from typing import Any, Final

Settings = Mapping[str, Any]  # flat: "model", "model.inner_lr", "network", "data.k_shot", ...

CLASSIFY_BY: Final = ("fine_tuning", "nearest_neighbour")
REGULARIZATION: Final = {
    None: "multi_task",
    "l2": "multi_task_l2",
    "l2_to_mean": "multi_task_l2_to_mean",
}
# Methods without an inner loop, by the network of a lightning_maml.EpisodicLearner.
EPISODIC: Final = {
    "lightning_maml.MANN": "mann",
    "lightning_maml.MatchingNets": "matching",
    "lightning_maml.MemoryModule": "memory_module",
    "lightning_maml.MetaLSTM": "meta_lstm",
    "lightning_maml.NeuralStatistician": "statistician",
    "lightning_maml.PrototypicalNets": "prototypical",
    "lightning_maml.SiameseNets": "siamese",
}
PARTS: Final = {"model": "network", "policy": "network", "environment": "environment"}
OTHER_NETWORKS: Final = ("lightning_maml.EpisodeHead", "lightning_maml.ResNet12")
ADAPTS_A_PART: Final = (["head.*"], ["blocks.*"])  # ANIL and BOIL
# A MetaLearner with other values than these is a method of its own, not the paper's.
NOT_MAML: Final = {
    "model.learn_inner_lr": None,
    "model.eval_inner_lr": None,
    "model.inner_rule": "sgd",
    "model.step_weights": None,
}


def kind(class_path: str) -> str:
    """A class path as package and class: the files between may change.

    >>> kind("lightning_maml.meta_learner.MetaLearner")
    'lightning_maml.MetaLearner'
    """
    parts = class_path.split(".")
    return f"{parts[0]}.{parts[-1]}"


def flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """Model, network, environment and data of a result file as one level of settings.

    >>> flat({"model": {"class_path": "a.b.C", "init_args": {"lr": 1}}, "data": None})
    {'model': 'a.C', 'model.lr': 1}
    """
    found: dict[str, Any] = {}
    for part in ("model", "data"):
        _add(found, part, content.get(part))
    if content.get("meta_updates") == 0:
        found["untrained"] = True
    for name, part in PARTS.items():
        if isinstance(found.get(f"model.{name}"), Mapping):
            _add(found, part, found.pop(f"model.{name}"))
    return found


def _add(found: dict[str, Any], part: str, described: Any) -> None:
    if isinstance(described, Mapping) and isinstance(described.get("class_path"), str):
        found[part] = kind(described["class_path"])
        arguments = described.get("init_args") or {}
        found |= {f"{part}.{name}": value for name, value in arguments.items()}


def method_of(settings: Settings) -> tuple[str | None, str]:
    """The method of the paper, and why it is none where it is None."""
    learner = settings.get("model")
    if learner == "lightning_maml.MetaLearner":
        return _meta_learned(settings)
    if learner == "lightning_maml.MetaPolicy":
        return _policy(settings)
    if settings.get("data.task_in_input") and learner != "lightning_maml.Pretrained":
        return None, "the task in the input belongs to the pretrained oracle"
    if learner == "lightning_maml.Pretrained":
        return ("oracle" if settings.get("data.task_in_input") else "pretrained"), ""
    if learner == "lightning_maml.MultiTaskAverage":
        regularization = settings.get("model.regularization")
        if regularization in REGULARIZATION:
            return REGULARIZATION[regularization], ""
        return None, f"model.regularization {regularization!r} is none of the paper's"
    if learner == "lightning_maml.PretrainedClassifier":
        how = settings.get("model.classify_by")
        return (how, "") if how in CLASSIFY_BY else (None, f"classify_by {how!r} is unknown")
    if learner == "lightning_maml.EpisodicLearner":
        network = settings.get("network")
        method = EPISODIC.get(str(network))
        return method, "" if method else f"the method {network} is none of the table's"
    return None, f"the learner {learner} is none of the paper's"


def _policy(settings: Settings) -> tuple[str | None, str]:
    oracle = bool(settings.get("environment.task_in_observation"))
    if settings.get("untrained"):
        if oracle:
            return None, "the task in the observation belongs to the oracle, which is trained"
        if settings.get("network") == "lightning_maml.ContextVector":
            return None, "the random policy has no context vector"
        return "random", ""
    if not settings.get("model.inner_steps", 1):
        return ("oracle" if oracle else "pretrained"), ""
    if oracle:
        return None, "the task in the observation belongs to the oracle, which has no inner steps"
    return _meta_learned(settings)


def _meta_learned(settings: Settings) -> tuple[str | None, str]:
    for name, usual in NOT_MAML.items():
        if settings.get(name, usual) != usual:
            return None, f"{name} {settings[name]!r}: not the paper's method"
    if settings.get("network") in OTHER_NETWORKS:
        return None, f"the network {settings['network']} is none of the paper's"
    if settings.get("model.adapts") in ADAPTS_A_PART:
        return None, f"model.adapts {settings['model.adapts']!r}: not the paper's method"
    if settings.get("data.task_in_input"):
        return None, "the task in the input belongs to the pretrained oracle"
    if not settings.get("model.inner_steps", 1):
        return None, "no inner steps in training"
    context_only = settings.get("model.adapts") == ["context"]
    if settings.get("network") == "lightning_maml.ContextVector" or context_only:
        if not context_only:
            return None, "a context vector, but `adapts` is not [context]"
        return "context_vector", ""
    return ("first_order" if settings.get("model.first_order") else "maml"), ""
