"""Running the app with uvicorn: where it may listen, and how it ends without losing what it accepted."""

from __future__ import annotations

import asyncio
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
from rnncore.serve.gate import LEAST_TOKEN
from rnncore.serve.logs import LOG, JsonLines, log
from rnncore.serve.service import Service

__all__ = ["Binding", "is_local", "read_tokens", "run"]

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Binding:
    """Where to listen. Anywhere but on this machine's own addresses needs tokens."""

    host: str = "127.0.0.1"
    port: int = 8000
    tokens: tuple[str, ...] = ()
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    drain_seconds: float = 1.0

    def __post_init__(self):
        if not is_local(self.host) and not self.tokens:
            raise InputError(f"host {self.host!r} is reachable from other machines: a token file is needed")


def is_local(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_tokens(path: str | None) -> tuple[str, ...]:
    """The tokens in a file, one in each line. InputError where there is none."""
    if path is None:
        return ()
    try:
        lines = Path(path).read_text(encoding="ascii").split("\n")
    except UnicodeDecodeError:
        raise InputError(f"{path}: expected tokens of ASCII characters, one in each line") from None
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise InputError(f"{path}: no token, expected one of at least {LEAST_TOKEN} characters in each line")
    return found


def run(service: Service, binding: Binding) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was accepted. A second SIGINT ends at once."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for logger in (LOG, logging.getLogger("uvicorn"), logging.getLogger("uvicorn.error")):
        logger.handlers, logger.propagate = [handler], False
    LOG.setLevel(logging.INFO)
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
        server_header=False,
        lifespan="on",
    )
    _Server(config, service, binding.drain_seconds).run()


class _Server(uvicorn.Server):
    """uvicorn's server, with a way out in three steps: take no more connections; answer what comes on those that are
    open, each with Connection: close, until they are idle or the time is over; end the engines."""

    def __init__(self, config: uvicorn.Config, service: Service, drain_seconds: float):
        super().__init__(config)
        self._service, self._drain_seconds = service, drain_seconds

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            port = self.servers[0].sockets[0].getsockname()[1] if self.servers else self.config.port
            log("ready", host=self.config.host, port=port, models=list(self._service.models))

    def handle_exit(self, number: int, frame: Any) -> None:
        if self.should_exit and number == signal.SIGINT:
            self.force_exit = True
        self._service.draining = True
        self.should_exit = True

    async def shutdown(self, sockets: Any = None) -> None:
        log("draining", connections=len(self.server_state.connections))
        for server in self.servers:
            server.close()
        end = asyncio.get_running_loop().time() + self._drain_seconds
        while self.server_state.connections and asyncio.get_running_loop().time() < end and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)
        counts = {name: served.engine.metrics.snapshot() for name, served in self._service.models.items()}
        answered = {name: {key: found[key] for key in ("accepted", "completed")} for name, found in counts.items()}
        log("ended", open_requests=len(self.server_state.tasks), models=answered)
