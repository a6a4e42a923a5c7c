"""`rnncore serve` as a process: both ports, TLS, tokens from a file, what it logs, how it ends."""

import asyncio
import json
import signal
import socket
import ssl
import urllib.request

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from certificates import certificate
from serve_processes import save_models, server_process
from served import FEATURES, tagger

from rnncore.serve.connection import Joining

TOKEN = "a-token-in-a-file"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_models(tmp_path_factory.mktemp("models"), {"tagger": tagger()})


def ask(triton, address, **options):
    x = np.random.default_rng(0).standard_normal((2, 3, FEATURES)).astype(np.float32)
    given = triton.InferInput("x", list(x.shape), "FP32")
    given.set_data_from_numpy(x)
    with triton.InferenceServerClient(address) as client:
        found = client.infer("tagger", [given], **options).as_numpy("tags")
    assert np.array_equal(found, tagger()(x))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_ports_and_the_end(files, number):
    with server_process(files, "--grpc-port", "0") as server:
        ask(tritonclient.http, f"127.0.0.1:{server.port}")
        ask(tritonclient.grpc, f"127.0.0.1:{server.events[0]['grpc_port']}")
        server.process.send_signal(number)
        assert server.wait() == 0
    assert [event["event"] for event in server.events] == ["ready", "request", "request", "draining", "ended"]
    assert server.events[-1]["models"] == {"tagger": {"accepted": 2, "completed": 2}}
    assert [event["model"] for event in server.events[1:3]] == ["tagger"] * 2


def test_no_lines_for_requests(files):
    with server_process(files, "--no-request-log") as server:
        ask(tritonclient.http, f"127.0.0.1:{server.port}")
        server.process.send_signal(signal.SIGTERM)
        server.wait()
    assert [event["event"] for event in server.events] == ["ready", "draining", "ended"]


def test_tokens_from_a_file(files, tmp_path):
    path = tmp_path / "tokens"
    path.write_text(TOKEN + "\n")
    headers = {"authorization": f"Bearer {TOKEN}"}
    with server_process(files, "--grpc-port", "0", "--token-file", str(path)) as server:
        for triton, port in (
            (tritonclient.http, server.port),
            (tritonclient.grpc, server.events[0]["grpc_port"]),
        ):
            with pytest.raises(triton.InferenceServerException, match="token"):
                ask(triton, f"127.0.0.1:{port}")
            ask(triton, f"127.0.0.1:{port}", headers=dict(headers))
        text = json.dumps(server.events)
    assert TOKEN not in text


def test_tls(files, tmp_path):
    chain, key = certificate(tmp_path)
    with server_process(files, "--ssl-certfile", chain, "--ssl-keyfile", key) as server:
        context = ssl.create_default_context(cafile=chain)
        with urllib.request.urlopen(f"https://localhost:{server.port}/v2/models/tagger", context=context) as answer:
            assert json.load(answer)["name"] == "tagger"


class Written:
    """A transport that notes what is written, each call as a list."""

    def __init__(self):
        self.calls, self.closed = [], False

    def write(self, data):
        self.calls.append([data])

    def writelines(self, parts):
        self.calls.append(list(parts))

    def close(self):
        self.closed = True


def test_an_answer_s_head_and_body_are_written_by_one_call():
    go_on, head, body = b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"body"

    async def everything():
        below = Written()
        transport = Joining(below, asyncio.get_running_loop())
        transport.write(go_on)
        assert below.calls == [[go_on]]
        transport.write(head)
        transport.write(body)
        transport.write(b"more")
        assert below.calls[1:] == [[head, body], [b"more"]]
        await asyncio.sleep(0)
        assert len(below.calls) == 3
        transport.write(head)
        assert len(below.calls) == 3
        await asyncio.sleep(0)  # its body takes long
        assert below.calls[3:] == [[head]]
        transport.write(body)
        assert below.calls[4:] == [[body]]
        transport.write(head)
        transport.close()
        assert below.calls[5:] == [[head]] and below.closed and not transport.calls[6:]

    asyncio.run(everything())


def test_a_client_that_waits_to_be_told_to_go_on(files):
    content = json.dumps({"inputs": [{"name": "x", "shape": [1, 1, FEATURES], "datatype": "FP32", "data": [0.5] * 5}]})
    head = f"POST /v2/models/tagger/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
    with server_process(files) as server, socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(f"{head}Expect: 100-continue\r\nConnection: close\r\n\r\n".encode())
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(content.encode())
        answer = b""
        while part := client.recv(1 << 16):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    data = json.loads(answer.partition(b"\r\n\r\n")[2])["outputs"][0]["data"]
    assert np.array_equal(np.array(data, np.float32), tagger()(np.full((1, 1, FEATURES), 0.5, np.float32)).ravel())
