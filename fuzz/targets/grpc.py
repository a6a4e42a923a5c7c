"""gRPC messages to the service's methods, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import random

import numpy as np
from grpc import StatusCode
from malformed_requests import Attack
from mutate import change_protobuf
from outcome import WrongResult
from served import models

from rnncore.serve import Limits, Service
from rnncore.serve.grpc_service import _Answers, _Handlers
from rnncore.serve.messages import message, methods
from rnncore.serve.metrics import AnswerMetrics
from rnncore.serve.middleware import Tokens
from targets._files import stored
from targets._service import errors_logged

__all__ = ["mutate", "run", "seeds"]

LOOP = asyncio.new_event_loop()
SERVICE = Service(models(), Limits(max_body_size=1 << 20, max_steps=4096, max_sequences=8))
CALLS, ANSWERS = _Handlers(SERVICE, Tokens(()), AnswerMetrics()), _Answers(SERVICE)
UNARY = sorted(name for name, (_, _, streams) in methods().items() if not streams)
HANDLERS = {name: CALLS.unary(name, methods()[name][0], getattr(ANSWERS, name)) for name in UNARY}
STREAM = CALLS.stream("ModelStreamInfer", methods()["ModelStreamInfer"][0], ANSWERS.ModelStreamInfer)
ALLOWED = {
    *(StatusCode.INVALID_ARGUMENT, StatusCode.NOT_FOUND, StatusCode.PERMISSION_DENIED),
    *(StatusCode.RESOURCE_EXHAUSTED, StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED),
}


class _Aborted(Exception):
    pass


class _Context:
    """What a handler asks of a call."""

    code = None

    def invocation_metadata(self):
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    def time_remaining(self):
        return None

    async def send_initial_metadata(self, metadata) -> None:
        pass

    async def abort(self, code, text) -> None:
        self.code = code
        raise _Aborted(text)


def run(data: bytes) -> int:
    """The first byte chooses the method. An answer, or one of the codes that refusals have."""
    kind, data = data[0] if data else 0, data[1:]
    context = _Context()
    with errors_logged() as errors, contextlib.suppress(_Aborted):
        LOOP.run_until_complete(_call(kind, data, context))
    if errors:
        raise errors[0]
    if context.code is not None and context.code not in ALLOWED:
        raise WrongResult(f"code {context.code}")
    return 64 * len(data)


async def _call(kind: int, data: bytes, context: _Context) -> None:
    if kind < 128:
        answer = await HANDLERS[UNARY[kind % len(UNARY)]](data, context)
        answer.SerializeToString()
        return

    async def requests():
        for _ in range(2):
            yield data

    async for answer in STREAM(requests(), context):
        answer.SerializeToString()


def seeds() -> list[bytes]:
    infer, attack, found = UNARY.index("ModelInfer"), Attack(0), []
    for binary in (False, True):
        for place in range(12):
            model, request, raw = attack.any(True)
            found.append(bytes([infer if place % 3 else 128]) + as_message(model, request, raw, binary, place))
    for name in UNARY:
        if name != "ModelInfer":
            found.append(bytes([UNARY.index(name)]) + b"\x0a\x06tagger")
    return [*found, *stored("grpc")]


def as_message(model: str, request: dict, raw: bytes, binary: bool, place: int) -> bytes:
    """A request of the REST form as a ModelInferRequest."""
    made = message("ModelInferRequest")(model_name=model, id="x")
    if place % 2:
        made.parameters["sequence_id"].int64_param = 5
        made.parameters["sequence_start"].bool_param = True
    for entry in request["inputs"]:
        size = entry["parameters"]["binary_data_size"]
        tensor = made.inputs.add(name=entry["name"], datatype=entry["datatype"], shape=entry["shape"])
        if binary:
            made.raw_input_contents.append(raw[:size])
        elif entry["datatype"] == "FP32":
            tensor.contents.fp32_contents.extend(np.frombuffer(raw[:size], "<f4").tolist())
        else:
            tensor.contents.int64_contents.extend(np.frombuffer(raw[:size], "<i8").tolist())
        raw = raw[size:]
    return made.SerializeToString()


def mutate(data: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(256) if rng.random() < 0.05 else data[0] if data else 0
    return bytes([kind]) + change_protobuf(data[1:], rng)
