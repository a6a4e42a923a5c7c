"""Connections of gRPC that give way to newer ones, as those of HTTP do.

grpcio closes connections that are idle for long and refuses those beyond a limit, and then a few strangers' idle ones
keep all clients out: it neither says whose connections it has nor closes one for another. So they are found among this
process's own sockets, by the port that they came to, and shut down like a network that failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
from urllib.parse import unquote

__all__ = ["GrpcConnections"]

EVERY = 0.1  # seconds between two looks
DESCRIPTORS = "/dev/fd"  # of this process

Peer = tuple[str, int]


class GrpcConnections:
    """The connections of a port, of which there may be ``most``; a quarter of these are kept for newcomers.

    Those by which a call with a token came are left alone; of the others the oldest give way.
    """

    def __init__(self, port: int, most: int):
        self.port = port
        self.kept = max(1, most - max(1, most // 4))
        self._trusted: set[str] = set()  # as gRPC writes their clients' addresses
        self._seen: dict[Peer, int] = {}  # the first look that found it
        self._looks = 0

    def trust(self, peer: str) -> None:
        """A call with a token came by the connection of this client."""
        self._trusted.add(peer)

    async def watch(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(EVERY)
            with contextlib.suppress(OSError):  # of the directory: no descriptor is left for a moment
                self.look()

    def look(self) -> int:
        """Shut down what is too many; returns how many these were."""
        if len(os.listdir(DESCRIPTORS)) <= self.kept and len(self._trusted) < 4 * self.kept:
            return 0
        self._looks += 1
        connections = self._connections()
        trusted = {_peer(text): text for text in self._trusted}
        self._trusted = {text for peer, text in trusted.items() if peer in connections}
        self._seen = {peer: self._seen.get(peer, self._looks) for peer in connections}
        strangers = sorted((peer for peer in connections if peer not in trusted), key=self._seen.__getitem__)
        leaving = strangers[: max(0, len(connections) - self.kept)]
        for peer in leaving:
            self._shut_down(connections[peer], peer)
        return len(leaving)

    def _connections(self) -> dict[Peer, int]:
        """The clients' addresses, and the descriptors of their sockets."""
        connections = {}
        for name in os.listdir(DESCRIPTORS):
            peer = self._client(int(name))
            if peer is not None:
                connections[peer] = int(name)
        return connections

    def _client(self, descriptor: int) -> Peer | None:
        """The peer at the other end of a descriptor; None where it is no connection of the port."""
        with contextlib.suppress(OSError), _opened(descriptor) as connection:
            internet = connection.type == socket.SOCK_STREAM and connection.family in (socket.AF_INET, socket.AF_INET6)
            if internet and connection.getsockname()[1] == self.port:
                host, port = connection.getpeername()[:2]
                return _plain(host), port
        return None

    def _shut_down(self, descriptor: int, peer: Peer) -> None:
        """End a connection: gRPC reads its end and closes it. Nothing where the descriptor is another's by now."""
        if self._client(descriptor) == peer:
            with contextlib.suppress(OSError), _opened(descriptor) as connection:
                connection.shutdown(socket.SHUT_RDWR)


def _opened(descriptor: int) -> socket.socket:
    """A socket of its own for a descriptor, which stays open when it is closed. OSError for what is no socket."""
    own = os.dup(descriptor)
    try:
        return socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise


def _peer(text: str) -> Peer | None:
    """The client's address as gRPC writes it: ipv4:127.0.0.1:50000, ipv6:%5B::1%5D:50000."""
    host, _, port = unquote(text).partition(":")[2].rpartition(":")
    try:
        return _plain(host.strip("[]")), int(port)
    except ValueError:
        return None


def _plain(host: str) -> str:
    """An address in one of its forms: an IPv4 address that IPv6 has mapped is that."""
    address = ipaddress.ip_address(host.partition("%")[0])
    return str(getattr(address, "ipv4_mapped", None) or address)
