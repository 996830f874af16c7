"""docs/reliability.md: each promise names tests that exist, and says which are slow."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
# Rows are: promise | tests, each as `file::test`, with "(slow)" behind it where it is.
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`( \(slow\))?", PAGE)


@cache
def found_in(file: str) -> dict[str, bool]:
    """The tests of a file by name, and whether each is marked slow, in all its cases."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {
        node.name: any(ast.unparse(mark) == "pytest.mark.slow" for mark in node.decorator_list)
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize(("file", "test", "slow"), NAMED, ids=lambda value: str(value)[-60:])
def test_named_test_exists(file, test, slow) -> None:
    assert found_in(file)[test] is bool(slow)


def test_every_promise_has_a_test() -> None:
    table, _, _ = PAGE.partition("<!-- bad input: begin -->")
    rows = re.findall(r"^\| (.*) \| (.*) \|$", table, re.MULTILINE)
    promises = [tests for promise, tests in rows if promise not in ("promise", "---")]
    assert len(promises) >= 25
    assert all("::test_" in tests for tests in promises)
