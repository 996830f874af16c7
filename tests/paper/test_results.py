"""Result files are read or refused by name, and go to the experiment that their settings say."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from lightning_maml.paper.book import Value, experiment_of, sort_results
from lightning_maml.paper.cells import EXPERIMENTS, SOURCES
from lightning_maml.paper.contents import PARTS, needs
from lightning_maml.paper.markdown import run_commands
from lightning_maml.paper.results import read_fits, read_result, read_results
from tests.paper.conftest import IMAGE, learner, network, result, settings, sinusoid, store

CONFIGS = Path(__file__).parents[2] / "configs"
LATER = "2026-11-21T10:00:00+00:00"


def read(folder: Path, name: str, **changes: Any):
    return read_result(store(folder, name, place=str(len(list(folder.iterdir()))), **changes))


@pytest.mark.parametrize("name", settings())
def test_each_setting_has_its_experiment(name, tmp_path) -> None:
    experiment, why = experiment_of(read(tmp_path, name))
    assert experiment is not None, why
    assert experiment.name == name


def test_every_experiment_was_tried() -> None:
    assert set(EXPERIMENTS) == set(settings())


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": learner(inner_steps=1, learn_inner_lr="per_tensor")}, "learn_inner_lr"),
        ({"model": learner(inner_steps=1, adapts=["head.*"])}, "adapts ['head.*']"),
        ({"model": learner(net=network("EpisodeHead"), inner_steps=1)}, "EpisodeHead"),
        ({"model": learner(inner_steps=1, inner_rule="adam")}, "inner_rule"),
        ({"model": learner(inner_steps=5, step_weights=[1, 2])}, "step_weights"),
        ({"model": learner(inner_steps=0)}, "inner steps"),
        ({"model": learner(net=network("ContextVector"), inner_steps=1, **IMAGE)}, "context"),
        ({"model": learner("ProtoNet")}, "lightning_maml.ProtoNet"),
        ({"model": learner("MultiTaskAverage", regularization="l1")}, "regularization 'l1'"),
        ({"model": learner(inner_steps=1, first_order=True)}, "first_order"),
        ({"data": sinusoid(7)}, "k_shot 7"),
        ({"data": sinusoid(10, support_range=[1.0, 2.0])}, "support_range"),
        ({"data": sinusoid(10, task_in_input=True)}, "oracle"),
        ({"data": None}, "data"),
        ({"model": {"class_path": "mine.Learner", "init_args": {}}}, "mine.Learner"),
    ],
)
def test_what_is_not_the_papers_is_listed(changes, why, tmp_path) -> None:
    store(tmp_path, "sinusoid_maml_k10", **changes)
    book = sort_results(read_results(tmp_path))
    assert not book.chosen
    ((one, reason),) = book.unknown
    assert one.name == "sinusoid_maml_k10/test_result.json"
    assert why in reason


def test_class_paths_may_name_the_file(tmp_path) -> None:
    """A learner made in Python is recorded by the file it is in."""
    model = {**result("sinusoid_maml_k10")["model"]}
    model["class_path"] = "lightning_maml.meta_learner.MetaLearner"
    data = {**sinusoid(10), "class_path": "datamodules.sinusoid.Sinusoid"}
    experiment, _ = experiment_of(read(tmp_path, "sinusoid_maml_k10", model=model, data=data))
    assert experiment is EXPERIMENTS["sinusoid_maml_k10"]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_config_of_a_command_gives_a_result_of_its_experiment(name, tmp_path) -> None:
    """And one that departs from the paper in nothing."""
    experiment = EXPERIMENTS[name]
    config = yaml.safe_load((CONFIGS / f"{experiment.config}.yaml").read_text(encoding="utf-8"))
    for flag in experiment.test_flags:
        key, _, value = flag.removeprefix("--").partition(" ")
        part, _, name_of = key.partition(".")
        assert name_of in config[part]["init_args"]
        config[part]["init_args"][name_of] = yaml.safe_load(value.strip("'"))
    found = {part: config[part] for part in ("model", "data")}
    updates = config["trainer"]["max_steps"] if experiment.checkpoint else 0
    assert updates == experiment.updates
    changes = {"meta_updates": updates, **found}
    some = "sinusoid_maml_k5" if name.startswith("sinusoid") else "mini_1shot"
    changes["tasks"] = experiment.test_tasks
    store(tmp_path, some, **changes)
    ((taken, chosen),) = sort_results(read_results(tmp_path)).chosen.items()
    assert (taken, chosen.departures, chosen.shortened) == (name, (), "")


def test_every_source_is_an_experiment_and_every_experiment_is_used() -> None:
    named = {name for rows in SOURCES.values() for row in rows.values() for name, _ in row}
    assert named <= set(EXPERIMENTS)
    assert {name for part in PARTS.values() for name in part.experiments} == set(EXPERIMENTS)


# -- which result is taken --------------------------------------------------------------------


def book_of(folder: Path):
    return sort_results(read_results(folder))


def chosen_of(folder: Path):
    (chosen,) = book_of(folder).chosen.values()
    return chosen


@pytest.mark.parametrize("flag", ["--config ", "--config=", "-c "])
def test_a_network_of_another_config_is_named_and_comes_last(flag, tmp_path) -> None:
    name = "omniglot_20way_1shot_siamese"
    fit = f"train.py fit {flag}configs/omniglot_{{}}_siamese_short.yaml"
    other = fit.format("5way_1shot") + " --trainer.precision bf16-mixed"
    store(tmp_path, name, "other", training_commands=[other], meta_updates=9_000)
    facts = chosen_of(tmp_path).facts
    assert "trained by omniglot_5way_1shot_siamese_short.yaml, on its tasks" in facts
    assert "trained in bf16-mixed" in facts
    lacking = {need.what: need.why for need in needs(PARTS["table1"], book_of(tmp_path))}
    assert lacking[name] == "only a result of omniglot_5way_1shot_siamese_short.yaml's network"
    assert lacking["omniglot_20way_5shot_siamese"] == "no result"
    store(tmp_path, name, "own", training_commands=[fit.format("20way_1shot")], meta_updates=1_000)
    chosen = chosen_of(tmp_path)
    assert [one.name for one in chosen.results] == ["own/test_result.json"]
    assert not any("trained" in fact for fact in chosen.facts)
    assert name not in {need.what for need in needs(PARTS["table1"], book_of(tmp_path))}
    assert chosen.facts[-1] == (
        "taken for its own config, then the most meta-updates, then the newest; not taken: "
        "other/test_result.json (9,000 meta-updates)"
    )


def test_most_meta_updates_then_the_newest(tmp_path) -> None:
    name = "sinusoid_maml_k5"
    store(tmp_path, name, "new_but_short", meta_updates=30_000, date=LATER)
    store(tmp_path, name, "old")
    store(tmp_path, name, "newest", date=LATER)
    chosen = chosen_of(tmp_path)
    assert [one.name for one in chosen.results] == ["newest/test_result.json"]
    assert chosen.facts[-1] == (
        "taken for its most meta-updates, then the newest; not taken: "
        "old/test_result.json (70,000 meta-updates), "
        "new_but_short/test_result.json (30,000 meta-updates)"
    )
    assert chosen.shortened == ""


def test_a_shortened_run_says_so(tmp_path) -> None:
    store(tmp_path, "omniglot_5way_1shot", meta_updates=4_000)
    assert chosen_of(tmp_path).shortened == "4,000 of 60,000"
    assert chosen_of(tmp_path).facts[0] == "4,000 of 60,000 meta-updates"


def test_seeds_are_averaged_and_counted(tmp_path) -> None:
    name, ci95 = "mini_5shot", [0.01] * 11
    for seed in range(3):
        store(tmp_path, name, f"{seed}", seed=seed, mean=[0.2 + 0.1 * seed] * 11, ci95=ci95)
    store(tmp_path, name, "other_seed_but_short", seed=3, meta_updates=100)
    store(tmp_path, name, "other_setting", seed=4, tasks=100)
    chosen = chosen_of(tmp_path)
    value = chosen.value(10)
    assert value.mean == pytest.approx(0.3)
    assert value.ci95 == pytest.approx(0.01)
    assert "mean of 3 seeds: 0, 1, 2" in chosen.facts
    assert len(chosen.passed_over) == 2


def test_a_tuned_step_size_is_named(tmp_path) -> None:
    tuning = {"fine_tuning_lrs": [0.01, 0.02], "val_means": [2.0, 1.0], "chosen": 0.02}
    store(tmp_path, "sinusoid_pretrained_k5", tuning=tuning)
    assert "step size chosen on validation tasks: 0.02" in chosen_of(tmp_path).facts


def test_departures_are_named(tmp_path) -> None:
    content = result("omniglot_20way_1shot")
    content["model"]["init_args"]["inner_lr"] = 0.5
    bf16 = {**content["device"], "precision": "bf16-mixed"}
    store(tmp_path, "omniglot_20way_1shot", model=content["model"], tasks=100, device=bf16)
    assert chosen_of(tmp_path).departures == (
        "model.inner_lr 0.5 where the paper has 0.1",
        "100 test tasks where the paper has 600",
        "precision bf16-mixed, not 32-true",
    )


@pytest.mark.parametrize(
    ("part", "key", "value", "paper"),
    [
        ("data", "meta_batch_size", 7, 40),
        ("model", "trajectories", 7, 20),
        ("environment", "horizon", 7, 200),
    ],
)
@pytest.mark.parametrize("name", ["cheetah_direction", "cheetah_direction_context"])
def test_other_amounts_of_experience_are_departures(name, part, key, value, paper, tmp_path):
    content = result(name)
    place = content["model" if part == "environment" else part]["init_args"]
    place = place["environment"]["init_args"] if part == "environment" else place
    assert chosen_of(store(tmp_path, name, "paper").parent).departures == ()
    place[key] = value
    store(tmp_path, name, "other", model=content["model"], data=content["data"], date=LATER)
    said = f"{part}.{key} {value} where the paper has {paper}"
    assert chosen_of(tmp_path).departures == (said,)


@pytest.mark.parametrize(
    ("name", "key", "value", "ours"),
    [
        ("omniglot_5way_1shot_siamese", "class_score", "nearest", "mean"),
        ("omniglot_5way_1shot_matching", "context_steps", 3, 0),
        ("mini_5shot_matching", "context_steps", 0, 3),
        ("mini_1shot_matching", "scale", 10.0, 1.0),
        ("omniglot_5way_1shot_prototypical", "scale", 0.5, 1.0),
        ("omniglot_5way_5shot_mann", "slots", 16, 128),
        ("omniglot_20way_1shot_statistician", "context", 8, 512),
        ("omniglot_20way_1shot_memory_module", "margin", 0.2, 0.1),
        ("mini_1shot_meta_lstm", "steps", 8, 12),
        ("mini_5shot_meta_lstm", "steps", 12, 8),
    ],
)
def test_other_settings_of_another_systems_network_are_named(name, key, value, ours, tmp_path):
    config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    config["model"]["init_args"]["model"]["init_args"][key] = value
    store(tmp_path, name, model=config["model"])
    said = f"network.{key} {value} where the config has {ours}"
    assert chosen_of(tmp_path).departures == (said,)


def test_fewer_tasks_of_another_systems_update_are_named(tmp_path) -> None:
    name = "omniglot_5way_1shot_siamese"
    data = result(name)["data"]
    data["init_args"]["meta_batch_size"] = 2
    store(tmp_path, name, data=data)
    assert chosen_of(tmp_path).departures == ("data.meta_batch_size 2 where the config has 8",)


@pytest.mark.parametrize("size", ["n_way", "k_shot"])
def test_what_counts_are_the_classes_and_shots_of_the_test_tasks(size, tmp_path) -> None:
    name = "mini_1shot_prototypical"
    data = result(name)["data"]
    data["init_args"] |= {f"eval_{size}": data["init_args"][size], size: 20}
    store(tmp_path / "other", name, data=data)
    one = chosen_of(tmp_path / "other")
    assert (one.experiment.name, one.departures) == (name, (f"trained with {size} 20",))
    data["init_args"][size] = data["init_args"][f"eval_{size}"]
    store(tmp_path / "same", name, data=data)
    assert chosen_of(tmp_path / "same").departures == ()


@pytest.mark.parametrize("method", ["pretrained", "random", "oracle"])
def test_another_horizon_is_a_departure_of_every_method(method, tmp_path) -> None:
    content = result(f"point_{method}")
    content["model"]["init_args"]["environment"]["init_args"]["horizon"] = 50
    store(tmp_path, f"point_{method}", model=content["model"])
    said = "environment.horizon 50 where the paper has 100"
    assert chosen_of(tmp_path).departures == (said,)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("point_oracle", "the task in the observation belongs to the oracle, which is trained"),
        ("point_context", "the random policy has no context vector"),
    ],
)
def test_what_is_untrained_is_not_always_the_random_policy(name, said, tmp_path) -> None:
    store(tmp_path, name, meta_updates=0)
    book = sort_results(read_results(tmp_path))
    assert not book.chosen
    ((_, reason),) = book.unknown
    assert reason == said


def test_values_where_tasks_diverged_and_steps_that_are_not_there(tmp_path) -> None:
    steps = {"steps": [0, 1], "mean": [2.0, None], "ci95": [0.1, None], "median": [1.5, 0.5]}
    store(tmp_path, "sinusoid_maml_k5", **steps, diverged=[0, 3])
    chosen = chosen_of(tmp_path)
    assert chosen.value(0) == Value(2.0, 0.1, 1.5, 0)
    assert chosen.value(1) == Value(None, None, 0.5, 3)
    assert chosen.value(-1) == chosen.value(1)
    assert (
        chosen.value(5).absent == "sinusoid_maml_k5/test_result.json has no 5 inner steps, only 1"
    )
    assert "diverged: 3 of 600 tasks at the worst step" in chosen.facts


# -- malformed files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": None}, "`steps` must be a list, got None"),
        ({"mean": [1.0]}, "`mean` must hold 11 numbers, got 1"),
        ({"mean": ["high"] * 11}, "`mean` must hold numbers or null, got 'high'"),
        ({"steps": []}, "`steps` must hold at least one number, got 0"),
        ({"tasks": "many"}, "`tasks` must be an integer, got 'many'"),
        ({"meta_updates": 0.5}, "`meta_updates` must be an integer, got 0.5"),
        ({"command": 3}, "`command` must be text, got 3"),
        ({"model": {"class_path": 3}}, "`class_path` must be text, got 3"),
        ({"model": []}, "`model` must be an object, got []"),
    ],
)
def test_a_malformed_file_is_named_with_its_key(changes, says, tmp_path) -> None:
    path = store(tmp_path, "sinusoid_maml_k10", **changes)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {says}.")):
        read_results(tmp_path)


@pytest.mark.parametrize("key", ["metric", "mean", "ci95", "model", "versions", "device", "date"])
def test_a_missing_key_is_named(key, tmp_path) -> None:
    path = store(tmp_path, "sinusoid_maml_k10")
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"test_result.json: `{key}` is missing; it must be"):
        read_results(tmp_path)


def test_what_is_no_json_and_no_folder(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"`--results` must be a folder"):
        read_results(tmp_path / "nowhere")
    (tmp_path / "test_result_2.json").write_text("{")
    with pytest.raises(ValueError, match=r"test_result_2.json: must be a JSON file"):
        read_results(tmp_path)
    (tmp_path / "test_result_2.json").write_text("[]")
    with pytest.raises(ValueError, match=r"must hold one JSON object, got list"):
        read_results(tmp_path)


def test_a_training_s_own_commands_are_shown_where_known(tmp_path) -> None:
    fits = ["train.py fit --config a.yaml", "train.py fit --config a.yaml --ckpt_path last"]
    known = store(tmp_path / "known", "point", training_commands=fits)
    unknown = store(tmp_path / "unknown", "point", training_commands=None)
    shown = [
        run_commands(sort_results(read_results(path.parents[1])).chosen["point"])
        for path in (known, unknown)
    ]
    assert [line.partition("  #")[0] for line in shown[0][:-1]] == [f"python {fit}" for fit in fits]
    assert shown[1][0] == "python train.py fit --config configs/point.yaml  # the config's full run"
    assert shown[0][-1] == shown[1][-1]
    store(tmp_path / "wrong", "point", training_commands=[3])
    with pytest.raises(ValueError, match=r"`training_commands\[0\]` must be text, got 3"):
        read_results(tmp_path / "wrong")


def test_minutes_of_a_training_are_shown_where_known(tmp_path) -> None:
    store(tmp_path / "known", "sinusoid_maml_k5", training_seconds=1_234.5)
    store(tmp_path / "unknown", "sinusoid_maml_k5", training_seconds=None)
    known, unknown = (chosen_of(tmp_path / place).facts[0] for place in ("known", "unknown"))
    assert known == f"{unknown} in 20.6 minutes"
    store(tmp_path / "wrong", "sinusoid_maml_k5", training_seconds="long")
    with pytest.raises(ValueError, match=r"`training_seconds` must hold numbers or null, got 'lo"):
        read_results(tmp_path / "wrong")


def test_fits_are_read_and_checked(tmp_path) -> None:
    path = store(tmp_path, "sinusoid_maml_k5").with_name("test_result_fits.json")
    tasks = read_fits(path)
    assert len(tasks) == 20
    del tasks[3]["query_y"]
    path.write_text(json.dumps({"tasks": tasks}))
    with pytest.raises(ValueError, match=r"test_result_fits.json: `query_y` is missing"):
        read_fits(path)
    with pytest.raises(ValueError, match=r"must be a JSON file of fits"):
        read_fits(tmp_path / "nowhere.json")
