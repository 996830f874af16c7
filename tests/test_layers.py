"""Imports flow one way: a file imports from lower layers and its own only (docs/design.md)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = {
    0: (
        "argument_types",
        "episode",
        "losses",
        "confidence",
        "fingerprint",
        "not_finite",
        "random_state",
    ),
    1: (
        "inner_rules",
        "joint_operators",
        "inner_loop",
        "step_sizes",
        "start",
        "meta_gradient",
        "autograd_bridge",
        "context_vector",
        "functional_model",
        "compiling",
        "tasks_at_once",
        "engine",
        "meta_update",
    ),
    2: ("models",),
    3: ("meta_learner", "adapted", "task_curve", "run", "baselines", "weights", "rl"),
    4: ("paper",),
    5: ("__init__",),  # gathers the public names, so no other file imports from it
}
LAYER_OF = {part: layer for layer, parts in LAYERS.items() for part in parts}
SEEN_BY_DATA = ("argument_types", "episode")
FREE_OF_LIGHTNING = 3  # layers below it are plain PyTorch


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(source: str, package: str) -> Iterator[str]:
    """Full names that `source`, a file of `package`, imports; of `from a import b` it is `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            above = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def part_of(name: str) -> str:
    """The file or folder of lightning_maml that a full name belongs to."""
    part = name.split(".")[1] if "." in name else "__init__"
    return part if part in LAYER_OF else "__init__"  # `lightning_maml.Episode` is no file


def objection(package: str, part: str, name: str) -> str | None:
    """Why `part` of `package` may not import `name`; None if it may."""
    top = name.split(".")[0]
    here = LAYER_OF.get(part, 0)
    match package, top:
        case _, "train":
            return "nothing imports train.py"
        case "datamodules", "lightning_maml" if part_of(name) not in SEEN_BY_DATA:
            return f"datamodules see {' and '.join(SEEN_BY_DATA)} of lightning_maml only"
        case "lightning_maml", "datamodules":
            return "lightning_maml never sees datamodules"
        case "lightning_maml", "lightning_maml" if LAYER_OF[part_of(name)] > here:
            return f"it stands above, in layer {LAYER_OF[part_of(name)]}; this is layer {here}"
        case "lightning_maml", "lightning" if here < FREE_OF_LIGHTNING:
            return f"layers below {FREE_OF_LIGHTNING} do without Lightning"
    return None


def complaints(path: Path, source: str) -> list[str]:
    """What is wrong with the imports of the file `path` (relative to the root)."""
    package, part = path.parts[0], path.with_suffix("").parts[1]
    names = imported(source, ".".join(path.parent.parts))
    objections = {name: objection(package, part, name) for name in names}
    return [f"{path} imports `{name}`: {why}." for name, why in objections.items() if why]


def test_every_part_has_a_layer() -> None:
    there = {path.relative_to(ROOT / "lightning_maml") for path in modules("lightning_maml")}
    unknown = {path.with_suffix("").parts[0] for path in there} - set(LAYER_OF)
    assert not unknown, f"give these a layer in LAYERS of tests/test_layers.py: {sorted(unknown)}"


@pytest.mark.parametrize("package", ["lightning_maml", "datamodules"])
def test_no_file_imports_upwards(package) -> None:
    found = []
    for path in modules(package):
        found += complaints(path.relative_to(ROOT), path.read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        ("lightning_maml/losses.py", "from lightning_maml.engine import Engine", True),
        ("lightning_maml/losses.py", "from lightning_maml import engine", True),
        ("lightning_maml/losses.py", "from . import engine", True),
        ("lightning_maml/losses.py", "def f():\n    import lightning_maml.engine", True),
        ("lightning_maml/engine.py", "from lightning_maml import Episode", True),
        ("lightning_maml/engine.py", "from lightning_maml.losses import mse", False),
        ("lightning_maml/models/mlp.py", "from ..meta_learner import MetaLearner", True),
        ("lightning_maml/models/mlp.py", "from .batch_norm import EpisodeBatchNorm", False),
        ("lightning_maml/models/mlp.py", "from lightning.pytorch import LightningModule", True),
        ("lightning_maml/run/cli.py", "from datamodules import Sinusoid", True),
        ("lightning_maml/run/cli.py", "from lightning.pytorch.cli import LightningCLI", False),
        ("datamodules/sinusoid.py", "from lightning_maml.episode import Episode", False),
        ("datamodules/sinusoid.py", "from lightning_maml import Episode", True),
        ("datamodules/sinusoid.py", "from lightning_maml.losses import mse", True),
        (
            "lightning_maml/__init__.py",
            "from lightning_maml.meta_learner import MetaLearner",
            False,
        ),
    ],
)
def test_the_check_sees_each_kind_of_import(path, source, wrong) -> None:
    assert bool(complaints(Path(path), source)) == wrong
