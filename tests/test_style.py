"""House style that a linter does not check, and the version number in its three places."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
MAX_FILE, MAX_FUNCTION = 400, 50
FILES = sorted(
    [
        ROOT / "train.py",
        *(ROOT / "lightning_maml").rglob("*.py"),
        *(ROOT / "datamodules").rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
    ]
)
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def complaints(source: str) -> Iterator[str]:
    """What breaks the style in a file's source."""
    lines, tree = len(source.splitlines()), ast.parse(source)
    if lines > MAX_FILE:
        yield f"{lines} lines, more than {MAX_FILE}"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                yield f"`{node.name}` has {length} lines, more than {MAX_FUNCTION}"
    if tree.body and not ast.get_docstring(tree):
        yield "no docstring at the head of the file"
    for node in tree.body:
        public = isinstance(node, Definition) and not node.name.startswith("_")
        if public and not ast.get_docstring(node):
            yield f"`{node.name}` is public and has no docstring"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_small_and_documented(path) -> None:
    found = list(complaints(path.read_text(encoding="utf-8")))
    assert not found, f"{path.relative_to(ROOT)}: " + "; ".join(found)


@pytest.mark.parametrize(
    "source",
    [
        '"""Head."""\n' + "x = 1\n" * 400,
        '"""Head."""\ndef f():\n    """Doc."""\n' + "    x = 1\n" * 49,
        "x = 1\n",
        '"""Head."""\ndef f():\n    pass\n',
        '"""Head."""\nclass C:\n    pass\n',
    ],
    ids=["long file", "long function", "no head", "bare function", "bare class"],
)
def test_the_check_sees_each_fault(source) -> None:
    assert len(list(complaints(source))) == 1


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\d+\.\d+\.\d+)", changelog, re.MULTILINE)
    assert citation["version"] == project["version"]
    assert newest is not None
    assert newest.group(1) == project["version"]
