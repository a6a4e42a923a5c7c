"""Arithmetic with sizes, of which some are only names before the model runs: "2*T+1".

A size is a sum of products of names, written with the names in order and the constant last, so that the same size
is the same text whichever way it was reached. What cannot be divided is a name of its own: "(T//2)". A name may be
any text, as in ONNX files; one that is no such sum is taken as it is. "?" in, "?" out.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

from rnncore.ops.base import UNKNOWN

__all__ = ["add", "divide", "fits", "is_natural", "multiply", "subtract"]

Size = int | str
Sum = dict[tuple[str, ...], int]

MAX_TEXT = 200
"""A size that takes more to write down is UNKNOWN; a name longer than that is not looked into."""

MAX_TERMS = 64
"""A product with more terms, or more names in one, is UNKNOWN: the terms of (a+1)*(b+1)*... double with each factor."""

_SUM = re.compile(r"[+-]?[^+*()-]+(?:[+*-][^+*()-]+)*")


def add(*sizes: Size) -> Size:
    """The sum."""
    total: Sum = {}
    for size in sizes:
        if size == UNKNOWN:
            return UNKNOWN
        for names, count in _parse(size).items():
            total[names] = total.get(names, 0) + count
    return _write(total)


def subtract(a: Size, b: Size) -> Size:
    """a - b, which as a size is meant to be at least 0."""
    return add(a, multiply(-1, b))


def multiply(*sizes: Size) -> Size:
    """The product; 0 times anything is 0."""
    if 0 in sizes:
        return 0
    if UNKNOWN in sizes:
        return UNKNOWN
    total: Sum = {(): 1}
    for size in sizes:
        product: Sum = {}
        for left, count in total.items():
            for right, times in _parse(size).items():
                names = tuple(sorted((*left, *right)))
                product[names] = product.get(names, 0) + count * times
        if len(product) > MAX_TERMS or any(len(names) > MAX_TERMS for names in product):
            return UNKNOWN
        total = product
    return _write(total)


def divide(a: Size, b: Size) -> Size:
    """a // b for b that is not 0, rounded down; exact where the names cancel."""
    if a == b and a != UNKNOWN:
        return 1
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    if UNKNOWN in (a, b):
        return UNKNOWN
    divisor = _parse(b)
    if len(divisor) == 1:
        ((names, count),) = divisor.items()
        parts = [part for part in (_without(term, names) for term in _parse(a)) if part is not None]
        if len(parts) == len(_parse(a)) and all(value % count == 0 for value in _parse(a).values()):
            return _write(dict(zip(parts, (value // count for value in _parse(a).values()), strict=True)))
    return _short(f"({_name(a)}//{_name(b)})")


def fits(a: Size, b: Size) -> bool:
    """Whether two sizes may be the same one: only two different numbers may not."""
    return isinstance(a, str) or isinstance(b, str) or a == b


def is_natural(size: Size) -> bool:
    """Whether a size is known to be at least 0: a number, or a sum in which nothing is taken away."""
    if isinstance(size, int):
        return size >= 0
    natural = all(count >= 0 and "-" not in "".join(names) for names, count in _parse(size).items())
    return natural and size != UNKNOWN


def _without(term: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...] | None:
    """The product of names divided by some of them, or None."""
    left = list(term)
    for name in names:
        if name not in left:
            return None
        left.remove(name)
    return tuple(left)


def _parse(size: Size) -> Sum:
    """Products of names -> how often; () for the constant."""
    return {(): size} if isinstance(size, int) else _parse_text(size)


@lru_cache(maxsize=4096)
def _parse_text(size: str) -> Sum:
    """The same, remembered: a graph has few sizes in very many places. The result is not to be changed."""
    flat, atoms = _lift(size) if len(size) <= MAX_TEXT else (None, {})
    if flat is None or not _SUM.fullmatch(flat):
        return {(size,): 1}
    total: Sum = {}
    for sign, product in re.findall(r"([+-]?)([^+-]+)", flat):
        factors = [atoms.get(factor.strip(), factor.strip()) for factor in product.split("*")]
        if "" in factors:
            return {(size,): 1}
        count = math.prod(int(factor) for factor in factors if factor.isdecimal())
        names = tuple(sorted(factor for factor in factors if not factor.isdecimal()))
        total[names] = total.get(names, 0) + (-count if sign == "-" else count)
    return total


def _lift(text: str) -> tuple[str | None, dict[str, str]]:
    """The text with a mark for each outer pair of parentheses, and the texts of the marks; None if they differ."""
    atoms: dict[str, str] = {}
    flat, depth, start = "", 0, 0
    for place, letter in enumerate(text):
        if letter == "(":
            start = place if depth == 0 else start
            depth += 1
        elif letter == ")":
            depth -= 1
            if depth < 0:
                return None, {}
            if depth == 0:
                mark = f"\x00{len(atoms)}\x00"
                atoms[mark] = text[start : place + 1]
                flat += mark
        elif depth == 0:
            flat += letter
    return (None, {}) if depth else (flat, atoms)


def _write(total: Sum) -> Size:
    terms = sorted((names, count) for names, count in total.items() if count and names)
    constant = total.get((), 0)
    if not terms:
        return constant
    text = ""
    for names, count in sorted(terms, key=lambda term: term[1] < 0):  # a size begins with what it has
        sign = "-" if count < 0 else "+" if text else ""
        text += sign + "*".join(([str(abs(count))] if abs(count) != 1 else []) + list(names))
    return _short(text + (f"{constant:+d}" if constant else ""))


def _name(size: Size) -> str:
    """A size as one factor."""
    return str(size) if isinstance(size, int) or _parse(size) == {(size,): 1} else f"({size})"


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else UNKNOWN
