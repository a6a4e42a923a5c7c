"""The sockets that HTTP connections come from: how many are open, of whom, and which give way to new ones.

A new connection is always admitted while an older one carries no request. Of those, the ones that never had a request
answered that was allowed (unfinished handshakes among them) are closed first, oldest first: whoever opens connections
without using them loses their own, and a client with a token gets in.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import ipaddress
import itertools
import os
import resource
import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from rnncore.errors import InputError
from rnncore.serve.connection import Connection, answer_bytes
from rnncore.serve.logs import LOG, log
from rnncore.serve.middleware import new_id
from rnncore.serve.service_errors import ServiceError

__all__ = ["Listener", "descriptors_left", "listening_sockets"]

BACKLOG = 2048
ACCEPTED_AT_ONCE = 8  # until the event loop goes on: a TLS handshake keeps it busy for up to a millisecond
LOOK_SECONDS = 0.25
LOOKED_THROUGH = 64  # connections that are asked to give way to a new one, at most
RESERVE = 64  # descriptors that are left for files, models and the runtime
TLS_CLOSE_SECONDS = 30.0  # for the last bytes of an answer and the client's farewell
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
ELSEWHERE = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)  # a name's address of a protocol that this machine has not


def descriptors_left(wanted: int) -> int:
    """Descriptors that connections may take, at most ``most``. The process's limit is raised as far as that needs."""
    used = len(os.listdir("/proc/self/fd")) + RESERVE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = used + wanted if hard == resource.RLIM_INFINITY else min(used + wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - used))


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of the host, bound and listening. InputError without one."""
    sockets: list[socket.socket] = []
    try:
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, number, _, address in dict.fromkeys(addresses):
            try:
                sockets.append(_bound(family, kind, number, (address[0], port, *address[2:])))
            except OSError as error:
                if error.errno not in ELSEWHERE or len(addresses) == 1:
                    raise
                continue
            port = sockets[0].getsockname()[1]
    except OSError as error:
        for one in sockets:
            one.close()
        raise InputError(f"cannot listen on {host} port {port}: {error.strerror}, expected another port") from None
    return sockets


def _bound(family: int, kind: int, number: int, address: Any) -> socket.socket:
    bound = socket.socket(family, kind, number)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except OSError:
        bound.close()
        raise
    return bound


class Group:
    """Open connections, oldest first: strangers, and those that had an allowed request answered."""

    def __init__(self):
        self.strangers: dict[Connection, None] = {}
        self.known: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self.strangers) + len(self.known)

    def add(self, connection: Connection) -> None:
        self.strangers[connection] = None

    def settle(self, connection: Connection) -> None:
        if self.strangers.pop(connection, self) is not self:
            self.known[connection] = None

    def remove(self, connection: Connection) -> None:
        self.strangers.pop(connection, None)
        self.known.pop(connection, None)

    def idle(self) -> Connection | None:
        """The one that gives way first; None where all carry a request that is allowed."""
        for connections in (self.strangers, self.known):
            for connection in itertools.islice(connections, LOOKED_THROUGH):
                if not connection.busy:
                    return connection
        return None


class Listener:
    """Accepts connections on listening sockets, and looks after them.

    make       (settled, lost) -> Connection
    tls        an SSLContext, or None
    handshake_timeout   seconds that a TLS handshake may take
    most, most_of_peer  connections in all, and of one address (of IPv6, of one network of 64 bits)

    Has what uvicorn asks of asyncio's servers: close, wait_closed, sockets.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        make: Callable[[Callable, Callable], Connection],
        tls: ssl.SSLContext | None,
        handshake_timeout: float,
        most: int,
        most_of_peer: int,
    ):
        self.sockets, self.port = sockets, sockets[0].getsockname()[1]
        self._ending = False
        self._make, self._tls, self._handshake_timeout = make, tls, handshake_timeout
        self._most, self._most_of_peer = most, most_of_peer
        self._all = Group()
        self._peers: dict[str, Group] = {}
        self._of: dict[Connection, str] = {}  # the peer of each
        self._opening: dict[Connection, asyncio.Task] = {}
        self._gave_way = self._refused = 0  # since the last line in the log
        self._loop = asyncio.get_running_loop()
        self._reserve: int | None = os.open(os.devnull, os.O_RDONLY)
        for one in sockets:
            self._loop.add_reader(one, self._accept, one)
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)

    def __len__(self) -> int:
        return len(self._all)

    # --- as uvicorn calls it ---

    def close(self) -> None:
        """Take no more connections."""
        for one in self.sockets:
            self._loop.remove_reader(one)
            one.close()
        self.sockets = []

    async def wait_closed(self) -> None:
        """Nothing: the server waits for its connections."""

    def hurry(self) -> None:
        """Stop waiting for clients that neither send nor take what is sent, and for handshakes."""
        self._ending = True
        for connection in list(self._opening):
            if connection.transport is None:
                self._abort(connection)

    def end(self) -> None:
        """Stop looking after connections; there are none any more."""
        self._timer.cancel()
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None

    # --- new connections ---

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                client, address = listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    continue  # it was gone before it was accepted
                if not _is_waiting(listening):  # said before the caller looks whether there is a connection
                    return
                if not self._close_one(self._all):
                    self._turn_away(listening)
                return  # the descriptor is free when the event loop goes on
            self._admit(client, address[0])

    def _admit(self, client: socket.socket, address: str) -> None:
        key = _network(address)
        client.setblocking(False)
        peer = self._peers.setdefault(key, Group())
        admitted = len(peer) < self._most_of_peer or self._close_one(peer)
        if not (admitted and (len(self._all) < self._most or self._close_one(self._all))):
            self._refuse(client)
            if not peer:
                del self._peers[key]
            return
        connection = self._make(self._settle, self._remove)
        self._peers.setdefault(key, peer)  # it may have been empty for a moment
        self._of[connection] = key
        self._all.add(connection)
        peer.add(connection)
        task = self._opening[connection] = self._loop.create_task(self._open(connection, client))
        task.add_done_callback(functools.partial(self._opened, connection, client))

    async def _open(self, connection: Connection, client: socket.socket) -> None:
        timeouts = {}
        if self._tls is not None:
            timeouts = {"ssl_handshake_timeout": self._handshake_timeout, "ssl_shutdown_timeout": TLS_CLOSE_SECONDS}
        await self._loop.connect_accepted_socket(lambda: connection, client, ssl=self._tls, **timeouts)

    def _opened(self, connection: Connection, client: socket.socket, task: asyncio.Task) -> None:
        """Also where the task was cancelled before it began."""
        self._opening.pop(connection, None)
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:  # a handshake that failed, took too long or gave way
            client.close()
            self._remove(connection)
        if error is not None and not isinstance(error, OSError):
            LOG.error("internal error", exc_info=error)

    def _close_one(self, group: Group) -> bool:
        """Close a connection that carries no request; whether there is one."""
        connection = group.idle()
        if connection is None:
            return False
        self._abort(connection)
        self._remove(connection)
        self._gave_way += 1
        return True

    def _abort(self, connection: Connection) -> None:
        """Close one at once; one that is not made yet, as soon as it is."""
        if connection.transport is not None:
            connection.transport.abort()
            return
        connection.unwanted = True
        if self._tls is not None:  # whose handshake may take long; without TLS it is made when the event loop goes on
            self._opening[connection].cancel()

    def _refuse(self, client: socket.socket) -> None:
        """Answer that there are too many connections, where that takes no handshake."""
        self._refused += 1
        with contextlib.suppress(OSError), client:
            if self._tls is None:
                refusal = ServiceError(503, "too many connections carry requests, try again later", retry_after=1)
                client.send(answer_bytes(refusal, new_id(), []))

    def _turn_away(self, listening: socket.socket) -> None:
        """Without a free descriptor and with none to gain: take a connection with the reserve's, and close it."""
        self._refused += 1
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
        with contextlib.suppress(OSError):
            listening.accept()[0].close()
        with contextlib.suppress(OSError):
            self._reserve = os.open(os.devnull, os.O_RDONLY)

    # --- open connections ---

    def _settle(self, connection: Connection) -> None:
        self._all.settle(connection)
        if connection in self._of:
            self._peers[self._of[connection]].settle(connection)

    def _remove(self, connection: Connection) -> None:
        key = self._of.pop(connection, None)
        if key is None:
            return
        self._all.remove(connection)
        peer = self._peers[key]
        peer.remove(connection)
        if not peer:
            del self._peers[key]

    def _look(self) -> None:
        self._timer = self._loop.call_later(LOOK_SECONDS, self._look)
        now = time.monotonic()
        for connection in list(self._of):
            connection.look(now, self._ending)
        if self._gave_way or self._refused:
            log("crowded", connections=len(self._all), gave_way=self._gave_way, refused=self._refused)
            self._gave_way = self._refused = 0


def _is_waiting(listening: socket.socket) -> bool:
    poll = select.poll()
    poll.register(listening, select.POLLIN)
    return bool(poll.poll(0))


def _network(address: str) -> str:
    """The key of one peer: an IPv4 address, or the network of an IPv6 one, whose host can have any in it."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.version == 4:
        return address
    return str(ip.ipv4_mapped or ipaddress.ip_network((int(ip) >> 64 << 64, 64)))
