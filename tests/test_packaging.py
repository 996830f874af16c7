"""What is installed: the program `lightning-maml`, its configs, and what it needs."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import train
from lightning_maml.run.config_files import with_found_configs
from tests.run.conftest import QUIET, result_of

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = ("lightning_maml", "datamodules")
NAMES = {"PIL": "pillow", "yaml": "pyyaml"}  # of packages that are imported by another name


def name_of(requirement: str) -> str:
    return re.match(r"[\w-]+", requirement)[0]


def test_the_program_is_train_py() -> None:
    assert PROJECT["project"]["scripts"] == {"lightning-maml": "train:main"}
    assert "train" in PROJECT["tool"]["setuptools"]["py-modules"]


def test_every_package_and_config_is_shipped() -> None:
    folders = {path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert found | {"configs"} == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_import_is_a_dependency_and_the_other_way_round() -> None:
    """But for the extras, which are imported where they are needed."""
    imported = set()
    for path in [ROOT / "train.py", *(p for name in PACKAGES for p in (ROOT / name).rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            imported |= {name.partition(".")[0] for name in names}
    imported -= {*sys.stdlib_module_names, *PACKAGES, "train"}
    extras = PROJECT["project"]["optional-dependencies"]["rl"]
    needed = {NAMES.get(name, name) for name in imported} - {name_of(extra) for extra in extras}
    assert needed == {name_of(needs) for needs in PROJECT["project"]["dependencies"]}


def test_lower_bounds_are_met_here() -> None:
    """Each has one, and what these tests run with is not older."""
    for requirement in PROJECT["project"]["dependencies"]:
        name, least = re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirement).groups()
        numbers = [
            [int(part) for part in re.findall(r"\d+", version)[:3]]
            for version in (least, importlib.metadata.version(name))
        ]
        assert numbers[0] <= numbers[1], requirement


# -- configs by name ---------------------------------------------------------------------------


def test_configs_are_found_by_name_from_anywhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--data.test_tasks=2", "--model.compile=false", "--trainer.logger=false"]
    train.main(["test", "--config=sinusoid.yaml", *few, *QUIET])
    assert result_of(tmp_path)["tasks"] == 2


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("model: {}")
    Path("sinusoid.yaml").write_text("model: {}")
    args = ["fit", "-c", "sinusoid.yaml", "--config=mine.yaml", "--config=no.yaml", "--x=a.yaml"]
    assert with_found_configs(args, ROOT / "configs") == args
    ours = f"--config={ROOT / 'configs' / 'point.yaml'}"
    for name in ("point.yaml", "configs/point.yaml"):
        assert with_found_configs(["fit", f"--config={name}"], ROOT / "configs")[1] == ours


# -- wheel and source distribution -------------------------------------------------------------


def run(*command: object, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the source distribution of the files that git knows."""
    source, folder = (tmp_path_factory.mktemp(name) for name in ("source", "dist"))
    for name in run("git", "ls-files", cwd=ROOT).splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    for build in ("build_wheel", "build_sdist"):
        code = f"from setuptools import build_meta; build_meta.{build}({str(folder)!r})"
        run(sys.executable, "-c", code, cwd=source)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["*.whl", "*.tar.gz"])
def test_what_is_built_runs_in_an_environment_of_its_own(built, tmp_path, kind) -> None:
    """Installed beside the packages that are here; no checkout is in reach."""
    (archive,) = built.glob(kind)
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    if kind == "*.tar.gz":  # by the setuptools that is here, which is new enough
        run(sys.executable, "-m", "pip", "wheel", *offline, archive, "-w", tmp_path, cwd=tmp_path)
        (archive,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", system_site_packages=True, with_pip=True)
    scripts = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    # The packages of the environment that runs the tests, which need not be the system's.
    (site,) = (tmp_path / "venv").rglob("site-packages")
    (site / "beside.pth").write_text("\n".join(p for p in sys.path if p.endswith("-packages")))
    install = ["-m", "pip", "install", "--force-reinstall", *offline, archive]
    run(scripts / "python", *install, cwd=tmp_path)
    where = "import lightning_maml; print(lightning_maml.__file__)"
    assert str(site) in run(scripts / "python", "-c", where, cwd=tmp_path)
    assert "fit" in run(scripts / "lightning-maml", "--help", cwd=tmp_path)
    few = ["--trainer.max_steps=3", "--data.val_tasks=2", "--model.compile=false"]
    few += ["--trainer.check_val_every_n_epoch=1", "--data.train_batches_per_epoch=3", *QUIET]
    command = ["fit", "--config", "sinusoid.yaml", *few]
    run(scripts / "lightning-maml", *command, cwd=tmp_path)
    (last,) = tmp_path.rglob("last.ckpt")
    evaluate = ["test", "--ckpt_path", last, "--data.test_tasks=2", "--trainer.logger=false"]
    run(scripts / "lightning-maml", *evaluate, *QUIET, cwd=tmp_path)
    assert result_of(tmp_path)["meta_updates"] == 3


@pytest.mark.slow
def test_the_wheel_holds_what_it_should(built) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = [*ROOT.glob("configs/*.yaml"), *ROOT.glob("lightning_maml/weights/*.ckpt")]
    assert {path.relative_to(ROOT).as_posix() for path in shipped} <= names
    top = {name.partition("/")[0] for name in names}
    info = {name for name in top if name.endswith(".dist-info")}
    assert top - info == {"configs", "datamodules", "lightning_maml", "train.py"}
