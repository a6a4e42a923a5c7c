"""Recognise a file by its first bytes or its members: which reader it goes to, or what a refusal says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rnncore.errors import FormatError, RnncoreError, UnsupportedError

__all__ = [
    *("is_hdf5", "is_keras_zip", "is_npy", "is_npz", "is_onnx", "is_torch_stream", "is_torch_zip"),
    *("refuse", "refuse_zip"),
]

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_MAGIC_BYTES = b"\x8a\x0a" + TORCH_MAGIC.to_bytes(10, "little")  # as the first pickle of a stream holds it
NPY_MAGIC = b"\x93NUMPY"


def _at(offset: int, *magics: bytes) -> Callable[[bytes], bool]:
    return lambda head: head[offset:].startswith(magics)


def _markup(*openings: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(openings)


# The fields of ONNX's ModelProto by tag (number << 3 | wire type): 0 a varint, 2 bytes with their length before them.
_MODEL_TAGS = {1 << 3, 5 << 3, *(number << 3 | 2 for number in (2, 3, 4, 6, 7, 8, 14, 20, 25, 26))}
_IR_VERSION, _GRAPH = 1 << 3, 7 << 3 | 2


def is_onnx(head: bytes) -> bool:
    """A protobuf of nothing but ModelProto's fields, an ir_version from 3 up or a graph among them."""
    at, seen = 0, False
    while at < len(head):
        tag, at = _varint(head, at)
        value, at = _varint(head, at)
        if -1 in (tag, value):
            break  # cut off where the head ends
        if tag not in _MODEL_TAGS or (tag == _IR_VERSION and not 3 <= value < 64):
            return False
        seen = seen or tag in (_IR_VERSION, _GRAPH)
        at += value if tag & 7 else 0
    return seen


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends; -1 if there is no such number."""
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    return -1, len(data)


def is_torch_zip(names: Iterable[str]) -> bool:
    """Whether a zip archive with these members is torch's."""
    return any(name.endswith(("/data.pkl", "/constants.pkl")) or name == "data.pkl" for name in names)


def is_torch_stream(head: bytes) -> bool:
    """Whether these first bytes are torch's older stream's: its magic number as a pickle, with or without a frame."""
    return head[:1] == b"\x80" and TORCH_MAGIC_BYTES in (head[2:14], head[11:23])


def is_npz(names: Iterable[str]) -> bool:
    """Whether a zip archive with these members is numpy's."""
    return any(name.endswith(".npy") for name in names)


def is_npy(head: bytes) -> bool:
    return head.startswith(NPY_MAGIC)


def is_hdf5(head: bytes) -> bool:
    """HDF5's signature, where Keras's .h5 files have it."""
    return head.startswith(b"\x89HDF\r\n\x1a\n")


def is_keras_zip(names: Iterable[str]) -> bool:
    """Whether a zip archive with these members is a .keras file."""
    members = set(names)
    return "config.json" in members and any(name.startswith("model.weights.") for name in members)


def _is_text(head: bytes) -> bool:
    return all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head)


def _is_flax(head: bytes) -> bool:
    """A map of a few entries whose first key is a short text."""
    return len(head) > 2 and 0x81 <= head[0] <= 0x8F and 0xA1 <= head[1] <= 0xBF and _is_text(head[2:4])


def _is_core_ml(head: bytes) -> bool:
    """specificationVersion, a small number, then the description."""
    return len(head) > 2 and head[0] == 0x08 and 1 < head[1] < 32 and head[2] == 0x12


def _is_frozen_graph(head: bytes) -> bool:
    """GraphDef: a node, which begins with its name and its op."""
    _, at = _varint(head, 1)
    if head[:1] != b"\x0a" or head[at : at + 1] != b"\x0a":
        return False
    length, at = _varint(head, at + 1)
    return 0 < length < 400 and _is_text(head[at : at + length]) and head[at + length : at + length + 1] == b"\x12"


def _is_program(head: bytes) -> bool:
    """ProgramDesc: a block of index 0 and a parent."""
    _, at = _varint(head, 1)
    return head[:1] == b"\x0a" and head[at : at + 3] == b"\x08\0\x10"


# what it looks like, what it is, whether it is a format that holds models (else the file is no model at all)
KNOWN: tuple[tuple[Callable[[bytes], bool], str, bool], ...] = (
    (lambda head: not head, "an empty file", False),
    (_at(0, b"\x1f\x8b"), "gzip: unpack it first", True),
    (_at(0, b"BZh"), "bzip2: unpack it first", True),
    (_at(0, b"\xfd7zXZ\0"), "xz: unpack it first", True),
    (_at(0, b"\x28\xb5\x2f\xfd"), "zstandard: unpack it first", True),
    (_at(0, b"7z\xbc\xaf\x27\x1c"), "7-zip: unpack it first", True),
    (_at(257, b"ustar"), "a tar archive, or the tar container that torch wrote before 0.2: unpack or resave it", True),
    (_at(0, b"version https://git-lfs.github.com/spec"), "a git-lfs pointer: fetch the file with git lfs pull", False),
    (_markup(b"<!doctype html", b"<html"), "an HTML page, perhaps an error of the download", False),
    (_markup(b"<?xml", b"<net"), "XML, as OpenVINO writes", True),
    (_markup(b"{", b"["), "JSON text", False),
    (_at(0, b"GGUF"), "GGUF", True),
    (_at(4, b"TFL3"), "TensorFlow Lite: convert the model that it was made of, or this one by tflite2onnx", True),
    (_at(4, b"ORTM"), "ONNX Runtime's .ort: load the .onnx that it was made of", True),
    (_at(0, b"\x08\x01\x12"), "a TensorFlow SavedModel: save the model as .keras, or convert it by tf2onnx", True),
    (_is_core_ml, "Core ML: load the model that it was converted from", True),
    (_is_program, "a PaddlePaddle program: convert it by paddle2onnx", True),
    (_is_frozen_graph, "a frozen TensorFlow graph: convert it by tf2onnx", True),
    (
        _at(0, b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
        "a pickle that torch.save did not write, which only "
        "the program that made it can read: write its arrays by numpy.savez",
        True,
    ),
    (_is_flax, "a msgpack of Flax: write its arrays by numpy.savez or safetensors", True),
    (_at(0, b"\x12\x01\0\0\0\0\0\0"), "MXNet's parameters: write them by numpy.savez", True),
    (_at(0, b"\0B<", b"<Nnet", b"<TransitionModel>"), "a Kaldi model", True),
    (_at(0, b"\x04\0\0\0\x01\0\0\0"), "a Lua Torch file", True),
    (_is_text, "plain text", False),
)


def refuse(place: str, head: bytes, expected: str) -> RnncoreError:
    """The error for a file that begins with these bytes."""
    for looks_like, what, model in KNOWN:
        if looks_like(head):
            kind = UnsupportedError if model else FormatError
            return kind(f"{place}: seems to be {what}; expected {expected}")
    return FormatError(f"{place}: begins with {head[:8]!r}, which is no format that is known; expected {expected}")


def refuse_zip(place: str, names: Iterable[str], expected: str) -> RnncoreError:
    """The error for a zip archive of these members."""
    members = list(names)
    if any(name.endswith("archive_format") for name in members):
        return UnsupportedError(f"{place}: seems to be a torch.export archive (.pt2); expected {expected}")
    some = ", ".join(ascii(name[:60]) for name in members[:3]) or "nothing"
    return FormatError(f"{place}: a zip archive of {len(members)} members ({some}); expected {expected}")
