"""What attacks a server, as a process of its own: see serve_attacks.py. Nothing but Python, so that it starts quickly.

python tests/tools/serve_attackers.py NAME PORT CERTIFICATE      until SIGTERM; then a line of JSON
"""

import asyncio
import contextlib
import json
import os
import signal
import ssl
import sys

INFER = "/v2/models/tagger/infer"


class Attack:
    """One way to use up a server: any number of clients that each do the same, again and again."""

    clients = 300
    over_tls = True  # after the handshake
    to_grpc = False

    def __init__(self, port, tls):
        self.port, self.tls, self.opened, self.answers = port, tls, 0, {}

    async def run(self, report):
        """Until it is cancelled; report is called once every client has its connection."""
        clients = [asyncio.create_task(self._again()) for _ in range(self.clients)]
        while self.opened < self.clients:
            await asyncio.sleep(0.05)
        report()
        await asyncio.gather(*clients)

    async def _again(self):
        while True:
            writer = None
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                tls = self.tls if self.over_tls and not self.to_grpc else None
                host = "localhost" if tls else None
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, server_hostname=host)
                self.opened += 1
                counting = asyncio.create_task(self.count(reader))
                try:
                    await self.attack(reader, writer)
                finally:
                    counting.cancel()
            if writer is not None:
                writer.transport.abort()
            await asyncio.sleep(0.01)

    async def count(self, reader):
        """Statuses of answers, until the connection is closed."""
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                for part in data.split(b"HTTP/1.1 ")[1:]:
                    status = part[:3].decode()
                    self.answers[status] = self.answers.get(status, 0) + 1
        await asyncio.sleep(0)

    async def attack(self, reader, writer):
        raise NotImplementedError

    async def write(self, writer, data, pause=0.0):
        writer.write(data)
        await writer.drain()
        if writer.transport.is_closing():
            raise ConnectionResetError
        await asyncio.sleep(pause)


async def closed(writer):
    """Wait for the server's end of the connection."""
    while not writer.transport.is_closing():
        await asyncio.sleep(0.1)


class SlowHeads(Attack):
    """A byte of a header field now and then."""

    async def attack(self, reader, writer):
        await self.write(writer, b"GET /v2 HTTP/1.1\r\nX: ")
        while True:
            await self.write(writer, b"a", 0.5)


class HugeHeads(Attack):
    """Heads without an end: one long line, many lines, a long path, a trailer."""

    clients = 12
    turns = 0

    async def attack(self, reader, writer):
        self.turns += 1
        line = b"X: " + b"a" * 1000 + b"\r\n"
        before, again = [
            (b"GET /v2 HTTP/1.1\r\nX: ", b"a" * 65536),
            (b"GET /v2 HTTP/1.1\r\n", line * 64),
            (b"GET /", b"a" * 65536),
            (b"POST /v2 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", line * 64),
        ][self.turns % 4]
        await self.write(writer, before)
        for _ in range(5000):
            await self.write(writer, again)


class Handshakes(Attack):
    """Connections whose TLS handshake does not go on, half of them behind its first bytes."""

    over_tls = False
    turns = 0

    async def attack(self, reader, writer):
        self.turns += 1
        if self.turns % 2:
            await self.write(writer, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        await closed(writer)


class IdleConnections(Attack):
    """1,010 connections without a byte."""

    clients, over_tls = 1010, False

    async def attack(self, reader, writer):
        await closed(writer)


class IdleBehindHandshakes(IdleConnections):
    """As many that ask for nothing behind their handshake."""

    over_tls = True


class IdleConnectionsToGrpc(Attack):
    """As many to the other port, without a byte."""

    clients, to_grpc = 1010, True

    async def attack(self, reader, writer):
        await closed(writer)


class Flood(Attack):
    """Connections that are opened and closed as fast as it goes."""

    clients, over_tls = 50, False

    async def attack(self, reader, writer):
        return


class SlowBodies(Attack):
    """Large bodies of requests without a token, whose rest comes by the byte."""

    async def attack(self, reader, writer):
        head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\n\r\n"
        await self.write(writer, head.encode())
        while True:
            await self.write(writer, b"a", 0.5)


class RequestsAhead(Attack):
    """Requests without a pause, whose answers are not read."""

    clients = 8

    async def count(self, reader):
        await asyncio.sleep(3600)

    async def attack(self, reader, writer):
        while True:
            await self.write(writer, b"GET /page/page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)


ATTACKS = {
    "slow_heads": SlowHeads,
    "huge_heads": HugeHeads,
    "handshakes": Handshakes,
    "idle_connections": IdleConnections,
    "idle_handshaken": IdleBehindHandshakes,
    "idle_grpc": IdleConnectionsToGrpc,
    "flood": Flood,
    "slow_bodies": SlowBodies,
    "requests_ahead": RequestsAhead,
}


def main(name, port, chain):
    attack = ATTACKS[name](int(port), ssl.create_default_context(cafile=chain))

    def end():
        print(json.dumps({"opened": attack.opened, "answers": attack.answers}), flush=True)
        os._exit(0)

    async def work():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end)
        await attack.run(lambda: print("begun", flush=True))

    asyncio.run(work())


if __name__ == "__main__":
    main(*sys.argv[1:])
