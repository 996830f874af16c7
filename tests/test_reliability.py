"""docs/reliability.md: each promise names tests that exist, and says which are slow."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
# Rows are: promise | tests, each as `file::test`, with "(slow)" behind it where it is, or
# "(some slow)" where some of its cases are.
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`(?: \((slow|some slow)\))?", PAGE)
MARK = "pytest.mark.slow"


@cache
def found_in(file: str) -> dict[str, str]:
    """The tests of a file by name, and whether each is "slow", "some slow" or neither ("")."""
    return slowness((ROOT / file).read_text(encoding="utf-8"))


def slowness(source: str) -> dict[str, str]:
    """As `found_in`. Marks of cases may be in what decorators name, and in those of fixtures."""
    body = ast.parse(source).body
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    values = {
        target.id: node.value
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

    def marked(node: ast.AST) -> bool:
        if isinstance(node, ast.FunctionDef):
            fixtures = (functions.get(argument.arg) for argument in node.args.args)
            return any(marked(n) for n in [*node.decorator_list, *filter(None, fixtures)])
        names = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
        return MARK in ast.unparse(node) or any(marked(values[n]) for n in names & values.keys())

    return {
        name: "slow"
        if MARK in map(ast.unparse, node.decorator_list)
        else "some slow" * marked(node)
        for name, node in functions.items()
        if name.startswith("test_")
    }


@pytest.mark.parametrize(("file", "test", "slow"), NAMED, ids=lambda value: str(value)[-60:])
def test_named_test_exists(file, test, slow) -> None:
    assert found_in(file)[test] == slow


SOURCE = """
CASES = [pytest.param(1, marks=[pytest.mark.slow] if x else []) for x in (0, 1)]
KEPT = [1, 2]

@pytest.fixture(params=["a", pytest.param("b", marks=pytest.mark.slow)])
def letter(request): ...

@pytest.mark.parametrize("x", KEPT)
def test_quick(x): ...

@pytest.mark.slow
def test_whole(): ...

@pytest.mark.parametrize("x", CASES)
def test_named_cases(x): ...

@pytest.mark.parametrize("x", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_cases(x): ...

def test_fixture(letter): ...
"""


def test_marks_of_cases_and_fixtures_are_seen() -> None:
    assert slowness(SOURCE) == {
        "test_quick": "",
        "test_whole": "slow",
        "test_named_cases": "some slow",
        "test_cases": "some slow",
        "test_fixture": "some slow",
    }


def test_every_promise_has_a_test() -> None:
    table, _, _ = PAGE.partition("<!-- bad input: begin -->")
    rows = re.findall(r"^\| (.*) \| (.*) \|$", table, re.MULTILINE)
    promises = [tests for promise, tests in rows if promise not in ("promise", "---")]
    assert len(promises) >= 25
    assert all("::test_" in tests for tests in promises)
