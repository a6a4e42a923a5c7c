"""JSON from anywhere: read whole and strictly, or refused with one error."""

from __future__ import annotations

import json
import re
from typing import Any

from rnncore.errors import FormatError, RnncoreError, shown

__all__ = ["read_json"]

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_BRACKET = re.compile(r"[\[\]{}]")


def read_json(
    text: str | bytes,
    place: str,
    error: type[RnncoreError] = FormatError,
    *,
    constants: bool = False,
    deepest: int | None = None,
) -> Any:
    """The value that a JSON text holds. Raises ``error``, beginning with ``place``, for anything that is no JSON.

    Refused are keys that occur twice in one object, of which readers take one or the other; text that UTF-8 cannot
    hold (half of a surrogate pair); nesting and integers beyond what Python reads, or lists and objects more than
    ``deepest`` inside each other; without ``constants`` NaN and Infinity.
    """
    try:
        text = text if isinstance(text, str) else bytes(text).decode("utf-8")
        if deepest is not None:
            _check_depth(text, deepest)
        value = (_LENIENT if constants else _STRICT).decode(text)
        if not text.isascii():
            text.encode("utf-8")
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise error(f"{place}: not JSON: nested too deeply") from None
    except MemoryError:
        raise error(f"{place}: JSON that asks for more memory than there is") from None
    except UnicodeEncodeError:
        raise error(f"{place}: not JSON: half a surrogate pair, which is not valid Unicode") from None
    except ValueError as reason:
        raise error(f"{place}: not JSON: {reason}") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]  # add gives None
        raise ValueError(f"the key {shown(twice)} occurs twice in one object")
    return fields


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _check_depth(text: str, most: int) -> None:
    depth = 0
    for bracket in _BRACKET.finditer(_STRING.sub("", text)):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > most:
            raise ValueError(f"nested more than {most} deep")


_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
_LENIENT = json.JSONDecoder(object_pairs_hook=_unique)
"""Made once: making one takes the time of reading a short line."""
