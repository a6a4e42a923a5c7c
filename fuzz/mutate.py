"""Other bytes from given ones: at random, and with an eye for lengths, JSON, zip archives and protobuf messages."""

from __future__ import annotations

import copy
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from draw import ODD_NUMBERS, ODD_VALUES

__all__ = ["change_bytes", "change_json", "change_protobuf", "change_text_inside", "change_zip", "fields", "with_crc"]

Mutator = Callable[[bytes, random.Random], bytes]

MOST = 1 << 16  # bytes that a mutated file may have, or those of its seed


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    """One to four edits that know nothing of the format."""
    found = bytearray(data)
    for _ in range(1 + int(rng.random() ** 3 * 4)):
        rng.choice(EDITS)(found, rng)
    return bytes(found[: max(MOST, len(data))])


def _flip(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: random.Random) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def _number(data: bytearray, rng: random.Random) -> None:
    """Two, four or eight bytes, a length perhaps, become another number."""
    size = rng.choice((2, 4, 8))
    if len(data) < size:
        return
    at = rng.randrange(len(data) - size + 1)
    order = rng.choice(("little", "little", "big"))
    before = int.from_bytes(data[at : at + size], order)
    number = before + rng.choice((-1, 1, -8, 8)) if rng.random() < 0.5 else rng.choice(ODD_NUMBERS)
    data[at : at + size] = (number % (1 << 8 * size)).to_bytes(size, order)


def _digits(data: bytearray, rng: random.Random) -> None:
    """A decimal number in text becomes another one."""
    at = next((at for at in _from_anywhere(data, rng) if 48 <= data[at] <= 57), None)
    if at is None:
        return
    end = at
    while end < len(data) and 48 <= data[end] <= 57:
        end += 1
    data[at:end] = str(rng.choice(ODD_NUMBERS)).encode()


def _from_anywhere(data: bytearray, rng: random.Random) -> Iterator[int]:
    start = rng.randrange(len(data)) if data else 0
    yield from range(start, min(len(data), start + 400))


def _remove(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + 1 + int(rng.random() ** 4 * 64)]


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _repeat(data: bytearray, rng: random.Random) -> None:
    """A piece stands in another place too."""
    begin, size, at = rng.randrange(len(data) + 1), rng.randrange(1, 64), rng.randrange(len(data) + 1)
    data[at:at] = data[begin : begin + size] * rng.choice((1, 1, 1, 2, 16))


def _swap(data: bytearray, rng: random.Random) -> None:
    """A piece stands over another one."""
    begin, size, at = rng.randrange(len(data) + 1), rng.randrange(1, 64), rng.randrange(len(data) + 1)
    piece = data[begin : begin + size]
    data[at : at + len(piece)] = piece


def _insert(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.randrange(1, 9))


EDITS = (_flip, _flip, _byte, _byte, _number, _number, _digits, _remove, _truncate, _repeat, _swap, _insert)


def change_json(value: Any, rng: random.Random) -> Any:
    """The value with one to three of its parts, at any depth, replaced, removed, repeated or renamed."""
    for _ in range(1 + int(rng.random() ** 2 * 3)):
        value = _change_one(value, rng)
    return value


def _change_one(value: Any, rng: random.Random) -> Any:
    places = list(_places(value))
    if not places:
        return _fresh(rng.choice((*ODD_VALUES, *ODD_NUMBERS)))
    holder, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind < 3:
        holder[key] = _fresh(rng.choice(ODD_VALUES))
    elif kind < 5:
        before = holder[key]
        near = [before - 1, before + 1, -before, before * 2] if type(before) is int else [before, [before]]
        holder[key] = rng.choice((*near, *ODD_NUMBERS))
    elif kind == 5:
        other, name = rng.choice(places)
        holder[key] = _fresh(other[name])
    elif kind == 6:
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, _fresh(holder[key]))
    else:
        holder[rng.choice(("", "x", "name", "op", key + "x", "\ud800"))] = holder.pop(key)
    return value


def _fresh(value: Any) -> Any:
    """A copy, so that nothing comes to hold itself."""
    return copy.deepcopy(value)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (list or object, index or key) inside."""
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        if not isinstance(holder, (dict, list)):
            continue
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            yield holder, key
            waiting.append(holder[key])


def change_text_inside(text: bytes, rng: random.Random) -> bytes:
    """JSON text with its value changed; text that is none, or one time in four any, byte by byte."""
    if rng.random() < 0.75:
        try:
            return json.dumps(change_json(json.loads(text), rng)).encode()
        except (ValueError, RecursionError):
            pass
    return change_bytes(text, rng)


def change_zip(data: bytes, rng: random.Random, inside: Callable[[str, bytes, random.Random], bytes]) -> bytes:
    """A member changed by ``inside``, with lengths and checksums that fit; one time in four the archive's bytes."""
    if rng.random() < 0.25:
        return change_bytes(data, rng)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info, archive.read(info)) for info in archive.infolist()]
    except Exception:  # zipfile has many for bytes that are no archive
        return change_bytes(data, rng)
    if not members:
        return change_bytes(data, rng)
    chosen = rng.randrange(len(members))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for place, (info, content) in enumerate(members):
            if place == chosen and rng.random() < 0.05:
                continue
            name = info.filename
            if place == chosen:
                name = name[:-1] if rng.random() < 0.03 else name
                content = inside(name, content, rng)
            archive.writestr(zipfile.ZipInfo(name), content, rng.choice((info.compress_type, zipfile.ZIP_STORED)))
    return out.getvalue()


def fields(data: bytes) -> list[tuple[int, int, bytes | int]] | None:
    """A protobuf message as (number, wire type, content); None for bytes that are none."""
    found, at = [], 0
    while at < len(data):
        key, at = _varint(data, at)
        if key is None or key >> 3 == 0:
            return None
        wire = key & 7
        if wire == 0:
            content, at = _varint(data, at)
        elif wire == 2:
            size, at = _varint(data, at)
            if size is None or at + size > len(data):
                return None
            content, at = data[at : at + size], at + size
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            content, at = data[at : at + size], at + size
            content = content if len(content) == size else None
        else:
            return None
        if content is None:
            return None
        found.append((key >> 3, wire, content))
    return found


def _varint(data: bytes, at: int) -> tuple[int | None, int]:
    number = shift = 0
    while at < len(data) and shift < 70:
        number |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return number, at
    return None, at


def _as_varint(number: int) -> bytes:
    number %= 1 << 64
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def change_protobuf(data: bytes, rng: random.Random) -> bytes:
    """A field at any depth changed, removed, repeated or renumbered; the lengths around it fit."""
    if rng.random() < 0.15:
        return change_bytes(data, rng)
    found = fields(data)
    if not found:
        return change_bytes(data, rng)
    at = rng.randrange(len(found))
    number, wire, content = found[at]
    kind = rng.random()
    if kind < 0.08:
        del found[at]
    elif kind < 0.16:
        found.insert(rng.randrange(len(found) + 1), found[at])
    elif kind < 0.2:
        found[at] = (rng.randrange(1, 32), wire, content)
    elif wire == 0:
        found[at] = (number, wire, rng.choice((content + 1, content - 1, rng.choice(ODD_NUMBERS), rng.randrange(32))))
    elif wire == 2 and content and fields(content) and rng.random() < 0.9:
        found[at] = (number, wire, change_protobuf(content, rng))
    else:
        changed = change_text_inside(content, rng) if content[:1] == b"{" else change_bytes(content, rng)
        found[at] = (number, wire, changed if wire == 2 else changed[: len(content)].ljust(len(content), b"\0"))
    return b"".join(map(_written, found))


def _written(field: tuple[int, int, bytes | int]) -> bytes:
    number, wire, content = field
    key = _as_varint(number << 3 | wire)
    if wire == 0:
        return key + _as_varint(content)
    return key + (_as_varint(len(content)) if wire == 2 else b"") + content


def with_crc(data: bytes) -> bytes:
    """The bytes with the CRC-32 of all but the last four at their end."""
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4])) if len(data) >= 4 else data
