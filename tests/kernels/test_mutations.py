"""The list of tests/tools/mutations.py fits the tree; the mutations themselves are run by that command."""

import pytest
from mutations import MUTATIONS, QUICK, files_of_tests
from paths import ROOT


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_mutation_applies(mutation):
    text = (ROOT / mutation.file).read_text(encoding="utf-8")
    assert text.count(mutation.old) == 1
    assert text.replace(mutation.old, mutation.new) != text


def test_names():
    """Each mutation has a name of its own, and the test files exist, each name once in the tree."""
    names = [mutation.name for mutation in MUTATIONS]
    assert len(names) == len(set(names))
    files = files_of_tests(ROOT)
    assert len(files) == len(list((ROOT / "tests").glob("*/test_*.py")))
    first = {f"test_{name}.py" for mutation in MUTATIONS for name in mutation.first.split()}
    assert (first | set(QUICK)) - files.keys() == set()
