"""ARCHITECTURE.md's list of packages is true: every module is in it, and imports from those above its own."""

import ast
import re

import pytest
from paths import ROOT, TESTS, TOOLS

PACKAGE = ROOT / "rnncore"
# The front doors import from everywhere.
DOORS = {"__init__", "__main__"}


def layers():
    """Names of modules and packages in the order of the list; indented lines continue the description above."""
    listed = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").split("## Map")[1].split("```")[1]
    lines = [line for line in listed.splitlines() if line and not line.startswith(" ")]
    entries = [re.match(r"(?:\w+(?:\.py|/) *)+", line)[0] for line in lines]
    return [name for entry in entries for name in re.findall(r"\w+(?=\.py|/)", entry)]


def is_type_checking(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imported(path):
    """Dotted names of rnncore that one file imports, late imports included; those for annotations alone left out."""
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
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += [node.module] if node.module else []
            names = [".".join([*base, alias.name]) for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.startswith("rnncore."))


def imports(path):
    """The package or module of rnncore that each import in one file is from."""
    return [name.split(".")[1] for name in imported(path)]


FILES = sorted([*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyx")])
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
    if path.suffix == ".py"
}


def import_graph():
    """The modules that each module imports; of ``from package import name`` the module that has the name."""
    graph = {}
    for module, path in MODULES.items():
        targets = set()
        for name in imported(path):
            while name not in MODULES and "." in name:  # a class or function, or compiled
                name = name.rpartition(".")[0]
            targets.add(name)
        graph[module] = targets - {"rnncore", module}
    return graph


def circles(graph):
    """One path through each group of modules that import each other, as "a -> b -> a"."""
    done = set()
    found = []

    def walk(module, path):
        if module in path:
            found.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in done:
            for target in sorted(graph[module]):
                walk(target, [*path, module])
            done.add(module)

    for module in graph:
        walk(module, [])
    return found


def test_every_module_has_its_place():
    here = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES} - DOORS
    listed = layers()
    assert sorted(listed) == sorted(here)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_what_stands_above(path):
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    order = {name: number for number, name in enumerate([*layers(), *sorted(DOORS)])}
    below = {name for name in imports(path) if order[name] > order[own]}
    assert not below, f"{own} imports {', '.join(sorted(below))}, which ARCHITECTURE.md lists below it"


def test_there_is_no_circle_of_imports():
    """Between modules of one package too, and late imports count."""
    circular = circles(import_graph())
    assert not circular, "\n".join(circular)


def test_circles_are_seen():
    chain = {"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}
    assert circles(chain) == []
    assert circles({**chain, "d": {"e"}, "e": {"b"}}) == ["b -> d -> e -> b"]
    graph = import_graph()
    assert {"rnncore.graph.spec", "rnncore.errors"} <= graph["rnncore.runtime.model"]


def test_tests_mirror_the_package():
    """Each folder of tests is of one package of rnncore, but for those named here."""
    own = {"helpers", "tools", "golden", "native", "whole"}
    folders = {path.name for path in TESTS.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))}
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert own <= folders
    assert folders - own <= packages
    assert [path.name for path in TESTS.glob("*.py")] == ["conftest.py"]
    misplaced = [path.name for path in TESTS.rglob("test_*.py") if path.parent.name in own - {"whole"}]
    assert misplaced == []


def modules_imported(path):
    """First parts of the names that a file imports, late imports included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_tests_share_helpers_alone():
    """No module imports a file of tests, and commands are imported by tests and each other: helpers are on any path."""
    tools = {path.stem for path in TOOLS.glob("*.py")}
    wrong = []
    for path in [path for folder in (TESTS, ROOT / "fuzz", ROOT / "bench") for path in folder.rglob("*.py")]:
        may_use = path.parent == TOOLS or path.name.startswith("test_")
        names = set(modules_imported(path))
        wrong += [f"{path.name} imports {name}" for name in names if name.startswith("test_")]
        wrong += [f"{path.name} imports {name}" for name in names & tools if not may_use]
    assert wrong == []


def test_imports_are_seen():
    """The check itself: relative, absolute, late and compiled imports are found."""
    packages = set(imports(PACKAGE / "runtime" / "model.py"))
    assert {"graph", "errors"} <= packages and "streaming" not in packages  # but for annotations
    assert "pyfive" not in packages and "files" in set(imports(PACKAGE / "formats" / "hdf5_file.py"))
    assert "errors" in set(imports(PACKAGE / "kernels" / "_pool.pyx"))
