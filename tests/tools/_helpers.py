"""Imported first by commands of this folder: the tests' helpers and rnncore are those of this tree."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[1:1] = [str(TESTS.parent), str(TESTS / "helpers")]
