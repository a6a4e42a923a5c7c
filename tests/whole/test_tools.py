"""The commands of tests/tools import what they need by themselves."""

import ast

import pytest
from paths import TOOLS

HELPERS = {path.stem for path in (TOOLS.parent / "helpers").glob("*.py")}


def imported(tree):
    """Names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("name", sorted(path.name for path in TOOLS.glob("*.py")))
def test_helpers_are_found_by_commands(name):
    found = set(imported(ast.parse((TOOLS / name).read_text())))
    assert not found & HELPERS or "_helpers" in found, f"imports {', '.join(sorted(found & HELPERS))} without _helpers"
