"""The README keeps its word: its two commands stand first, its Python runs, its files exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_two_commands_are_the_only_shell_blocks() -> None:
    assert blocks("bash") == [
        "pip install -e . && python train.py fit --config configs/sinusoid.yaml\n",
        "pip install -e '.[dev]' && pytest -n auto\n",
    ]


def test_the_python_runs() -> None:
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})


def test_what_it_names_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    configs = [f"configs/{name}" for name in re.findall(r"`(?:configs/)?(\w+\.yaml)`", README)]
    missing = [name for name in {*links, *configs} if not (ROOT / name).exists()]
    assert not missing
