"""The service as plain HTTP: who may ask, what is refused before anything of that size is made, what it tells."""

import asyncio
import io
import json
import logging
import socket
import threading
import time

import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from served import FEATURES, Held, models, running, tagger
from starlette.applications import Starlette
from starlette.routing import Mount
from stream_models import equal

import rnncore
from rnncore.cli.application import application
from rnncore.errors import InputError
from rnncore.serve import Limits, Service, create_app
from rnncore.serve.inference import ENOUGH
from rnncore.serve.server import Binding, is_local, read_tokens

MODELS = models()
TOKENS = ("first-token-of-two", "second-token-of-two")
INFER = "/v2/models/tagger/infer"
LENGTH = "Inference-Header-Content-Length"


def body(x=None, **more):
    x = np.zeros((1, 2, FEATURES), np.float32) if x is None else x
    entry = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "data": x.ravel().tolist()}
    return {"inputs": [entry], **more}


def in_sequence(id, start=False, end=False, steps=1, value=0.5):
    x = np.full((1, steps, FEATURES), value, np.float32)
    return body(x, parameters={"sequence_id": id, "sequence_start": start, "sequence_end": end})


@pytest.fixture(scope="module")
def client():
    with running(MODELS) as address, httpx.Client(base_url=f"http://{address}") as found:
        yield found


def served(**options):
    """A client for a server of its own."""
    return _Served(options)


class _Served:
    def __init__(self, options):
        self._models = options.pop("models", {"tagger": MODELS["tagger"]})
        self._options = options

    def __enter__(self):
        self._server = running(self._models, **self._options)
        self._client = httpx.Client(base_url=f"http://{self._server.__enter__()}", timeout=60)
        return self._client

    def __exit__(self, *error):
        self._client.close()
        self._server.__exit__(*error)


def refused(response, status, reason):
    found = response.json()
    assert (response.status_code, set(found)) == (status, {"error", "request_id"}), response.text
    assert reason in found["error"]
    assert response.headers["x-request-id"] == found["request_id"]
    assert "/" not in found["error"]  # no paths
    return response


# --- answers ---


def test_curl_needs_no_content_type(client):
    x = np.random.default_rng(0).standard_normal((2, 3, FEATURES)).astype(np.float32)
    nested = body(x)
    nested["inputs"][0]["data"] = x.tolist()
    expected = MODELS["tagger"](x)
    for content in (body(x), nested):
        found = client.post(INFER, content=json.dumps(content)).json()
        (output,) = found["outputs"]
        assert (output["name"], output["datatype"], output["shape"]) == ("tags", "FP32", [2, 3, 4])
        assert equal(np.array(output["data"], np.float32).reshape(2, 3, 4), expected)


def test_request_ids(client):
    assert client.get("/v2", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    made = {client.get("/v2", headers={"X-Request-Id": given}).headers["x-request-id"] for given in ("a b", "x" * 200)}
    assert len(made) == 2 and all(len(found) == 32 for found in made)


def test_metrics(client):
    client.post(INFER, json=body())
    text = client.get("/metrics").text
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert found["rnncore_answers"].type == "counter"
    bounds = [
        float(sample.labels["le"])
        for sample in found["rnncore_answer_seconds"].samples
        if sample.name.endswith("_bucket") and sample.labels["route"] == "infer"
    ]
    assert bounds[0] == 5e-5 and bounds[-1] == float("inf") and bounds == sorted(bounds)
    completed = [
        sample.value
        for sample in found["rnncore_requests"].samples
        if sample.labels == {"model": "tagger", "engine": "batch", "outcome": "completed"}
    ]
    assert completed and completed[0] >= 1
    assert {"rnncore_queue_depth", "rnncore_batch_rows", "rnncore_queue_seconds"} <= set(found)


def test_strangers_names_do_not_become_labels(client):
    client.get("/v2/models/made-up-name-1")
    client.get("/made-up-path-2")
    assert "made-up" not in client.get("/metrics").text


def test_logs_are_lines_of_json(client, caplog):
    from rnncore.serve.logs import JsonLines

    with caplog.at_level(logging.INFO, "rnncore.serve"):
        client.post(INFER, json=body(), headers={"X-Request-Id": "logged"})
        deadline = time.monotonic() + 60
        lines = []
        while not lines and time.monotonic() < deadline:
            time.sleep(0.01)  # it is written behind the answer, and so may those of earlier tests be
            records = [record for record in caplog.records if record.name == "rnncore.serve.requests"]
            logged = [json.loads(JsonLines().format(record)) for record in records]
            lines = [line for line in logged if line.get("request_id") == "logged"]
    (found,) = lines
    assert found["event"] == "request"
    assert (found["route"], found["model"], found["status"]) == ("infer", "tagger", 200)


def test_lines_of_requests_are_written_together_and_in_order():
    from rnncore.serve.logs import LOG, Lines, log, log_request

    class Stream(io.StringIO):
        writes = 0

        def write(self, text):
            self.writes += 1
            super().write(text)
            self.text = self.getvalue()

    async def work():
        for number in range(3):
            log_request(request_id=str(number))
        await asyncio.sleep(0.3)
        log_request(request_id="3")
        log("something else")

    stream = Stream()
    handler = Lines(stream)
    level = LOG.level
    LOG.addHandler(handler)
    try:
        LOG.setLevel(logging.INFO)
        asyncio.run(work())
        stream.close()
        log("nobody reads it")  # and nobody suffers
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)
    lines = [json.loads(line) for line in stream.text.splitlines()]
    assert [line.get("request_id") for line in lines] == ["0", "1", "2", "3", None]
    assert lines[0]["event"] == "request" and lines[-1]["event"] == "something else"
    assert stream.writes == 3  # one more for what nobody reads


def test_mounted_in_another_app(client):
    app = create_app({"tagger": MODELS["tagger"]})
    with running(Starlette(routes=[Mount("/models", app)])) as address:
        found = httpx.post(f"http://{address}/models{INFER}", json=body())
        refused(httpx.get(f"http://{address}/models/v2/models/x"), 404, "unknown")
    assert found.json()["outputs"] == client.post(INFER, json=body()).json()["outputs"]


def test_unknown_routes_and_methods(client):
    refused(client.get("/v3"), 404, "Not Found")
    refused(client.get(INFER), 405, "Method Not Allowed")
    refused(client.get("/v2/models/tagger/versions/3"), 404, "no version")


def test_no_redirection_is_made_of_what_a_client_sent(client):
    for path in ("/v2/", "/v2/?\x81", "/v2/models/tagger/?a=\xff"):
        refused(client.get(path), 404, "Not Found")
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=20) as plain:
        plain.sendall(b"GET /v2/?\x81 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert plain.recv(100).startswith((b"HTTP/1.1 404", b"HTTP/1.1 400"))


# --- who may ask ---


def test_tokens():
    with served(tokens=TOKENS) as client:
        assert client.get("/v2/health/ready").status_code == 200
        for path in ("/v2", "/v2/models/tagger", "/metrics", "/v2/models/tagger/stats"):
            assert refused(client.get(path), 401, "token").headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer " + TOKENS[0][:-1], "Basic " + TOKENS[0], TOKENS[0], "Bearer", "Bearer ü"):
            refused(client.post(INFER, json=body(), headers={"Authorization": wrong.encode()}), 401, "token")
        for token in TOKENS:
            right = client.post(INFER, json=body(), headers={"Authorization": f"Bearer {token}"})
            assert right.status_code == 200


def test_sequences_belong_to_their_creator():
    first, second = ({"Authorization": f"Bearer {token}"} for token in TOKENS)
    with served(tokens=TOKENS) as client:

        def ask(headers, **step):
            return client.post(INFER, json=in_sequence(5, **step), headers=headers)

        begun = ask(first, start=True).json()["outputs"]
        refused(ask(second), 400, "sequence 5 is not open")
        refused(ask(second, end=True), 400, "sequence 5 is not open")
        assert ask(second, start=True).json()["outputs"] == begun  # its own, from zeros
        went_on = ask(first).json()["outputs"]
        assert went_on != begun
        assert ask(second).json()["outputs"] == went_on
        assert ask(second, end=True).status_code == 200
        assert ask(first).status_code == 200  # the other's end was not its


def test_other_hosts_names_are_refused():
    with served(hosts=("localhost", "127.0.0.1")) as client:
        assert client.get("/v2").status_code == 200
        assert client.get("/v2", headers={"Host": "LOCALHOST:80"}).status_code == 200
        for name in ("evil.example", "127.0.0.1.evil.example", "evil.example:8000", "127.0.0.1:80:80", ""):
            refused(client.get("/v2", headers={"Host": name}), 421, "Host")


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("10.0.0.1", False),
        ("localhost.example", False),
    ],
)
def test_only_this_machine_without_a_token(host, local):
    assert is_local(host) == local
    if local:
        Binding(host)
    else:
        with pytest.raises(InputError, match="token"):
            Binding(host)
        Binding(host, tokens=TOKENS)


def test_the_command_refuses_before_it_listens(tmp_path):
    empty, short = tmp_path / "empty", tmp_path / "short"
    empty.write_text("\n \n")
    short.write_text("abc\n")
    for words, reason in (
        (["s=zoo:sunspots", "--host", "0.0.0.0"], "token file is needed"),
        (["s=zoo:sunspots", "--token-file", str(empty)], "no token"),
        (["s=zoo:sunspots", "--token-file", str(short)], "at least 16"),
        (["zoo:sunspots"], "NAME=FILE"),
        (["s=zoo:sunspots", "s=zoo:sunspots"], "twice"),
        (["a/b=zoo:sunspots"], "model name"),
        (["s=zoo:sunspots", "--spec", "t=x.json"], "no model 't'"),
    ):
        result = CliRunner().invoke(application, ["serve", *words])
        assert result.exit_code in (1, 2) and reason in result.output, result.output


def test_a_port_that_is_taken_is_an_error_of_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words in (["--port", port], ["--port", "0", "--grpc-port", port]):
            result = CliRunner().invoke(application, ["serve", "s=zoo:sunspots", *words])
            assert result.exit_code == 1 and result.output.startswith(
                f"error: cannot listen on 127.0.0.1 port {port}: "
            )
            assert result.output.count("\n") == 1, result.output


def test_token_files(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("".join(f"{token}\n\n" for token in TOKENS))
    assert read_tokens(str(path)) == TOKENS


# --- what is too much ---


def test_large_bodies_are_refused():
    with served(max_body_size=4000, max_json_size=2000) as client:
        assert client.post(INFER, json=body()).status_code == 200
        refused(client.post(INFER, content=b"x" * 4001), 413, "4001 bytes, expected at most 4000")
        refused(client.post(INFER, content=(b"x" * 1000 for _ in range(5))), 413, "more than 4000")
        refused(client.post(INFER, content=b" " * 2001), 413, "send binary data")
        shape = {"inputs": [{"name": "x", "shape": [1, 201, 5], "datatype": "FP32", "data": []}]}
        refused(client.post(INFER, json=shape), 413, "more than 4000 bytes")
        assert client.post(INFER, json=body()).status_code == 200


def test_many_rows_times_steps_are_refused():
    with served(max_steps=100) as client:
        refused(client.post(INFER, json=body(np.zeros((2, 51, FEATURES), np.float32))), 413, "at most 100 rows times")
        assert client.post(INFER, json=body(np.zeros((2, 50, FEATURES), np.float32))).status_code == 200


def test_bytes_of_all_requests_together_are_bounded():
    with served(max_pending_size=3000, max_body_size=2000) as client, socket.socket() as slow:
        slow.connect((client.base_url.host, client.base_url.port))
        slow.sendall(f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n".encode() + bytes(1999))
        deadline = time.monotonic() + 60
        while (found := client.post(INFER, content=b" " * 1500)).status_code != 503:
            assert time.monotonic() < deadline
        assert refused(found, 503, "too many bytes").headers["retry-after"] == "1"
        slow.close()
        while client.post(INFER, content=b" " * 1500).status_code == 503:
            assert time.monotonic() < deadline


def test_slow_bodies_are_refused():
    with served(read_timeout=0.2) as client, socket.socket() as slow:
        slow.connect((client.base_url.host, client.base_url.port))
        slow.sendall(f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nabc".encode())
        answer = b""
        while part := slow.recv(4096):
            answer += part
        assert answer.startswith(b"HTTP/1.1 408") and b"did not arrive within 0.2 s" in answer


def test_a_full_queue_is_a_503_with_retry_after():
    held = Held()

    async def ask(address):
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=60) as client:
            asked = [asyncio.ensure_future(client.post(INFER, json=body())) for _ in range(12)]
            await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)  # only what is refused is answered yet
            held.released.set()
            return await asyncio.gather(*asked)

    with running({"tagger": held.model}, max_queue_size=2, max_batch_size=1) as address:
        answers = asyncio.run(ask(address))
    full = [answer for answer in answers if answer.status_code == 503]
    assert full and len(full) + sum(answer.status_code == 200 for answer in answers) == 12
    for answer in full:
        assert refused(answer, 503, "queue is full").headers["retry-after"] == "1"


def test_deadlines():
    held = Held()

    async def ask(address):
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=60) as client:
            first = asyncio.ensure_future(client.post(INFER, json=body()))
            assert await asyncio.to_thread(held.begun.wait, 60)
            late = asyncio.ensure_future(client.post(INFER, json=body(parameters={"timeout": 1000})))
            await asyncio.wait([late], timeout=0.3)
            held.released.set()
            return await first, await late

    with running({"tagger": held.model}) as address:
        first, late = asyncio.run(ask(address))
    assert first.status_code == 200
    refused(late, 504, "deadline")


def test_a_client_that_leaves_is_not_worked_for():
    held = Held()
    app = create_app({"tagger": held.model}, max_batch_size=1)
    engine = app.state.service.models["tagger"].engine
    content = json.dumps(body()).encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(content)}\r\n\r\n".encode()

    def wait_for(outcome, count):
        deadline = time.monotonic() + 60
        while getattr(engine.metrics, outcome) < count and time.monotonic() < deadline:
            time.sleep(0.01)

    with running(app) as address:
        host, port = address.split(":")
        several = [socket.create_connection((host, int(port))) for _ in range(4)]
        for one in several:
            one.sendall(head + content)
        wait_for("accepted", 4)
        assert held.begun.wait(60)
        for one in several:
            one.close()
        wait_for("cancelled", 3)
        held.released.set()
    assert (engine.metrics.accepted, engine.metrics.cancelled) == (4, 3)


def test_one_connection_alone_is_answered_in_the_event_loop(monkeypatch):
    monkeypatch.setattr(rnncore.engine.runners, "AT_ONCE", 60.0)
    app = create_app({"tagger": MODELS["tagger"]})
    engine, threads = app.state.service.models["tagger"].engine, []
    run = engine._runner.batcher.run
    engine._runner.batcher.run = lambda jobs: threads.append(threading.current_thread().name) or run(jobs)
    x = np.random.default_rng(3).standard_normal((1, 4, FEATURES)).astype(np.float32)

    def ask(client):
        while not engine._queue.is_idle:
            time.sleep(0.001)
        found = client.post(INFER, json=body(x)).json()["outputs"][0]
        assert equal(np.array(found["data"], np.float32), MODELS["tagger"](x).ravel())
        return threads[-1].startswith("rnncore-engine")

    with running(app) as address, httpx.Client(base_url=f"http://{address}") as one:
        assert [ask(one) for _ in range(ENOUGH + 4)] == [True] * ENOUGH + [False] * 4
        with httpx.Client(base_url=f"http://{address}") as other:
            assert all(ask(client) for _ in range(ENOUGH) for client in (other, one))
        assert [ask(one) for _ in range(ENOUGH)] == [True] * (ENOUGH - 1) + [False]
    assert engine.metrics.accepted == engine.metrics.completed == len(threads) == 4 * ENOUGH + 4


# --- sequences ---


def test_sequences_are_bounded_and_idle_ones_end():
    app = create_app({"tagger": MODELS["tagger"]}, max_sequences=2)
    with running(app) as address, httpx.Client(base_url=f"http://{address}", timeout=60) as client:
        for id in (1, 2):
            assert client.post(INFER, json=in_sequence(id, start=True)).status_code == 200
        assert refused(client.post(INFER, json=in_sequence(3, start=True)), 503, "2 sequences are open").headers[
            "retry-after"
        ]
        assert client.post(INFER, json=in_sequence(2, end=True)).status_code == 200
        assert client.post(INFER, json=in_sequence(3, start=True)).status_code == 200
        # From here on they are idle, however long the requests above took.
        app.state.service.models["tagger"].sequences._limits = Limits(max_sequences=2, sequence_idle=0.01)
        time.sleep(0.02)
        for id in (4, 5):
            assert client.post(INFER, json=in_sequence(id, start=True)).status_code == 200
        refused(client.post(INFER, json=in_sequence(1)), 400, "not open")


def test_a_sequence_whose_first_request_fails_is_not_open():
    with served(max_sequences=1) as client:
        wrong = in_sequence(1, start=True)
        wrong["inputs"][0]["shape"] = [1, 5, 1]
        refused(client.post(INFER, json=wrong), 400, "shape")
        refused(client.post(INFER, json=in_sequence(1)), 400, "not open")
        assert client.post(INFER, json=in_sequence(1, start=True)).status_code == 200
        wrong["parameters"]["sequence_start"] = False
        refused(client.post(INFER, json=wrong), 400, "shape")
        went_on = client.post(INFER, json=in_sequence(1)).json()["outputs"][0]["data"]
        x = np.full((1, 2, FEATURES), 0.5, np.float32)
        assert equal(np.array(went_on, np.float32), MODELS["tagger"](x)[0, 1])


def test_slots_come_back_and_hold_nothing_of_their_past():
    with served(max_sequences=1) as client:
        answers = []
        for id in range(30):
            client.post(INFER, json=in_sequence(id, start=True, value=id + 1.0))
            client.post(INFER, json=in_sequence(id, end=True, value=id + 1.0))
            first = client.post(INFER, json=in_sequence("probe", start=True, end=True)).json()
            answers.append(first["outputs"])
        assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sequence_id": None}, "without a sequence_id"),
        ({"sequence_id": 0}, "without a sequence_id"),
        ({"sequence_id": -1}, "sequence_id -1"),
        ({"sequence_id": 1 << 64}, "sequence_id"),
        ({"sequence_id": 1.5}, "sequence_id 1.5"),
        ({"sequence_id": True}, "sequence_id True"),
        ({"sequence_id": [1]}, "sequence_id [1]"),
        ({"sequence_id": "x" * 300}, "300 characters"),
        ({"sequence_start": 1}, "sequence_start"),
        ({"sequence_end": "yes"}, "sequence_end"),
    ],
)
def test_wrong_sequence_parameters(client, change, reason):
    asked = in_sequence(1, start=True)
    asked["parameters"].update(change)
    refused(client.post(INFER, json=asked), 400, reason)


def test_what_json_calls_an_integer(client):
    x = np.full((1, 2, FEATURES), 0.5, np.float32)
    asked = body(x, parameters={"sequence_id": 77.0, "sequence_start": True, "priority": 2.0, "timeout": 5e6})
    asked["inputs"][0]["shape"] = [1.0, 2.0, 5]
    found = client.post(INFER, json=asked).json()["outputs"][0]
    assert found["shape"] == [1, 2, 4]
    assert client.post(INFER, json=in_sequence(77, end=True)).status_code == 200  # the same sequence


def test_a_sequence_has_one_row_and_no_lengths(client):
    refused(client.post(INFER, json={**in_sequence(1, True), **body(np.zeros((2, 1, FEATURES)))}), 400, "expected [1,")
    asked = in_sequence(1, start=True)
    asked["inputs"].append({"name": "lengths", "shape": [1], "datatype": "INT64", "data": [1]})
    refused(client.post(INFER, json=asked), 400, "lengths")


# --- a service is told once what it serves ---


def test_services_refuse_what_they_cannot_serve():
    for wrong in ({}, {"a b": MODELS["tagger"]}, {"": MODELS["tagger"]}, {"x": object()}):
        with pytest.raises(InputError):
            Service(wrong)
    for wrong in ({"max_batch_size": 0}, {"max_body_size": 1.5}, {"timeout": -1}, {"max_steps": True}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Limits(**wrong)


def test_what_goes_wrong_inside_is_not_told(client):
    model = tagger()
    app = create_app({"tagger": model})

    def fail(*arguments):
        raise RuntimeError("/secret/path")

    model._forward, model._direct = fail, None
    with running(app) as address:
        found = httpx.post(f"http://{address}{INFER}", json=body())
        refused(found, 500, "internal error")
        assert "secret" not in found.text


def test_json_has_no_infinity():
    model = tagger()
    with served(models={"tagger": model}) as client:
        x = np.full((1, 1, FEATURES), np.nan, np.float32)
        parts = {"name": "x", "shape": [1, 1, FEATURES], "datatype": "FP32", "parameters": {"binary_data_size": 20}}
        for binary, status in ((False, 422), (True, 200)):
            head = json.dumps({"inputs": [parts], "parameters": {"binary_data_output": binary}}).encode()
            found = client.post(INFER, content=head + x.tobytes(), headers={LENGTH: str(len(head))})
            assert found.status_code == status
        assert b"NaN" not in found.content


# --- the page and the description ---


def test_the_page_is_the_same_for_everybody_and_runs_nothing_foreign():
    with served(tokens=TOKENS) as client:
        parts = {path: client.get(path) for path in ("/", "/page/page.js", "/page/page.css")}
        for answer in parts.values():
            assert answer.status_code == 200
            assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert "tagger" not in "".join(answer.text for answer in parts.values())
        assert parts["/page/page.js"].headers["content-type"].startswith("text/javascript")
        refused(client.get("/status"), 401, "token")
        for wrong in ("/page/nope", "/page/..%2f__init__.py", "/page/%2e%2e/service.py"):
            refused(client.get(wrong), 404, "Not Found")


def test_status_counts(client):
    def tagger_now():
        found = client.get("/status").json()
        return found["ready"], next(model for model in found["models"] if model["name"] == "tagger")

    ready, before = tagger_now()
    client.post(INFER, json=body(np.zeros((3, 2, FEATURES), np.float32)))
    client.post(INFER, json=in_sequence("status", start=True))
    _, after = tagger_now()
    assert ready and after["completed"] == before["completed"] + 2 and after["rows"] == before["rows"] + 4
    assert after["sequences"] == before["sequences"] + 1
    assert 0 < after["p50"] <= after["p99"]
    assert after["inputs"] == client.get("/v2/models/tagger").json()["inputs"]


def test_every_route_is_described(client):
    described = set(client.get("/openapi.json").json()["paths"])
    app = create_app({"tagger": MODELS["tagger"]})
    routes = {route.path for route in app.routes}
    hidden = {"/", "/page/{file}", "/openapi.json", "/v2/repository/models/{model}/{what}"}
    assert described == routes - hidden
