"""JSON without what its standard leaves open: no key twice, no numbers that are none, a limit to nesting."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["check_depth", "parse"]

STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
BRACKETS = re.compile(r"[\[\]{}]")


def parse(data: bytes, most_deep: int | None = None, constants: bool = False) -> Any:
    """The value in a text in UTF-8. ValueError that says what is wrong with it.

    most_deep  how deep lists and objects may stand in each other; None: as deep as Python's reader goes
    constants  whether NaN and Infinity are numbers, which the standard does not have
    """
    text = data.decode("utf-8-sig")
    if most_deep is not None:
        check_depth(text, most_deep)
    try:
        return (LENIENT if constants else STRICT).decode(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def check_depth(text: str, most: int) -> None:
    """ValueError where lists and objects stand deeper in each other."""
    depth = 0
    for bracket in BRACKETS.finditer(STRING.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > most:
            raise ValueError(f"nested more than {most} deep")


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(items)
    if len(found) < len(items):
        names = [name for name, _ in items]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r} is there twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


STRICT = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_constant)
LENIENT = json.JSONDecoder(object_pairs_hook=_once)
"""Made once: to make one takes as long as a short row."""
