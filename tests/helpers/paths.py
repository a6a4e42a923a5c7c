"""Where things are in the tree."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
GOLDEN = TESTS / "golden"
HELPERS = TESTS / "helpers"
TOOLS = TESTS / "tools"


def environment(**words):
    """For a process of its own that imports rnncore and the helpers of the tests."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(HELPERS), str(TOOLS))), **words}
