"""ARCHITECTURE.md's list of rooms is true: every module stands in it, and imports what stands above it."""

import ast
import re

import pytest
from paths import ROOT

PACKAGE = ROOT / "rnncore"
# The front doors import from everywhere.
DOORS = {"__init__", "__main__"}


def rooms():
    """Names of modules and packages in the order of the list; indented lines go on about the room above."""
    listed = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## Map")[1].split("```")[1]
    lines = [line for line in listed.splitlines() if line and not line.startswith(" ")]
    entries = [re.match(r"(?:\w+(?:\.py|/) *)+", line)[0] for line in lines]
    return [name for entry in entries for name in re.findall(r"\w+(?=\.py|/)", entry)]


def is_type_checking(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports(path):
    """The package or module of rnncore that each import in one file is from; those for annotations alone left out."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".pyx":  # whose other lines Python cannot parse
        names = re.findall(r"^ *from (rnncore[\w.]*) c?import ", text, re.MULTILINE)
        text = "\n".join(f"import {name}" for name in names)
    package = path.relative_to(ROOT).parent.parts
    tree = ast.parse(text)
    typing_only = {id(node) for test in ast.walk(tree) if is_type_checking(test) for node in ast.walk(test)}
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            found = [base] if len(base) > 1 else [[*base, alias.name] for alias in node.names]
        else:
            continue
        for name in found:
            if name[0] == "rnncore" and len(name) > 1:
                yield name[1]


FILES = sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyx")])


def test_every_module_has_its_place():
    here = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES} - DOORS
    listed = rooms()
    assert sorted(listed) == sorted(here)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_what_stands_above(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    order = {name: number for number, name in enumerate([*rooms(), *sorted(DOORS)])}
    below = {name for name in imports(path) if order[name] > order[room]}
    assert not below, f"{room} imports {', '.join(sorted(below))}, which ARCHITECTURE.md lists below it"


def test_imports_are_seen():
    """The check itself: relative, absolute, late and compiled imports are found."""
    found = set(imports(PACKAGE / "runtime" / "model.py"))
    assert {"graph", "errors"} <= found and "streaming" not in found  # but for annotations
    assert "pyfive" not in found and "files" in set(imports(PACKAGE / "formats" / "hdf5_file.py"))
    assert "errors" in set(imports(PACKAGE / "kernels" / "_pool.pyx"))
