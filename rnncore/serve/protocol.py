"""A request for inference, whichever transport it came by, and its JSON and binary form of the protocol.

POST body    JSON object, then (with the header Inference-Header-Content-Length, its size) raw bytes of the inputs
             that have parameters.binary_data_size, in their order
answer       the same, for the outputs that were asked for with parameters.binary_data
"""

from __future__ import annotations

import functools
import json
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from rnncore.serve.service_errors import ServiceError
from rnncore.serve.tensors import (
    FLOATS,
    array_of_bytes,
    array_of_json,
    as_integer,
    check_shape,
    datatype,
    json_of_array,
)
from rnncore.serve.tensors import (
    cast as cast_array,
)

__all__ = [
    "Expected",
    "InferRequest",
    "SequenceStep",
    "as_parameters",
    "check_parameters",
    "parse_infer",
    "write_infer",
]

MOST_JSON_NAMES = 256
MOST_JSON_OBJECTS = 4096
DEFAULT_PRIORITY = 100
MOST_PRIORITY = (1 << 32) - 1
MOST_TIMEOUT = MOST_BYTES = (1 << 63) - 1
MOST_SEQUENCE_ID = (1 << 64) - 1
ID_CHARACTERS = 256
HEADS = 256  # answers' JSON that is kept
REQUEST_KEYS = {"id", "model_name", "parameters", "inputs", "outputs"}  # model_name: KServe's client says it again
INPUT_KEYS = {"name", "shape", "datatype", "parameters", "data"}
OUTPUT_KEYS = {"name", "parameters"}
# Parameters that ask for another answer than this service gives. Unknown ones are ignored, as the protocol has it.
UNSUPPORTED = {"classification", "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"}


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON, send it as binary data")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys all differ."""
    items = dict(pairs)
    if len(items) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ServiceError(400, f"key {short(next(key for key in keys if keys.count(key) > 1))} is twice in one object")
    return items


DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class SequenceStep:
    """The sequence that a request belongs to, and whether it is its first or last."""

    id: int | str
    start: bool
    end: bool


@dataclass
class InferRequest:
    """A request for a model. outputs: name -> whether as raw bytes; None: all of them. timeout in seconds."""

    id: str = ""
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    outputs: dict[str, bool] | None = None
    binary: bool = False
    sequence: SequenceStep | None = None
    priority: int = DEFAULT_PRIORITY
    timeout: float | None = None


@dataclass(frozen=True)
class Expected:
    """The limits of a model's requests: inputs and their dtypes, outputs, bytes of an array and of JSON at most."""

    inputs: Mapping[str, np.dtype]
    outputs: tuple[str, ...]
    most_bytes: int
    most_json: int

    def dtype(self, name: Any, given: Any) -> np.dtype:
        """The dtype that an input is sent in, which the client must name: the model's, or any float for floats."""
        if name not in self.inputs:
            raise ServiceError(400, f"input {short(name)} is unknown, expected {', '.join(self.inputs)}")
        dtype = self.inputs[name]
        if dtype.kind == "f" and type(given) is str and given in FLOATS:
            return FLOATS[given]
        if given != datatype(dtype):
            names = ", ".join(FLOATS) if dtype.kind == "f" else datatype(dtype)
            raise ServiceError(400, f"input {name!r}: datatype {short(given)}, expected {names}")
        return dtype

    def shape(self, name: str, given: Any, dtype: np.dtype) -> tuple[int, ...]:
        """The shape of an input, whose array is small enough as it is sent and as the model gets it."""
        return check_shape(name, given, max(dtype.itemsize, self.inputs[name].itemsize), self.most_bytes)

    def cast(self, name: str, array: np.ndarray) -> np.ndarray:
        """An input as the model gets it."""
        return cast_array(name, array, self.inputs[name])

    def check_output(self, name: Any) -> str:
        if name not in self.outputs:
            raise ServiceError(400, f"output {short(name)} is unknown, expected {', '.join(self.outputs)}")
        return name


def short(value: Any) -> str:
    """A client's value in a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def parse_infer(body: bytes, header_length: str | None, expected: Expected) -> InferRequest:
    """The request in a body; a ServiceError that says what is wrong with it."""
    size = len(body) if header_length is None else _header_length(header_length, len(body))
    if size > expected.most_json:
        raise ServiceError(413, f"{size} bytes of JSON, expected at most {expected.most_json}: send binary data")
    body_object = _object("the request", load_json(body[:size] if size < len(body) else body))
    _check_keys(body_object, REQUEST_KEYS, "the request")
    request = as_parameters(_object("parameters", body_object.get("parameters", {})))
    request.id = body_object.get("id", "")
    if not isinstance(request.id, str) or len(request.id) > ID_CHARACTERS:
        raise ServiceError(400, f"id {short(request.id)}, expected a string of at most {ID_CHARACTERS} characters")
    if type(body_object.get("model_name", "")) is not str:
        raise ServiceError(400, f"model_name {short(body_object['model_name'])}, expected a string")
    rest = memoryview(body)[size:]
    for entry in _objects("inputs", body_object.get("inputs")):
        rest = _take_input(entry, rest, request, expected)
    if len(rest):
        raise ServiceError(400, f"{len(rest)} bytes are left after the inputs' binary data, expected none")
    outputs = body_object.get("outputs")
    if outputs is not None and outputs != []:  # an empty array asks for all of them
        request.outputs = {}
        for entry in _objects("outputs", outputs):
            _take_output(entry, request, expected)
    return request


def load_json(text: bytes) -> Any:
    """JSON as the standard has it: no NaN, and no key twice in an object. A ServiceError where it is not."""
    if text.count(b"{") > MOST_JSON_OBJECTS:
        raise ServiceError(400, f"the body has more than {MOST_JSON_OBJECTS} objects")
    try:
        return DECODER.decode(text.decode())
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ServiceError(400, f"the body is not JSON: {reason}") from None


def as_parameters(given: Mapping[str, Any]) -> InferRequest:
    """A request with what its parameters say; those that the protocol does not name are checked and ignored."""
    request = InferRequest()
    sequence: dict[str, Any] = {"sequence_id": None, "sequence_start": False, "sequence_end": False}
    for name, value in given.items():
        if name in sequence:
            sequence[name] = value
        elif name == "binary_data_output":
            request.binary = _flag(name, value)
        elif name == "priority":
            request.priority = _integer(name, value, MOST_PRIORITY) or DEFAULT_PRIORITY
        elif name == "timeout":
            request.timeout = _integer(name, value, MOST_TIMEOUT) / 1e6 or None
        else:
            check_parameters("the request", {name: value})
    request.sequence = _sequence(**sequence)
    return request


def check_parameters(whose: str, given: Mapping[str, Any], known: str = "") -> None:
    """Check the parameters of a request or tensor; known: one that is checked elsewhere.

    ServiceError where one is not what the protocol allows (a string, number or boolean), or asks for what is not done.
    """
    for name, value in given.items():
        if name in UNSUPPORTED:
            raise ServiceError(400, f"{whose}: parameter {name!r} is not supported")
        if name != known and type(value) not in (str, bool, int, float):
            raise ServiceError(
                400, f"{whose}: parameter {short(name)} is {short(value)}, expected a string, number or boolean"
            )


def _sequence(sequence_id: Any, sequence_start: Any, sequence_end: Any) -> SequenceStep | None:
    start, end = _flag("sequence_start", sequence_start), _flag("sequence_end", sequence_end)
    if sequence_id is None or sequence_id == 0 or sequence_id == "":
        if start or end or isinstance(sequence_id, bool):
            raise ServiceError(400, "sequence_start or sequence_end without a sequence_id, expected one that is not 0")
        return None
    if isinstance(sequence_id, str):
        if len(sequence_id) > ID_CHARACTERS:
            raise ServiceError(400, f"sequence_id of {len(sequence_id)} characters, expected at most {ID_CHARACTERS}")
        return SequenceStep(sequence_id, start, end)
    number = as_integer(sequence_id)
    if number is None or not 0 < number <= MOST_SEQUENCE_ID:
        raise ServiceError(400, f"sequence_id {short(sequence_id)}, expected a string or an integer of 64 bits")
    return SequenceStep(number, start, end)


def _flag(name: str, value: Any) -> bool:
    if type(value) is not bool:
        raise ServiceError(400, f"parameter {name}: {short(value)}, expected true or false")
    return value


def _integer(name: str, value: Any, most: int) -> int:
    number = as_integer(value)
    if number is None or not 0 <= number <= most:
        raise ServiceError(400, f"parameter {name}: {short(value)}, expected an integer from 0 to {most}")
    return number


def _header_length(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 12 or int(text) > most:
        raise ServiceError(400, f"Inference-Header-Content-Length {short(text)}, expected 0 to the body's {most} bytes")
    return int(text)


def _object(what: str, value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise ServiceError(400, f"{what} is {short(value)}, expected an object")
    return value


def _objects(what: str, value: Any) -> list[dict[str, Any]]:
    if type(value) is not list or len(value) > MOST_JSON_NAMES:
        raise ServiceError(400, f"{what} is not an array of at most {MOST_JSON_NAMES} objects")
    return [_object(f"an element of {what}", entry) for entry in value]


def _check_keys(given: Mapping[str, Any], known: set[str], what: str, name: Any = None) -> None:
    if given.keys() <= known:
        return
    whose = what if name is None else f"{what} {short(name)}"
    unknown = next(key for key in given if key not in known)
    raise ServiceError(400, f"{whose} has {short(unknown)}, expected {', '.join(sorted(known))}")


def _name(what: str, entry: Mapping[str, Any], taken: Mapping[str, Any]) -> str:
    name = entry.get("name")
    if type(name) is not str:
        raise ServiceError(400, f"an {what} has the name {short(name)}, expected a string")
    if name in taken:
        raise ServiceError(400, f"{what} {short(name)} is there twice")
    return name


def _take_input(entry: dict[str, Any], rest: memoryview, request: InferRequest, expected: Expected) -> memoryview:
    """Adds an input to the request; returns the bytes after its own."""
    name = _name("input", entry, request.inputs)
    _check_keys(entry, INPUT_KEYS, "input", name)
    dtype = expected.dtype(name, entry.get("datatype"))
    shape = expected.shape(name, entry.get("shape"), dtype)
    parameters = _object("an input's parameters", entry.get("parameters", {}))
    check_parameters(f"input {name!r}", parameters, "binary_data_size")
    data = entry.get("data")
    if "binary_data_size" not in parameters:
        if "data" not in entry:
            raise ServiceError(400, f"input {name!r} has neither data nor binary_data_size")
        request.inputs[name] = expected.cast(name, array_of_json(name, data, shape, dtype))
        return rest
    if data is not None:  # null is how KServe's client says that an empty array's bytes are binary
        raise ServiceError(400, f"input {name!r} has both data and binary_data_size")
    size = _integer("binary_data_size", parameters["binary_data_size"], MOST_BYTES)
    if size > len(rest):
        raise ServiceError(400, f"input {name!r}: binary_data_size {size}, but {len(rest)} bytes are left in the body")
    request.inputs[name] = expected.cast(name, array_of_bytes(name, rest[:size], shape, dtype))
    return rest[size:]


def _take_output(entry: dict[str, Any], request: InferRequest, expected: Expected) -> None:
    outputs = cast("dict[str, bool]", request.outputs)
    name = _name("output", entry, outputs)
    _check_keys(entry, OUTPUT_KEYS, "output", name)
    expected.check_output(name)
    parameters = _object("an output's parameters", entry.get("parameters", {}))
    check_parameters(f"output {name!r}", parameters, "binary_data")
    outputs[name] = _flag("binary_data", parameters.get("binary_data", request.binary))


def write_infer(
    model: str, version: str, request: InferRequest, outputs: Mapping[str, np.ndarray]
) -> tuple[bytes, int | None]:
    """The answer's body, and the size of its JSON where raw bytes follow."""
    wanted = dict.fromkeys(outputs, request.binary) if request.outputs is None else request.outputs
    sent = [(name, outputs[name], binary) for name, binary in wanted.items()]
    raw = [_as_sent(array) for _, array, binary in sent if binary]
    if len(raw) == len(sent) and not request.id:
        head = _binary_head(model, version, tuple((name, array.dtype, array.shape) for name, array, _ in sent))
    else:
        head = _head(model, version, request.id, [_entry(*one) for one in sent])
    return b"".join((head, *(array.data for array in raw))), len(head) if raw else None


def _as_sent(array: np.ndarray) -> np.ndarray:
    """Row-major and little-endian."""
    if array.flags.c_contiguous and array.dtype.isnative and sys.byteorder == "little":
        return array
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))


def _entry(name: str, array: np.ndarray, binary: bool) -> dict[str, Any]:
    """An output in an answer's JSON."""
    if binary:
        return _binary_entry(name, array.dtype, array.shape)
    return {**_tensor(name, array.dtype, array.shape), "data": json_of_array(name, array)}


def _binary_entry(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    size = math.prod(shape) * dtype.itemsize
    return {**_tensor(name, dtype, shape), "parameters": {"binary_data_size": size}}


def _tensor(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype(dtype), "shape": list(shape)}


def _head(model: str, version: str, id: str, entries: list[dict[str, Any]]) -> bytes:
    """An answer's JSON."""
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": entries}
    if id:
        answer["id"] = id
    return ENCODER.encode(answer).encode()


@functools.lru_cache(HEADS)
def _binary_head(model: str, version: str, arrays: tuple[tuple[str, np.dtype, tuple[int, ...]], ...]) -> bytes:
    """The JSON of an answer without an id whose outputs all are raw bytes: the same for many answers."""
    return _head(model, version, "", [_binary_entry(*array) for array in arrays])
