"""Bounds on what a client can make the server hold: heads, bodies, connections, answers that nobody takes.

serve_attacks.py is the whole of it against a server in a process of its own; here is each bound for itself.
"""

import asyncio
import contextlib
import errno
import gzip
import json
import re
import signal
import socket
import ssl
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from certificates import certificate
from serve_processes import save_models, server_process
from served import FEATURES, Held, adder, models, serving, tagger

from rnncore.serve import Limits, connection, listener, watch
from rnncore.serve.gzipped import STEP, Gunzip
from rnncore.serve.service_errors import ServiceError

MODELS = models()
TOKEN = "a-token-of-a-client"
INFER = "/v2/models/tagger/infer"
BODY = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 1, FEATURES], "datatype": "FP32", "data": [0.5] * FEATURES}]}
).encode()


class Client:
    """A plain connection."""

    def __init__(self, port, source="127.0.0.1", tls=None):
        plain = socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0))
        self.socket = plain if tls is None else tls.wrap_socket(plain, server_hostname="localhost")
        self.reader = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        self.reader.close()
        self.socket.close()

    def send(self, data):
        with contextlib.suppress(OSError):  # closed by the server, whose answer can still be read
            self.socket.sendall(data)

    def answer(self):
        """Status, headers and body of the next answer; None where the connection is closed."""
        try:
            line = self.reader.readline()
            if not line:
                return None
            fields = {}
            while (field := self.reader.readline().strip()) != b"":
                name, _, value = field.decode().partition(": ")
                fields[name] = value
            return int(line.split()[1]), fields, self.reader.read(int(fields["content-length"]))
        except ConnectionResetError:
            return None

    def is_open(self):
        """Whether a request on it is answered."""
        self.send(request())
        found = self.answer()
        return found is not None and found[0] == 200

    def is_closed(self, seconds=30.0):
        """Whether the server closes it."""
        self.socket.settimeout(seconds)
        try:
            while self.socket.recv(1 << 16):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True


def request(path="/v2", token=TOKEN, body=None, fields=()):
    lines = [f"{'GET' if body is None else 'POST'} {path} HTTP/1.1", "Host: localhost"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None and "Transfer-Encoding: chunked" not in fields:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, *fields, "", ""]).encode() + (body or b"")


@pytest.fixture(scope="module")
def server():
    connection.LINGER_SECONDS = 0.2
    with serving(MODELS, tokens=(TOKEN,)) as found:
        yield found


@pytest.fixture
def client(server):
    with Client(server.listener.port) as found:
        yield found


def until(what, seconds=30.0):
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert what()


def refused(answer, status, reason):
    assert answer is not None and answer[0] == status, answer
    found = json.loads(answer[2])
    assert set(found) == {"error", "request_id"} and reason in found["error"], found
    assert answer[1]["x-request-id"] == found["request_id"]
    return answer


# --- heads ---

LINE, HEAD = 16 << 10, 64 << 10


def field(size):
    """A header field that counts for so many bytes."""
    return "X-A: " + "a" * (size - len("X-A") - 4)


HEADS = {
    "a line of the most bytes": (200, [field(LINE)]),
    "a line of more": (431, [field(LINE + 1)]),
    "many lines of the most": (200, [field(LINE)] * 3),
    "all lines of more": (431, [field(LINE)] * 4),
    "the most fields": (200, ["A: b"] * 200),
    "more fields": (431, ["A: b"] * 260),
    "empty fields": (431, ["A:"] * 20_000),
}


@pytest.mark.parametrize("what", HEADS)
@pytest.mark.parametrize("split", ["whole", "pieces"])
def test_heads_are_bounded(client, what, split):
    status, fields = HEADS[what]
    data = request(fields=fields)
    step = len(data) if split == "whole" else 777
    for at in range(0, len(data), step):
        client.send(data[at : at + step])
    found = client.answer()
    assert found[0] == status
    if status == 431:
        refused(found, 431, "the request's head has")
        assert found[1]["connection"] == "close" and client.is_closed()
    else:
        assert client.is_open()  # bounds are of each request, not of a connection


def test_a_long_path_is_a_long_line(client):
    client.send(request("/" + "x" * (LINE - 10)))
    assert client.answer()[0] == 404
    client.send(request("/" + "x" * LINE))
    refused(client.answer(), 431, "line of more than 16384 bytes")


UNFINISHED = {
    "a value": b"GET / HTTP/1.1\r\nX: ",
    "a name": b"GET / HTTP/1.1\r\n",
    "a path": b"GET /",
    "a method": b"",
    "a size of a chunk": request(INFER, token="", body=b"", fields=["Transfer-Encoding: chunked"]) + b"1;",
    "a trailer": request(INFER, token="", body=b"", fields=["Transfer-Encoding: chunked"]) + b"0\r\nX: ",
}


@pytest.mark.parametrize("what", UNFINISHED)
def test_what_never_ends_is_refused_early(server, what):
    """Without an end of the line, no more is read than the bound and what was on its way."""
    with Client(server.listener.port) as client:
        client.send(UNFINISHED[what])
        sent, closed, data = 0, False, b"1" * (1 << 16)
        client.socket.settimeout(0.05)
        while not closed and sent < 300 << 20:
            try:
                sent += client.socket.send(data)
            except TimeoutError:
                pass
            except OSError:
                closed = True
        assert closed and sent < 64 << 20, sent  # what the sockets' buffers hold


def test_trailers_are_no_headers(client):
    """Also where they are there before anybody has looked at the head."""
    chunked = b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)
    for token, trailer, status in (
        ("", f"Authorization: Bearer {TOKEN}", 401),
        (TOKEN, f"Authorization: Bearer {TOKEN}", 200),
        (TOKEN, "Content-Encoding: br\r\nHost: other\r\nInference-Header-Content-Length: 3", 200),
    ):
        head = request(INFER, token, body=b"", fields=["Transfer-Encoding: chunked"])
        client.send(head + chunked + trailer.encode() + b"\r\n\r\n")
        assert client.answer()[0] == status


def test_many_trailers_are_refused(client):
    client.send(request(INFER, body=b"", fields=["Transfer-Encoding: chunked"]) + b"0\r\n")
    client.send(b"X: y\r\n" * 400)
    refused(client.answer(), 431, "more than 256 fields")


def test_damaged_requests_get_a_reason(client):
    client.send(b"\x16\x03\x01\x02\x00 not HTTP\r\n\r\n")
    found = refused(client.answer(), 400, "not a request of HTTP/1.1")
    assert found[1]["connection"] == "close" and client.is_closed()


def test_however_a_head_is_cut_it_is_the_same_request(client):
    rng = np.random.default_rng(0)
    data = request(INFER, body=BODY, fields=[field(3000)] * 3)
    for _ in range(20):
        cuts = np.sort(rng.integers(0, len(data), 4))
        for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
            client.send(data[begin:end])
            time.sleep(0.001)
        status, _, content = client.answer()
        assert status == 200
        given = np.full((1, 1, FEATURES), 0.5, np.float32)
        data_out = np.array(json.loads(content)["outputs"][0]["data"], np.float32)
        assert np.array_equal(data_out, MODELS["tagger"](given).ravel())


def test_requests_sent_ahead_are_answered_in_order_and_not_all_parsed(server):
    count, parsed = 3000, []
    data = b"".join(
        request(f"/v2/models/tagger?{number}", fields=[f"X-Request-Id: {number}"]) for number in range(count)
    )
    with Client(server.listener.port) as client:
        writer = threading.Thread(target=client.send, args=(data,))
        writer.start()
        ids = []
        while len(ids) < count:
            ids.append(int(client.answer()[1]["x-request-id"]))
            if len(ids) % 100 == 0:
                parsed += [len(one.pipeline) for one in list(server.server_state.connections)]
        writer.join()
    assert ids == list(range(count))
    assert max(parsed) <= connection.PIECE // len(request()) + 1


def test_nothing_more_is_parsed_behind_a_request_that_waits():
    """Also where it comes by the packet, while what looks whether the client stays reads on."""
    held, sizes = Held(), []
    with serving({"tagger": held.model}, tokens=(TOKEN,)) as server, Client(server.listener.port) as client:
        client.send(request(INFER, body=BODY))
        assert held.begun.wait(60)
        (own,) = list(server.server_state.connections)

        def more():
            for _ in range(400):
                own.data_received(request())
                sizes.append(len(own.pipeline))

        own.loop.call_soon_threadsafe(more)
        until(lambda: len(sizes) == 400)
        held.released.set()
        assert [client.answer()[0] for _ in range(401)] == [200] * 401
    assert max(sizes) == 1


def test_a_bad_request_behind_a_good_one_takes_nothing_from_it(client):
    client.send(request(INFER, body=BODY) + b"GET / HTTP/1.1\r\n" + field(LINE + 1).encode() + b"\r\n\r\n")
    status, fields, _ = client.answer()
    assert status == 200 and fields["connection"] == "close"
    assert client.is_closed()


def test_one_authorization(client):
    client.send(request(fields=[f"Authorization: Bearer {TOKEN}"]))
    refused(client.answer(), 400, "2 header fields 'authorization', expected at most one")
    for name in ("Host: localhost", "Inference-Header-Content-Length: 3"):
        client.send(request(fields=[name] * (1 + name.startswith("I"))))
        refused(client.answer(), 400, f"2 header fields '{name.partition(':')[0].lower()}'")
    assert client.is_open()


# --- deadlines ---


def test_heads_have_a_deadline():
    with serving({"tagger": MODELS["tagger"]}, head_timeout=0.4, tokens=(TOKEN,)) as server:
        port = server.listener.port
        with Client(port) as silent, Client(port) as slow, Client(port) as later, Client(port) as junk:
            slow.send(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nX:")
            assert later.is_open()
            later.send(b"GET /v2 HTTP/1.1\r\n")
            junk.send(b"\r\n\r\n")
            for one in (slow, later):
                refused(one.answer(), 408, "head was not complete within 0.4 s")
            assert silent.is_closed() and junk.is_closed() and slow.is_closed() and later.is_closed()


def test_a_byte_now_and_then_is_no_reprieve():
    with serving({"tagger": MODELS["tagger"]}, head_timeout=0.4, tokens=(TOKEN,)) as server:
        with Client(server.listener.port) as client:
            stop = threading.Event()

            def drip():
                client.send(b"GET /v2 HTTP/1.1\r\nX: ")
                while not stop.wait(0.02):
                    client.send(b"a")

            dripping = threading.Thread(target=drip)
            dripping.start()
            answer = client.answer()
            stop.set()
            dripping.join()
        refused(answer, 408, "within 0.4 s")


def test_handshakes_have_a_deadline(tmp_path):
    chain, key = certificate(tmp_path)
    binding = {"ssl_certfile": chain, "ssl_keyfile": key, "head_timeout": 0.4, "tokens": (TOKEN,)}
    with serving({"tagger": MODELS["tagger"]}, **binding) as server:
        port, context = server.listener.port, ssl.create_default_context(cafile=chain)
        silent = [Client(port) for _ in range(20)]
        for one in silent[::2]:
            one.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # how a ClientHello begins
        with Client(port, tls=context) as client:
            assert client.is_open()
        assert all(one.is_closed() for one in silent)
        until(lambda: len(server.listener) == 0)


def test_handshakes_are_not_waited_for_at_the_end(tmp_path):
    chain, key = certificate(tmp_path)
    binding = {"ssl_certfile": chain, "ssl_keyfile": key, "head_timeout": 90, "tokens": (TOKEN,)}
    with serving({"tagger": MODELS["tagger"]}, **binding) as server:
        silent = [Client(server.listener.port) for _ in range(5)]
        until(lambda: len(server.listener) == 5)
        server.listener._loop.call_soon_threadsafe(server.listener.hurry)
        assert all(one.is_closed() for one in silent)


def test_slow_bodies_are_refused_by_their_rate(monkeypatch):
    monkeypatch.setattr(watch, "GRACE", 0.3)
    with serving({"tagger": MODELS["tagger"]}, tokens=(TOKEN,)) as server, Client(server.listener.port) as client:
        client.send(request(INFER, body=b"")[: -len("0\r\n\r\n")] + b"60000000\r\n\r\nabc")
        refused(client.answer(), 408, "too slowly: 3 bytes in")
        assert client.is_closed()


def test_a_body_that_comes_steadily_may_take_longer(monkeypatch):
    monkeypatch.setattr(watch, "GRACE", 0.2)
    monkeypatch.setattr(watch, "RATE", 100)
    with serving({"tagger": MODELS["tagger"]}, tokens=(TOKEN,)) as server, Client(server.listener.port) as client:
        body = BODY + b" " * 400
        data = request(INFER, body=body)
        start = time.monotonic()
        for at in range(0, len(data), 20):
            client.send(data[at : at + 20])
            time.sleep(0.02)
        assert time.monotonic() - start > 2 * watch.GRACE
        assert client.answer()[0] == 200


def test_what_is_left_of_a_refused_body_has_a_deadline(monkeypatch):
    monkeypatch.setattr(connection, "DISCARD_SECONDS", 0.3)
    with (
        serving({"tagger": MODELS["tagger"]}, head_timeout=90, tokens=(TOKEN,)) as server,
        Client(server.listener.port) as client,
    ):
        client.send(request(INFER, token="", body=b"")[: -len("0\r\n\r\n")] + b"60000000\r\n\r\nabc")
        refused(client.answer(), 401, "token")
        stop = threading.Event()

        def drip():
            while not stop.wait(0.02):
                client.send(b"a")

        dripping = threading.Thread(target=drip)
        dripping.start()
        assert client.is_closed()
        stop.set()
        dripping.join()


def test_an_answer_that_nobody_takes_is_given_up(monkeypatch):
    monkeypatch.setattr(connection, "STALL_SECONDS", 0.3)
    size = 6 << 20
    shape = [1, size // 4]
    inputs = [
        {"name": "a", "shape": shape, "datatype": "FP32", "parameters": {"binary_data_size": size}},
        {"name": "keep", "shape": shape, "datatype": "BOOL", "parameters": {"binary_data_size": size // 4}},
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    fields = [f"Inference-Header-Content-Length: {len(head)}"]
    data = request("/v2/models/adder/infer", body=head + bytes(size + size // 4), fields=fields)
    limits = Limits(max_steps=1 << 23)
    with serving({"adder": adder()}, limits, tokens=(TOKEN,)) as server, Client(server.listener.port) as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send(data)
        until(lambda: len(server.listener) == 0)


# --- how many ---


def test_connections_without_requests_give_way():
    """Those without an answered request first, the oldest of them first; never one that carries a request."""
    with serving({"tagger": MODELS["tagger"]}, max_connections=6, tokens=(TOKEN,)) as server:
        port = server.listener.port
        with Client(port) as known, Client(port) as busy:
            assert known.is_open()
            busy.send(request(INFER, body=BODY)[:-1])
            until(lambda: any(one.busy for one in list(server.server_state.connections)))
            idle = [Client(port) for _ in range(20)]
            with Client(port) as late:
                assert late.is_open() and known.is_open()
            busy.send(BODY[-1:])
            assert busy.answer()[0] == 200
            closed = [one.is_closed(0.3) for one in idle]
            assert all(closed[:16]) and sum(closed) <= 17
            until(lambda: set(server.server_state.connections) == set(server.listener._of))
            for one in idle:
                one.close()


def test_where_all_carry_requests_the_next_is_refused():
    with serving({"tagger": MODELS["tagger"]}, max_connections=3, tokens=(TOKEN,)) as server:
        port = server.listener.port
        several = [Client(port) for _ in range(3)]
        for one in several:
            one.send(request(INFER, body=BODY)[:-1])
        until(lambda: sum(one.busy for one in list(server.server_state.connections)) == 3)
        with Client(port) as late:
            found = refused(late.answer(), 503, "too many connections")
            assert found[1]["retry-after"] == "1"
        for one in several:
            one.send(BODY[-1:])
            assert one.answer()[0] == 200
        with Client(port) as late:
            assert late.is_open()


def test_whoever_has_no_token_gives_way_whatever_is_asked():
    """Answers that are not taken, bodies that do not come: neither keeps the place of a client without a token."""
    with serving({"tagger": MODELS["tagger"]}, max_connections=6, tokens=(TOKEN,)) as server:
        several = [Client(server.listener.port) for _ in range(6)]
        for number, one in enumerate(several):
            one.socket.settimeout(0.3)
            if number % 2:
                one.send(request(INFER, token="", body=b"")[: -len("0\r\n\r\n")] + b"60000000\r\n\r\nabc")
            else:
                one.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                one.send(request("/page/page.js", token="") * 20_000)
        until(lambda: any(one.transport.get_write_buffer_size() for one in list(server.server_state.connections)))
        clients = [Client(server.listener.port) for _ in range(6)]
        assert all(one.is_open() for one in clients)
        for one in several + clients:
            one.close()


def test_one_address_takes_nothing_from_another():
    with serving({"tagger": MODELS["tagger"]}, max_connections=40, max_peer_connections=8, tokens=(TOKEN,)) as server:
        port = server.listener.port
        others = [Client(port, "127.0.0.2") for _ in range(8)]
        crowd = [Client(port, "127.0.0.3") for _ in range(60)]
        with Client(port) as client:
            assert client.is_open()
        assert len(server.listener) <= 17
        assert all(one.is_open() for one in others)
        for one in others + crowd:
            one.close()


def test_the_network_of_an_address():
    same = ["2001:db8::1", "2001:db8::ffff:1", "2001:db8::1%eth0"]
    assert {listener._network(one) for one in same} == {"2001:db8::/64"}
    assert listener._network("::ffff:10.0.0.1") == listener._network("10.0.0.1") == "10.0.0.1"
    assert listener._network("2001:db8:0:1::1") != listener._network("2001:db8::1")


def test_without_a_free_descriptor_a_client_still_gets_in(tmp_path):
    """The process may open no more files than it has: idle connections give theirs to new ones."""
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    files = save_models(tmp_path, {"tagger": MODELS["tagger"]})
    with server_process(files, "--token-file", str(tokens)) as server:
        process = psutil.Process(server.process.pid)
        with Client(server.port) as client:
            assert client.is_open()  # what is loaded at first use is there
        most = process.num_fds() + 10  # asked once: a connection may close meanwhile
        process.rlimit(psutil.RLIMIT_NOFILE, (most, most))
        idle = [Client(server.port) for _ in range(60)]
        for _ in range(20):
            with Client(server.port) as client:
                assert client.is_open()
        busy = [Client(server.port) for _ in range(30)]
        for one in busy:
            one.send(request(INFER, body=BODY)[:-1])
        time.sleep(0.3)
        spent = sum(process.cpu_times()[:2])
        start = time.monotonic()
        time.sleep(0.5)
        spent, passed = sum(process.cpu_times()[:2]) - spent, time.monotonic() - start
        assert spent < 0.5 * passed  # it does not spin where nothing can be accepted
        for one in idle + busy:
            one.close()

        def answered():
            with Client(server.port) as client:
                return client.is_open()

        until(answered)  # the first may come before the server has read that the others are closed
        assert all(answered() for _ in range(20))
        server.process.send_signal(signal.SIGTERM)
        assert server.wait() == 0


def test_with_no_connection_to_close_the_reserve_turns_the_next_away():
    class Full:
        """A listening socket of a process without a free descriptor."""

        def __init__(self):
            self.turned_away = 0

        def fileno(self):
            return found.sockets[0].fileno()

        def accept(self):
            if found._reserve is not None:
                raise OSError(errno.EMFILE, "too many")
            self.turned_away += 1
            return socket.socketpair()

    async def work():
        nonlocal found
        found = listener.Listener(listener.listening_sockets("127.0.0.1", 0), None, None, 1.0, 5, 5)
        full = Full()
        found._accept(full)  # where nobody waits, nobody is turned away
        assert full.turned_away == 0
        client = socket.create_connection(found.sockets[0].getsockname())
        for _ in range(3):
            found._accept(full)
        assert full.turned_away == 3 and found._reserve is not None
        client.close()
        found.close()
        found.end()

    found = None
    asyncio.run(work())


def test_descriptors_bound_the_connections(tmp_path):
    files = save_models(tmp_path, {"tagger": MODELS["tagger"]})
    with server_process(files, "--max-connections", "1000000000") as server:
        (line,) = [event for event in server.events if event["event"] == "fewer connections"]
        limit = psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_NOFILE)
        assert limit[0] == limit[1] and 0 < line["connections"] < limit[0] - listener.RESERVE


# --- connections of gRPC ---

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and settings that say nothing
GRPC_METHOD = "/inference.GRPCInferenceService/ServerMetadata"
WITH_TOKEN = [("authorization", f"Bearer {TOKEN}")]


class Flood(threading.Thread):
    """Connections without a call, opened again as soon as the server closes one: ``most`` of them, most of the time."""

    def __init__(self, port, most):
        super().__init__(daemon=True)
        self.port, self.most, self.over, self.opened, self.closed = port, most, threading.Event(), 0, 0

    def run(self):
        held = []
        while not self.over.is_set():
            while len(held) < self.most:
                held.append(socket.create_connection(("127.0.0.1", self.port), timeout=30))
                held[-1].sendall(PREFACE)
                held[-1].setblocking(False)
                self.opened += 1
            left = [one for one in held if not self.is_over(one)]
            self.closed += len(held) - len(left)
            held = left
            time.sleep(0.02)
        for one in held:
            one.close()

    @staticmethod
    def is_over(one):
        try:
            if one.recv(1 << 16):
                return False
        except BlockingIOError:
            return False
        except OSError:
            pass
        one.close()
        return True


def test_idle_grpc_connections_give_way_to_newer_ones(tmp_path):
    """Those of strangers, as many as there may be and always new ones: clients with a token come in and stay."""
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    files = save_models(tmp_path, {"adder": adder()})
    words = ["--token-file", str(tokens), "--grpc-port", "0", "--max-connections", "40"]
    with server_process(files, *words) as server:
        port = server.events[0]["grpc_port"]

        def called(channel):
            return channel.unary_unary(GRPC_METHOD)(b"", metadata=WITH_TOKEN, timeout=20, wait_for_ready=True)

        options = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own for each channel
        with grpc.insecure_channel(f"127.0.0.1:{port}", options) as stays:
            states = []
            stays.subscribe(states.append)
            expected = called(stays)
            flood = Flood(port, 40)
            flood.start()
            until(lambda: flood.closed > 20)
            assert flood.closed > 20
            for _ in range(4):
                assert called(stays) == expected
                with grpc.insecure_channel(f"127.0.0.1:{port}", options) as new:
                    assert called(new) == expected
            with grpc.insecure_channel(f"127.0.0.1:{port}", options) as stranger:
                with pytest.raises(grpc.RpcError) as refused:
                    stranger.unary_unary(GRPC_METHOD)(b"", timeout=20, wait_for_ready=True)
                assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert grpc.ChannelConnectivity.TRANSIENT_FAILURE not in states
            assert states.count(grpc.ChannelConnectivity.READY) == 1  # it was never closed
            flood.over.set()
            flood.join(30)
        found = psutil.Process(server.process.pid).net_connections("tcp")
        assert sum(one.laddr.port == port and one.status == "ESTABLISHED" for one in found) <= 40


# --- the end ---


def test_the_end_waits_for_nobody_who_does_not_come(tmp_path):
    """SIGTERM with unfinished handshakes, heads, bodies, and answers that nobody takes, beside an idle server's end."""
    chain, key = certificate(tmp_path)
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    files = save_models(tmp_path, {"tagger": tagger()})
    words = ["--ssl-certfile", chain, "--ssl-keyfile", key, "--token-file", str(tokens), "--grpc-port", "0"]
    context = ssl.create_default_context(cafile=chain)

    over = threading.Event()

    def never():
        over.wait(120)
        yield b""

    def end(attack):
        with server_process(files, *words) as server:
            held = attack(server)
            start = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
            seconds = time.monotonic() - start
            for one in held:
                one.close()
        return seconds, server.events[-1]

    def everything(server):
        handshakes = [Client(server.port) for _ in range(100)]
        half = [Client(server.events[0]["grpc_port"]) for _ in range(100)]
        held = [Client(server.port, tls=context) for _ in range(12)]
        for one in held[:6]:
            one.send(b"GET /v2 HTTP/1.1\r\nX: a")
        for one in held[6:]:  # whose rate gives them half a minute
            one.send(request(INFER, body=b"")[: -len("0\r\n\r\n")] + b"60000000\r\n\r\n" + bytes(400_000))
        # calls whose message never comes
        channel = grpc.secure_channel(
            f"localhost:{server.events[0]['grpc_port']}", grpc.ssl_channel_credentials(Path(chain).read_bytes())
        )
        infer = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        calls.extend(infer.future(never(), metadata=[("authorization", f"Bearer {TOKEN}")]) for _ in range(3))
        calls[0].add_done_callback(lambda _: channel.close())
        grpc.channel_ready_future(channel).result(30)
        return handshakes + half + held

    calls = []
    idle, _ = end(lambda server: [])
    seconds, last = end(everything)
    over.set()
    assert last["event"] == "ended" and last["open_requests"] == 0
    assert seconds < 5.0 * max(
        1.0, idle / 0.5
    )  # an idle server's end takes less than half a second where cores are free


# --- gzip ---


def gzipped(body, fields=()):
    return request(INFER, body=body, fields=["Content-Encoding: gzip", *fields])


def test_gzip_bodies_have_the_answers_of_plain_ones(client):
    client.send(request(INFER, body=BODY))
    expected = client.answer()[2]
    members = b"".join(gzip.compress(BODY[at : at + 50]) for at in range(0, len(BODY), 50))
    for body in (gzip.compress(BODY), gzip.compress(BODY, 0), members, gzip.compress(BODY) + gzip.compress(b"")):
        client.send(gzipped(body))
        status, _, content = client.answer()
        assert (status, content) == (200, expected)
    client.send(request(INFER, body=BODY, fields=["Content-Encoding: identity"]))
    assert client.answer()[0] == 200


def test_what_is_unpacked_is_counted():
    most = 1 << 20
    with serving(MODELS, Limits(max_body_size=most), tokens=(TOKEN,)) as server:
        for size, status in ((most, 200), (most + 1, 413), (32 * most, 413)):
            with Client(server.listener.port) as client:
                client.send(gzipped(gzip.compress(b" " * (size - len(BODY)) + BODY, 1)))
                found = client.answer()
                assert found[0] == status
                if status == 413:
                    refused(found, 413, f"more than {most} bytes")


def test_unpacking_stops_where_it_is_too_much():
    """Steps are counted: what a bomb would become is never made."""
    bomb = gzip.compress(bytes(32 << 20), 1)
    steps = sizes = 0
    for piece in Gunzip().feed(bomb):
        steps, sizes = steps + 1, sizes + len(piece)
        assert len(piece) <= STEP
        if sizes > 1 << 20:
            break
    assert steps == (1 << 20) // STEP + 1


@pytest.mark.parametrize("seed", range(5))
def test_gzip_in_any_pieces(seed):
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 1 + 255 * (seed % 2), int(rng.integers(0, 3 * STEP)), np.uint8).tobytes()
    cuts = np.sort(rng.integers(0, len(data) + 1, seed))
    whole = b"".join(gzip.compress(data[a:b], seed % 10) for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True))
    gunzip, found = Gunzip(), []
    cuts = np.sort(rng.integers(0, len(whole), 7))
    for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += gunzip.feed(whole[a:b])
    gunzip.end()
    assert b"".join(found) == data
    if len(whole) > 30:
        cut = Gunzip()
        list(cut.feed(whole[:-3]))
        with pytest.raises(ServiceError, match="ends inside"):
            cut.end()


def test_empty_members_are_counted():
    with pytest.raises(ServiceError, match="more than 4096 gzip members"):
        list(Gunzip().feed(gzip.compress(b"") * 5000))


def test_damaged_gzip_is_refused(client):
    whole = gzip.compress(BODY)
    for damaged, reason in (
        (BODY, "not gzip"),
        (whole[:-1], "ends inside"),
        (whole + b"\0", "ends inside|not gzip"),
        (whole[:-8] + bytes(8), "not gzip"),
    ):
        client.send(gzipped(damaged))
        status, _, content = client.answer()
        assert status == 400 and re.search(reason, json.loads(content)["error"]), content


def test_other_encodings_are_refused(client):
    for encoding in ("deflate", "br", "zstd", "gzip, gzip", "x-gzip"):
        client.send(request(INFER, body=BODY, fields=[f"Content-Encoding: {encoding}"]))
        refused(client.answer(), 415, "expected gzip or none")
