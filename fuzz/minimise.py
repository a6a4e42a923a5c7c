"""Smaller bytes that show the same."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["minimise"]


def minimise(data: bytes, same: Callable[[bytes], bool], tries: int) -> bytes:
    """Pieces removed, halves first, then bytes made zero, as long as ``same`` holds; at most so many questions."""
    size = max(1, len(data) // 2)
    while tries > 0:
        at, smaller = 0, False
        while at < len(data) and tries > 0:
            tries -= 1
            shorter = data[:at] + data[at + size :]
            if same(shorter):
                data, smaller = shorter, True
            else:
                at += size
        if size == 1 and not smaller:
            break
        size = max(1, size // 2)
    for at, byte in enumerate(data):
        if tries <= 0:
            break
        if byte:
            tries -= 1
            zeroed = data[:at] + b"\0" + data[at + 1 :]
            data = zeroed if same(zeroed) else data
    return data
