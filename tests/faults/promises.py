"""Reading docs/promises.md: which tests it names, and whether there are such tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.conftest import PROJECT

DOCUMENT = PROJECT / "docs" / "promises.md"
_TEST = re.compile(r"`(tests/[\w/]+\.py(?:::\w+)?)`")


def named_tests(document: Path = DOCUMENT) -> list[str]:
    """Every test that the document names: ``tests/a/test_b.py::test_c``."""
    return _TEST.findall(document.read_text(encoding="utf-8"))


def is_a_test(name: str) -> bool:
    """Whether there is a test function of that name in that file; for a file alone, whether it is there."""
    path, _, function = name.partition("::")
    if not (PROJECT / path).is_file():
        return False
    tree = ast.parse((PROJECT / path).read_text(encoding="utf-8"))
    return not function or any(isinstance(node, ast.FunctionDef) and node.name == function for node in ast.walk(tree))
