"""Running the app with uvicorn: where it may listen, and how it ends without losing what it accepted."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import logging
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from rnncore.errors import InputError
from rnncore.serve.application import create_app
from rnncore.serve.connection import Connection
from rnncore.serve.listener import Listener, descriptors_left, listening_sockets
from rnncore.serve.logs import LOG, REQUESTS, Lines, log
from rnncore.serve.middleware import LEAST_TOKEN
from rnncore.serve.service import Service

__all__ = ["Binding", "check_free", "is_local", "read_tokens", "run"]

ENDING_SECONDS = 60  # for requests that run when the server ends
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Binding:
    """Addresses to listen on, and limits. Anywhere but on this machine's own addresses needs tokens.

    drain_seconds     for open connections that are idle, at the end
    head_timeout      seconds until the head of a request, or a TLS handshake, must be complete
    max_connections   connections over HTTP, and the same number over gRPC; fewer if the process has fewer descriptors
    max_peer_connections   of these over HTTP, from one address
    """

    host: str = "127.0.0.1"
    port: int = 8000
    grpc_port: int | None = None
    tokens: tuple[str, ...] = ()
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    drain_seconds: float = 1.0
    head_timeout: float = 10.0
    max_connections: int = 1024
    max_peer_connections: int = 512

    def __post_init__(self):
        if not is_local(self.host) and not self.tokens:
            raise InputError(f"host {self.host!r} is reachable from other machines: a token file is needed")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise InputError("a certificate without its key, or a key without its certificate")
        for name in ("max_connections", "max_peer_connections"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)!r}, expected a positive integer")


def is_local(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_free(host: str, port: int | None) -> None:
    """InputError where a port cannot be listened on, before anything is started. 0 is any, None is not asked for."""
    if port:
        for one in listening_sockets(host, port):
            one.close()


def read_tokens(path: str | None) -> tuple[str, ...]:
    """The tokens in a file, one in each line. InputError without one."""
    if path is None:
        return ()
    try:
        lines = Path(path).read_text(encoding="ascii").split("\n")
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected tokens of ASCII characters, one in each line") from None
    tokens = tuple(line.strip() for line in lines if line.strip())
    if not tokens:
        raise InputError(f"{path}: no token, expected one of at least {LEAST_TOKEN} characters in each line")
    return tokens


def run(service: Service, binding: Binding, request_log: bool = True) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was accepted. A second SIGINT ends at once. InputError where a
    port is taken.

    request_log  a line on stderr for each request, in addition to those for what the server itself does
    """
    check_free(binding.host, binding.port)
    check_free(binding.host, binding.grpc_port)
    handler = Lines(sys.stderr)
    for logger in (LOG, logging.getLogger("uvicorn"), logging.getLogger("uvicorn.error")):
        logger.handlers, logger.propagate = [handler], False
    LOG.setLevel(logging.INFO)
    REQUESTS.setLevel(logging.INFO if request_log else logging.WARNING)
    Server(service, binding).run()


def _grpc_server(app: Any, binding: Binding, connections: int) -> Any:
    """A GrpcServer, in the event loop that runs."""
    from rnncore.serve.grpc_service import GrpcServer

    certificate = None
    if binding.ssl_certfile is not None and binding.ssl_keyfile is not None:
        certificate = Path(binding.ssl_certfile).read_bytes(), Path(binding.ssl_keyfile).read_bytes()
    host = f"[{binding.host}]" if ":" in binding.host else binding.host
    state, address = app.state, f"{host}:{binding.grpc_port}"
    return GrpcServer(
        state.service, state.tokens, state.metrics, address, certificate, binding.head_timeout, connections
    )


class Server(uvicorn.Server):
    """uvicorn's server on a Listener, with a way out in three steps: take no more connections; answer what comes on
    those that are open, each with Connection: close, until they are idle or the time is over; end the engines."""

    def __init__(self, service: Service, binding: Binding):
        hosts = None if binding.tokens else (*LOCAL_NAMES, binding.host)
        app = create_app(service, tokens=binding.tokens, hosts=hosts)
        config = uvicorn.Config(
            app,
            host=binding.host,
            port=binding.port,
            ssl_certfile=binding.ssl_certfile,
            ssl_keyfile=binding.ssl_keyfile,
            log_config=None,
            log_level="warning",
            access_log=False,
            http=Connection,
            ws="none",
            server_header=False,
            proxy_headers=False,  # a client's address is the owner of sequences without tokens
            lifespan="on",
            timeout_graceful_shutdown=ENDING_SECONDS,
        )
        super().__init__(config)
        self._app, self._service, self._binding = app, service, binding
        self.listener: Any = None  # a Listener from startup on
        self._grpc: Any = None

    async def startup(self, sockets: Any = None) -> None:
        await self.lifespan.startup()
        binding = self._binding
        with_grpc = binding.grpc_port is not None
        ports = 1 + with_grpc
        most = max(1, descriptors_left(ports * binding.max_connections) // ports)
        if most < binding.max_connections:
            log("fewer connections", connections=most, reason="the process has too few descriptors")
        make = functools.partial(
            Connection,
            self.config,
            self.server_state,
            self.lifespan.state,
            self._app.state.metrics,
            binding.head_timeout,
        )
        self.listener = Listener(
            listening_sockets(binding.host, binding.port),
            make,
            self.config.ssl,
            binding.head_timeout,
            most,
            binding.max_peer_connections,
        )
        self.servers = [self.listener]
        addresses = {"host": binding.host, "port": self.listener.port}
        if with_grpc:
            self._grpc = _grpc_server(self._app, binding, most)
            await self._grpc.start()
            addresses["grpc_port"] = self._grpc.port
        self.started = True
        log("ready", **addresses, models=list(self._service.models))

    should_exit: bool

    def handle_exit(self, number: int, frame: Any) -> None:
        if self.should_exit and number == signal.SIGINT:
            self.force_exit = True
        self._service.draining = True
        self.should_exit = True

    async def shutdown(self, sockets: Any = None) -> None:
        log("draining", connections=len(self.server_state.connections))
        self.listener.close()
        loop = asyncio.get_running_loop()
        stopping = (
            loop.create_task(self._grpc.stop(ENDING_SECONDS, self._binding.drain_seconds))
            if self._grpc is not None
            else None
        )
        end = loop.time() + self._binding.drain_seconds
        while self.server_state.connections and loop.time() < end and not self.force_exit:
            await asyncio.sleep(0.02)
        self.listener.hurry()
        self._app.state.inference.end_reading()
        if stopping is not None and not self.force_exit:
            await stopping
        await super().shutdown(sockets)
        self.listener.end()
        counts = {name: served.engine.metrics.snapshot() for name, served in self._service.models.items()}
        answered = {name: {key: count[key] for key in ("accepted", "completed")} for name, count in counts.items()}
        log("ended", open_requests=len(self.server_state.tasks), models=answered)
