"""SIGTERM under load: what the server accepted, it answers.

    python tests/tools/serve_drain.py --count 50 [--transport grpc]

Clients ask without a pause, alone and in sequences, until nobody answers any more; meanwhile the server gets SIGTERM.
They ask over HTTP, over gRPC, and over streams of gRPC, each on a connection of its own. Every request has an id. What
the server's log calls answered, a client must have got with that status and the model's own bits; whatever else a
client asked must have failed at its connection, and be unknown to the server.
"""

import argparse
import http.client
import json
import queue
import signal
import tempfile
import threading
import time

import _helpers  # noqa: F401
import grpc
import numpy as np
from serve_processes import save_models, server_process
from served import FEATURES, tagger
from stream_models import equal

from rnncore.serve.messages import SERVICE, message, methods

LENGTH = "Inference-Header-Content-Length"
STEPS = 150


class Client(threading.Thread):
    """Asks until its connection is refused. answered: id -> status; failed: ids; wrong: ids with other bits."""

    def __init__(self, number, ports, model, stop_at):
        super().__init__(daemon=True)
        self.number, self.ports, self.stop_at = number, ports, stop_at
        rng = np.random.default_rng(number)
        self.x = rng.standard_normal((1 + number % 3, STEPS, FEATURES)).astype(np.float32)
        if number % 4 == 0:
            self.x = self.x[:1]
        self.expected = model(self.x)
        self.answered, self.failed, self.wrong = {}, [], []

    @property
    def in_sequences(self):
        return self.number % 4 == 0

    def run(self):
        self.open()
        refusals, turn = 0, 0
        while refusals < 3 and time.monotonic() < self.stop_at:
            id = f"{self.number}-{turn}"
            turn += 1
            try:
                before = len(self.answered)
                self.ask(id, turn)
                refusals = 0 if len(self.answered) > before else refusals
            except (http.client.HTTPException, OSError, grpc.RpcError, Lost):
                self.failed.append(id)
                self.close()
                refusals += 1
        self.close()

    def parameters(self, turn):
        """Those of the sequence, if there is one: it begins anew with each request, and ends with some."""
        if not self.in_sequences:
            return {}
        return {"sequence_id": self.number + 1, "sequence_start": True, "sequence_end": bool(turn % 2)}

    def got(self, id, status, content):
        self.answered[id] = status
        if status == 200 and not equal(np.frombuffer(content, np.float32), self.expected.ravel()):
            self.wrong.append(id)


class HttpClient(Client):
    def open(self):
        self.connection = http.client.HTTPConnection("127.0.0.1", self.ports[0], timeout=30)

    def close(self):
        self.connection.close()

    def ask(self, id, turn):
        entry = {"name": "x", "shape": list(self.x.shape), "datatype": "FP32"}
        entry["parameters"] = {"binary_data_size": self.x.nbytes}
        head = {"inputs": [entry], "parameters": {"binary_data_output": True, **self.parameters(turn)}}
        head = json.dumps(head).encode()
        headers = {LENGTH: str(len(head)), "X-Request-Id": id}
        self.connection.request("POST", "/v2/models/tagger/infer", body=head + self.x.tobytes(), headers=headers)
        answer = self.connection.getresponse()
        content = answer.read()
        self.got(id, answer.status, content[int(answer.headers.get(LENGTH, 0)) :])


class GrpcClient(Client):
    def open(self):
        options = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
        self.channel = grpc.insecure_channel(f"127.0.0.1:{self.ports[1]}", options=options)
        _, answer, _ = methods()["ModelInfer"]
        self.call = self.channel.unary_unary(
            f"/{SERVICE}/ModelInfer", lambda found: found.SerializeToString(), answer.FromString
        )

    def close(self):
        self.channel.close()
        self.open()

    def request(self, id, turn):
        found = message("ModelInferRequest")(model_name="tagger", id=id)
        found.inputs.add(name="x", datatype="FP32", shape=self.x.shape)
        found.raw_input_contents.append(self.x.tobytes())
        for name, value in self.parameters(turn).items():
            setattr(found.parameters[name], "bool_param" if isinstance(value, bool) else "int64_param", value)
        return found

    def ask(self, id, turn):
        answer = self.call(self.request(id, turn), timeout=30, metadata=(("x-request-id", id),))
        self.got(id, 200, answer.raw_output_contents[0])


class Lost(Exception):
    """A stream ended before the answer."""


class StreamClient(GrpcClient):
    """Several requests at a time over one stream; the first that is not answered ends it."""

    def open(self):
        super().open()
        _, answer, _ = methods()["ModelStreamInfer"]
        call = self.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer", lambda found: found.SerializeToString(), answer.FromString
        )
        self.asked, self.sent = queue.SimpleQueue(), []
        self.answers = call(iter(self.asked.get, None), timeout=60)

    def close(self):
        self.failed += self.sent[1:]  # the first is the one that failed just now, or there is none
        self.asked.put(None)
        super().close()

    def parameters(self, turn):
        """A sequence for each request, since several are on their way."""
        own = {"sequence_id": (self.number << 32) + turn, "sequence_end": True}
        return {**super().parameters(turn), **own} if self.in_sequences else {}

    def ask(self, id, turn):
        self.sent.append(id)
        self.asked.put(self.request(id, turn))
        if len(self.sent) < 3:
            return
        answer = next(self.answers, None)
        if answer is None:
            raise Lost
        assert not answer.error_message, answer.error_message
        first = self.sent.pop(0)
        assert answer.infer_response.id == first
        self.got(first, 200, answer.infer_response.raw_output_contents[0])


KINDS = {"http": HttpClient, "grpc": GrpcClient, "stream": StreamClient}


def once(files, model, kinds, clients, seconds):
    """One server's life: (answered, failed at the connection, lost)."""
    with server_process(files, "--grpc-port", "0") as server:
        ports = server.port, server.events[0]["grpc_port"]
        stop_at = time.monotonic() + 60
        found = [KINDS[kinds[number % len(kinds)]](number, ports, model, stop_at) for number in range(clients)]
        for client in found:
            client.start()
        time.sleep(seconds)
        server.process.send_signal(signal.SIGTERM)
        code = server.wait()
        for client in found:
            client.join(60)
    answered = {id: status for client in found for id, status in client.answered.items()}
    failed = {id for client in found for id in client.failed}
    logged = {event["request_id"]: event["status"] for event in server.events if event["event"] == "request"}
    logged = {id: 200 if status == "OK" else status for id, status in logged.items()}
    last = server.events[-1]
    assert code == 0 and last["event"] == "ended" and last["open_requests"] == 0, (code, last)
    assert all(counts["accepted"] == counts["completed"] for counts in last["models"].values()), last
    assert not any(client.wrong for client in found), [client.wrong for client in found]
    assert set(answered.values()) == {200}, answered
    lost = {id for id in logged if answered.get(id) != logged[id]} | (failed & set(logged))
    return len(answered), len(failed), sorted(lost)


def run(count, clients, seed, report=print, kinds=tuple(KINDS)):
    """So many servers; AssertionError where one lost something."""
    rng, total, model = np.random.default_rng(seed), 0, tagger(hidden=128)
    with tempfile.TemporaryDirectory() as folder:
        files = save_models(folder, {"tagger": model})
        for number in range(count):
            answered, failed, lost = once(files, model, kinds, clients, rng.uniform(0.05, 0.6))
            total += answered
            report(f"{number + 1:3}: {answered} answered, {failed} not accepted, {len(lost)} lost")
            assert not lost, lost
    report(f"{count} times SIGTERM under load: {total} requests answered, none lost")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--transport", choices=[*KINDS, "all"], default="all")
    options = parser.parse_args()
    kinds = tuple(KINDS) if options.transport == "all" else (options.transport,)
    run(options.count, options.clients, options.seed, kinds=kinds)
