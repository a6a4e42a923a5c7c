"""A gRPC server to ask: in this process, on a port of its own."""

import asyncio
import contextlib
import queue
import threading

from served import models

from rnncore.serve import Limits, Service
from rnncore.serve.grpc_service import GrpcServer
from rnncore.serve.metrics import AnswerMetrics
from rnncore.serve.middleware import Tokens

MODELS = models()


@contextlib.contextmanager
def running(tokens=(), networks=MODELS, connections=1024, handshake_timeout=10.0, **limits):
    """A server in a thread with a loop of its own: "host:port", and its service and metrics."""
    service, metrics, ready, loop = Service(networks, Limits(**limits)), AnswerMetrics(), queue.Queue(), None

    async def serve():
        nonlocal loop
        loop, end = asyncio.get_running_loop(), asyncio.Event()
        own = {"connections": connections, "handshake_timeout": handshake_timeout}
        server = GrpcServer(service, Tokens(tokens), metrics, "127.0.0.1:0", **own)
        await server.start()
        ready.put((f"127.0.0.1:{server.port}", end))
        await end.wait()
        await server.stop(5)
        await service.shutdown()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    address, end = ready.get(timeout=60)
    try:
        yield address, service, metrics
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(20)
        assert not thread.is_alive()
