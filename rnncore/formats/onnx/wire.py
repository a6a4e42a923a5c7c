"""The bytes of an ONNX file before protobuf sees them: how much they would become, and how deep they go.

A protobuf of a few bytes may ask for many objects: an empty message costs two bytes in the file and a hundred in
memory, a packed integer one and eight. This walks the fields without keeping anything and refuses what is beyond a
budget, what protobuf would merge (a graph given twice) and what is cut off.
"""

from __future__ import annotations

from rnncore.errors import FormatError
from rnncore.files.cursor import Budget

__all__ = ["check_wire"]

MAX_FIELDS = 300_000
MAX_PACKED = 8 << 20  # bytes of packed integers, each of which may become eight
MAX_MESSAGES = 40  # messages within messages
MAX_GRAPHS = 5  # the model's own and four within

# What each message has: field number -> the message it holds. Others are numbers, strings, or not known.
_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "leaf", 14: "leaf", 20: "training", 25: "function", 26: "opaque"},
    "graph": {
        1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 14: "annotation", 15: "sparse", 16: "leaf",
    },
    "node": {5: "attribute", 9: "leaf", 10: "opaque"},
    "attribute": {
        5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 14: "type", 15: "type", 22: "sparse", 23: "sparse",
    },
    "tensor": {3: "leaf", 13: "leaf", 16: "leaf"},
    "function": {7: "node", 9: "leaf", 11: "attribute", 12: "value", 14: "leaf"},
    "training": {1: "graph", 2: "graph", 3: "leaf", 4: "leaf"},
    "sparse": {1: "tensor", 2: "tensor"},
    "annotation": {2: "leaf"},
    "value": {2: "type", 4: "leaf"},
    "type": {1: "tensor type", 4: "inner type", 5: "map type", 8: "tensor type", 9: "inner type"},
    "inner type": {1: "type"},
    "map type": {2: "type"},
    "tensor type": {2: "shape"},
    "shape": {1: "leaf"},
    "leaf": {},
    "opaque": {},
}  # fmt: skip
_PACKED = {"tensor": {1, 5, 7, 11}, "attribute": {8}}
# What is neither a message nor text, which has to be UTF-8: packed numbers and bytes.
_RAW = {"tensor": {1, 4, 5, 6, 7, 9, 10, 11}, "attribute": {4, 7, 8, 9}}
_ONCE = {"model": {7}, "attribute": {5, 6, 14, 22}, "value": {2}}
_ANY = range(1 << 70)  # of an opaque message no field is looked at
_TABLES = {
    kind: (inner, _PACKED.get(kind, ()), _ONCE.get(kind, ()), _ANY if kind == "opaque" else _RAW.get(kind, ()))
    for kind, inner in _MESSAGES.items()
}


def check_wire(data: bytes, place: str) -> None:
    """FormatError unless the bytes are a model within the budgets."""
    fields = Budget(MAX_FIELDS, "fields", place)
    packed = Budget(MAX_PACKED, "bytes of packed integers", place)
    pending = [("model", 0, len(data), 0, 0)]
    while pending:
        kind, at, stop, depth, graphs = pending.pop()
        if depth > MAX_MESSAGES or graphs > MAX_GRAPHS:
            raise FormatError(f"{place}: graphs nested too deeply, expected at most {MAX_GRAPHS - 1} within the first")
        inner, numbers, once, raw = _TABLES[kind]
        seen: set[int] = set()
        while at < stop:
            tag = data[at]  # most numbers have one byte, and a file has very many of them
            at += 1
            if tag >= 0x80:
                tag, at = _varint(data, at - 1, stop, place)
            number, wire = tag >> 3, tag & 7
            fields.left -= 1
            if fields.left < 0:
                fields.spend()
            if number in once:
                if number in seen:
                    raise FormatError(f"{place}: two fields {number} in one {kind} at byte {at}, expected one")
                seen.add(number)
            if wire == 2:
                size = data[at] if at < stop else 0x80
                at += 1
                if size >= 0x80:
                    size, at = _varint(data, at - 1, stop, place)
                if size > stop - at:
                    raise FormatError(f"{place}: truncated: field {number} of a {kind} at byte {at} has {size} bytes, "
                                      f"{stop - at} remain")  # fmt: skip
                message = inner.get(number)
                if message is not None:
                    pending.append((message, at, at + size, depth + 1, graphs + (message == "graph")))
                elif number in numbers:
                    packed.spend(size)
                elif number not in raw and not data[at : at + size].isascii():
                    _check_text(data[at : at + size], f"{place}: field {number} of a {kind} at byte {at}")
                at += size
            elif wire == 0:
                _, at = _varint(data, at, stop, place)
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                raise FormatError(f"{place}: wire type {wire} at byte {at}, expected 0, 1, 2 or 5")
        if at > stop:
            raise FormatError(f"{place}: truncated: a number at byte {stop} is cut off")


def _check_text(data: bytes, where: str) -> None:
    try:
        data.decode()
    except UnicodeDecodeError:
        raise FormatError(f"{where} is {data[:20]!r}, expected text in UTF-8") from None


def _varint(data: bytes, at: int, stop: int, place: str) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends."""
    byte = data[at] if at < stop else 0x80
    if byte < 0x80:
        return byte, at + 1
    value = 0
    for place_of_byte in range(10):
        if at >= stop:
            raise FormatError(f"{place}: truncated: a number at byte {stop} is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << 7 * place_of_byte
        if byte < 0x80:
            return value, at
    raise FormatError(f"{place}: a number of more than ten bytes at byte {at}")
