"""The same service over gRPC, inference.GRPCInferenceService, as tritonclient and KServe speak it. Extra "grpc"."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from grpc import aio

from rnncore.errors import EngineClosedError
from rnncore.serve.grpc_connections import GrpcConnections
from rnncore.serve.logs import LOG, log_request
from rnncore.serve.messages import SERVICE, message, methods
from rnncore.serve.metrics import AnswerMetrics
from rnncore.serve.middleware import REQUEST_ID, Tokens, new_id
from rnncore.serve.protocol import Expected, InferRequest, as_parameters, check_parameters, short
from rnncore.serve.service import VERSION, Service, Share
from rnncore.serve.service_errors import ServiceError, service_error_of
from rnncore.serve.tensors import array_of_bytes, array_of_numbers, as_integer, datatype

__all__ = ["GrpcServer"]

CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
FREE = ("ServerLive", "ServerReady", "ModelReady")
EMPTY = ("ServerLive", "ServerReady")  # of these, those whose request has nothing in it
STRANGERS, STRANGERS_SECONDS = 8, 5.0  # messages that are read at a time of clients without a token, and for how long
IDLE_SECONDS = 120  # a connection without calls is closed, and opened again by its client when it has one
QUIET_SECONDS = 0.5  # at the end without a call that runs: those that are left have no complete message
STALL_SECONDS = 2.0  # at the end for a stream whose client does not take its answers
HEADROOM = 1 << 20  # bytes of a message in addition to its tensors
IDENTITY_ONLY = 1  # of the bits of grpc.compression_enabled_algorithms_bitset
MOST_AT_ONCE = 64  # requests of one stream that are worked on
PORT = re.compile(r":[0-9]+\Z")


class GrpcServer:
    """A gRPC server in the running event loop.

    service, tokens, metrics   as the HTTP app has them: sequences and limits are the same
    certificate   (certificate chain, private key) in PEM, or None
    handshake_timeout   seconds until a connection must be one of HTTP/2, and a TLS handshake complete
    connections   that may be open; those of clients that never had a token give way: see GrpcConnections

    Of a client without a token no message is read, but for a few at a time that ask for a model's readiness.
    """

    def __init__(
        self,
        service: Service,
        tokens: Tokens,
        metrics: AnswerMetrics,
        address: str,
        certificate: tuple[bytes, bytes] | None = None,
        handshake_timeout: float = 10.0,
        connections: int = 1024,
    ):
        size = service.limits.max_body_size + HEADROOM
        options = [
            ("grpc.max_receive_message_length", size),
            ("grpc.max_send_message_length", -1),
            ("grpc.compression_enabled_algorithms_bitset", IDENTITY_ONLY),
            ("grpc.so_reuseport", 0),
            ("grpc.server_handshake_timeout_ms", round(1000 * handshake_timeout)),
            ("grpc.max_connection_idle_ms", 1000 * IDLE_SECONDS),
            ("grpc.max_allowed_incoming_connections", connections),
        ]
        self._server = aio.server(options=options)
        self._handlers = _Handlers(service, tokens, metrics)
        self._server.add_generic_rpc_handlers((_Methods(_Answers(service), self._handlers),))
        if certificate is None:
            self.port = self._server.add_insecure_port(address)
        else:
            chain, key = certificate
            self.port = self._server.add_secure_port(address, grpc.ssl_server_credentials([(key, chain)]))
        self._handlers.connections = self._connections = GrpcConnections(self.port, connections)
        self._watching: asyncio.Task | None = None

    async def start(self) -> None:
        await self._server.start()
        self._watching = asyncio.get_running_loop().create_task(self._connections.watch())

    async def stop(self, seconds: float, linger: float = 1.0) -> None:
        """Take no more requests of streams, then no more calls; wait for those that run.

        Connections with streams stay open for ``linger`` seconds after the last answer: what their clients send until
        they have read that the stream ended would meet a closed connection, and take unread answers with it. Clients
        whose message is incomplete, or which do not take the answers, are not waited for.
        """
        had_streams = self._handlers.end_streams()
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        await self._quiet(lambda: not self._handlers.streams, STALL_SECONDS, end)
        if had_streams:
            await asyncio.sleep(linger)
        stopping = loop.create_task(self._server.stop(max(0.0, end - loop.time())))
        await self._quiet(stopping.done, QUIET_SECONDS, end)
        await self._server.stop(None)
        await stopping
        if self._watching is not None:
            self._watching.cancel()

    async def _quiet(self, done: Callable[[], bool], seconds: float, end: float) -> None:
        """Wait until it is done, or no request was worked on for ``seconds``, or until the end."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        while not done() and loop.time() < end:
            if self._handlers.working:
                since = loop.time()
            elif loop.time() > since + seconds:
                return
            await asyncio.sleep(0.02)


class _Methods(grpc.GenericRpcHandler):
    """The methods. One is looked up before its message is read, so a client without a token is refused here."""

    def __init__(self, answers: _Answers, handlers: _Handlers):
        self._handlers = handlers
        self._owned, self._free = {}, {}
        for name, (request, answer, streams) in methods().items():
            make = grpc.stream_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
            handle = (handlers.stream if streams else handlers.unary)(name, request, getattr(answers, name))
            path, written = f"/{SERVICE}/{name}", answer.SerializeToString
            self._owned[path] = make(handle, None, written)  # requests come as bytes, which may be anything
            handle = handlers.stranger(name, request, getattr(answers, name) if name in FREE else None)
            self._free[path] = grpc.stream_stream_rpc_method_handler(handle, None, written)

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """The handler of a call; a stream's where the message is not to be read before it is asked for."""
        try:
            self._handlers.check(details.invocation_metadata)
        except ServiceError:
            return self._free.get(details.method)
        return self._owned.get(details.method)


class _Handlers:
    """The handlers that every call goes through: its id, its token, a line in the log, a count."""

    def __init__(self, service: Service, tokens: Tokens, metrics: AnswerMetrics):
        self._service, self._tokens, self._metrics = service, tokens, metrics
        self._taking: set[asyncio.Task] = set()  # what reads the requests of each stream
        self._strangers = asyncio.Semaphore(STRANGERS)
        self.connections: GrpcConnections | None = None  # of the port, once it is known
        self.streams = 0  # that are open
        self.working = 0  # requests whose message is complete
        self._ending = False

    def check(self, metadata: Iterable[tuple[str, str]]) -> None:
        """ServiceError where a call has no valid token, or two."""
        self._tokens.owner(_authorization(metadata), "")

    def end_streams(self) -> bool:
        """Read no more requests of streams; what was read is answered, then the stream is UNAVAILABLE. Whether there
        are any."""
        self._ending = True
        for taking in self._taking:
            taking.cancel()
        return self.streams > 0

    def unary(self, name: str, kind: Any, answer: Any) -> Any:
        async def handle(data: bytes, context: aio.ServicerContext) -> Any:
            call = _Call(self._metrics, self._service, name)
            self.working += 1
            try:
                with call:
                    try:
                        call.name(_metadata(context).get("x-request-id", ""))
                        owner = self._owner(context)
                        await context.send_initial_metadata((("x-request-id", call.id),))
                        request = call.parse(kind, data)
                        return await answer(request, owner, context.time_remaining())
                    except Exception as error:
                        refusal = call.refuse(error)
                    await context.abort(call.code, f"{refusal} (request {call.id})")
            finally:
                self.working -= 1

        return handle

    def stranger(self, name: str, kind: Any, answer: Any) -> Any:
        """The answer to a client without a token: that of a method that is free, or why there is none."""

        async def read(context: aio.ServicerContext) -> bytes:
            if name in EMPTY:
                return b""
            try:
                async with self._strangers, asyncio.timeout(STRANGERS_SECONDS):
                    data = await context.read()
            except TimeoutError:
                raise ServiceError(504, "the message did not arrive in time") from None
            return data if isinstance(data, bytes) else b""

        async def handle(requests: AsyncIterator, context: aio.ServicerContext) -> None:
            call = _Call(self._metrics, self._service, name)
            with call:
                try:
                    call.name(_metadata(context).get("x-request-id", ""))
                    _authorization(context.invocation_metadata() or ())
                    if answer is None:
                        self._owner(context)
                    await context.send_initial_metadata((("x-request-id", call.id),))
                    await context.write(await answer(call.parse(kind, await read(context)), "", None))
                    return
                except Exception as error:
                    refusal = call.refuse(error)
                await context.abort(call.code, f"{refusal} (request {call.id})")

        return handle

    def stream(self, name: str, kind: Any, answer: Any) -> Any:
        """Answers in the order of the requests, which are worked on concurrently; their ids are in the log."""

        async def one(data: bytes, owner: str) -> Any:
            call = _Call(self._metrics, self._service, name)
            response = message("ModelStreamInferResponse")()
            self.working += 1
            try:
                with call:
                    try:
                        request = call.parse(kind, data)
                        call.name(request.id)
                        response.infer_response.id = request.id
                        response.infer_response.CopyFrom(await answer(request, owner, None))
                    except Exception as error:
                        response.error_message = f"{call.refuse(error)} (request {call.id})"
            finally:
                self.working -= 1
            return response

        async def handle(requests: AsyncIterator, context: aio.ServicerContext) -> AsyncIterator:
            owner = self._owner(context)
            working: asyncio.Queue = asyncio.Queue()
            places = asyncio.Semaphore(MOST_AT_ONCE)

            async def take() -> None:
                async for data in requests:
                    await places.acquire()
                    working.put_nowait(asyncio.ensure_future(one(data, owner)))

            taking = asyncio.ensure_future(take())
            self._taking.add(taking)
            taking.add_done_callback(self._taking.discard)
            taking.add_done_callback(lambda _: working.put_nowait(None))
            if self._ending:
                taking.cancel()
            self.streams += 1
            try:
                while (asked := await working.get()) is not None:
                    yield await asked
                    places.release()
                if self._ending:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, str(service_error_of(EngineClosedError())))
            finally:
                self.streams -= 1
                taking.cancel()
                while not working.empty():
                    asked = working.get_nowait()
                    if asked is not None:
                        asked.cancel()

        return handle

    def _owner(self, context: aio.ServicerContext) -> str:
        peer = context.peer()
        address = PORT.sub("", peer).partition(":")[2].strip("[]")
        owner = self._tokens.owner(_authorization(context.invocation_metadata() or ()), address)
        if self.connections is not None:
            self.connections.trust(peer)
        return owner


class _Call:
    """One call, in the log and the counts."""

    def __init__(self, metrics: AnswerMetrics, service: Service, route: str):
        self._metrics, self._service, self._route = metrics, service, route
        self.id, self.code, self.model = new_id(), grpc.StatusCode.OK, ""

    def name(self, id: str) -> None:
        """The client's own id of the request, if it gave one."""
        if REQUEST_ID.fullmatch(id.encode()):
            self.id = id

    def parse(self, kind: Any, data: bytes) -> Any:
        """The request in these bytes; a ServiceError where they are none."""
        try:
            request = kind.FromString(data)
        except DecodeError:
            raise ServiceError(400, f"the message is not a {kind.DESCRIPTOR.name}") from None
        self.model = getattr(request, "model_name", getattr(request, "name", ""))
        return request

    def refuse(self, error: Exception) -> ServiceError:
        """The error as the client is told of it; the log has the rest."""
        refusal = service_error_of(error)
        if refusal.status == 500:
            LOG.error("internal error", exc_info=error, extra={"fields": {"request_id": self.id}})
        self.code = CODES[refusal.status]
        return refusal

    def __enter__(self) -> _Call:
        self._start = time.perf_counter()
        self._metrics.began()
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        seconds = time.perf_counter() - self._start
        status = "CANCELLED" if isinstance(error, asyncio.CancelledError) else self.code.name
        model = self.model if self.model in self._service.models else ""
        self._metrics.ended("grpc", self._route, model, status, seconds)
        log_request(request_id=self.id, route=self._route, model=model, status=status, seconds=round(seconds, 6))


def _authorization(metadata: Iterable[tuple[str, Any]]) -> str | None:
    """The one value of this name. ServiceError where there are two."""
    values = [value for key, value in metadata if key == "authorization"]
    if len(values) > 1:
        raise ServiceError(400, f"{len(values)} values of 'authorization', expected at most one")
    return values[0] if values else None


def _metadata(context: aio.ServicerContext) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


class _Answers:
    """The answer of each method, from the request, its owner and the seconds that the client waits."""

    def __init__(self, service: Service):
        self._service = service

    async def ServerLive(self, request: Any, owner: str, left: float | None) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def ServerReady(self, request: Any, owner: str, left: float | None) -> Any:
        return message("ServerReadyResponse")(ready=self._service.ready)

    async def ServerMetadata(self, request: Any, owner: str, left: float | None) -> Any:
        return message("ServerMetadataResponse")(**self._service.metadata())

    async def ModelReady(self, request: Any, owner: str, left: float | None) -> Any:
        self._service.model(request.name, request.version)
        return message("ModelReadyResponse")(ready=self._service.ready)

    async def ModelMetadata(self, request: Any, owner: str, left: float | None) -> Any:
        metadata = self._service.model(request.name, request.version).metadata()
        for entry in metadata["inputs"]:
            entry.pop("parameters", None)
        return message("ModelMetadataResponse")(**metadata)

    async def ModelConfig(self, request: Any, owner: str, left: float | None) -> Any:
        config = self._service.model(request.name, request.version).config()
        return message("ModelConfigResponse")(config=config)

    async def ModelStatistics(self, request: Any, owner: str, left: float | None) -> Any:
        models = self._service.models.values()
        chosen = [self._service.model(request.name, request.version)] if request.name else models
        return message("ModelStatisticsResponse")(model_stats=[served.statistics() for served in chosen])

    async def RepositoryIndex(self, request: Any, owner: str, left: float | None) -> Any:
        index = self._service.index() if self._service.ready or not request.ready else []
        return message("RepositoryIndexResponse")(models=index)

    async def RepositoryModelLoad(self, request: Any, owner: str, left: float | None) -> Any:
        raise ServiceError(403, "models are neither loaded nor unloaded over the network")

    RepositoryModelUnload = RepositoryModelLoad

    async def ModelInfer(self, request: Any, owner: str, left: float | None) -> Any:
        served = self._service.model(request.model_name, request.model_version)
        with Share(self._service.budget) as share:
            share.reserve(request.ByteSize())
            asked = parse_infer(request, served.expected)
            if left is not None:
                asked.timeout = max(1e-6, min(left, served.limits.timeout if asked.timeout is None else asked.timeout))
            outputs = await served.infer(asked, owner)
            return write_infer(served.name, asked, outputs)

    ModelStreamInfer = ModelInfer


def parse_infer(request: Any, expected: Expected) -> InferRequest:
    """The request in a ModelInferRequest; a ServiceError that says what is wrong with it."""
    result = as_parameters(_plain(request.parameters))
    result.id = request.id
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise ServiceError(
            400, f"{len(raw)} raw_input_contents, expected none or one for each of {len(request.inputs)} inputs"
        )
    for place, tensor in enumerate(request.inputs):
        name = tensor.name
        if name in result.inputs:
            raise ServiceError(400, f"input {short(name)} is there twice")
        dtype = expected.dtype(name, tensor.datatype)
        parameters = _plain(tensor.parameters)
        check_parameters(f"input {name!r}", parameters)
        shape = expected.shape(name, list(tensor.shape), dtype)
        if not raw:
            array = _array_of_contents(name, tensor, shape, dtype)
        elif tensor.HasField("contents"):
            raise ServiceError(400, f"input {name!r} has both contents and raw_input_contents")
        else:
            _check_size(name, parameters, len(raw[place]))
            array = array_of_bytes(name, raw[place], shape, dtype)
        result.inputs[name] = expected.cast(name, array)
    if request.outputs:
        result.outputs = {}
        for output in request.outputs:
            check_parameters(f"output {short(output.name)}", _plain(output.parameters))
            if output.name in result.outputs:
                raise ServiceError(400, f"output {short(output.name)} is there twice")
            result.outputs[expected.check_output(output.name)] = True
    return result


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in parameters.items()}
    return {name: getattr(parameters[name], choice) if choice else None for name, choice in chosen.items()}


def _check_size(name: str, parameters: Mapping[str, Any], size: int) -> None:
    """KServe's client says the size of raw bytes here too."""
    given = parameters.get("binary_data_size", size)
    if as_integer(given) != size:
        raise ServiceError(
            400, f"input {name!r}: binary_data_size {short(given)}, but {size} bytes in raw_input_contents"
        )


def _array_of_contents(name: str, tensor: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array from the typed numbers of a message."""
    wanted = CONTENTS.get(tensor.datatype)
    for field, _ in tensor.contents.ListFields():
        if field.name != wanted:
            raise ServiceError(400, f"input {name!r}: {field.name}, expected {wanted or 'raw_input_contents'}")
    numbers = getattr(tensor.contents, wanted) if wanted else ()
    count = math.prod(shape)
    if len(numbers) != count:
        raise ServiceError(400, f"input {name!r}: {len(numbers)} numbers, expected {count} for {list(shape)}")
    return array_of_numbers(name, list(numbers), shape, dtype)


def write_infer(model: str, request: InferRequest, outputs: Mapping[str, np.ndarray]) -> Any:
    """The answer, with raw bytes."""
    answer = message("ModelInferResponse")(model_name=model, model_version=VERSION, id=request.id)
    for name in outputs if request.outputs is None else request.outputs:
        array = outputs[name]
        answer.outputs.add(name=name, datatype=datatype(array.dtype), shape=array.shape)
        answer.raw_output_contents.append(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return answer
