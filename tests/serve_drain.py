"""SIGTERM under load: what the server accepted, it answers.

    python tests/serve_drain.py --count 50

Clients ask without a pause, alone and in sequences, until nobody answers any more; meanwhile the server gets SIGTERM.
Every request has an id. What the server's log calls answered, a client must have got with that status and the model's
own bits; whatever else a client asked must have failed at its connection, and be unknown to the server.
"""

import argparse
import http.client
import json
import signal
import tempfile
import threading
import time

import numpy as np
from serve_processes import save_models, server_process
from served import FEATURES, tagger

LENGTH = "Inference-Header-Content-Length"
STEPS = 150


class Client(threading.Thread):
    """Asks until its connection is refused. answered: id -> status; failed: ids; wrong: ids with other bits."""

    def __init__(self, number, port, model, stop_at):
        super().__init__(daemon=True)
        self.number, self.port, self.stop_at = number, port, stop_at
        rng = np.random.default_rng(number)
        self.x = rng.standard_normal((1 + number % 3, STEPS, FEATURES)).astype(np.float32)
        if number % 4 == 0:
            self.x = self.x[:1]
        self.expected = model(self.x)
        self.answered, self.failed, self.wrong = {}, [], []

    def run(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        refusals, turn = 0, 0
        while refusals < 3 and time.monotonic() < self.stop_at:
            id = f"{self.number}-{turn}"
            turn += 1
            try:
                self.ask(connection, id, turn)
                refusals = 0
            except (http.client.HTTPException, OSError):
                self.failed.append(id)
                connection.close()
                refusals += 1

    def ask(self, connection, id, turn):
        entry = {"name": "x", "shape": list(self.x.shape), "datatype": "FP32"}
        entry["parameters"] = {"binary_data_size": self.x.nbytes}
        parameters = {"binary_data_output": True}
        if self.number % 4 == 0:
            parameters |= {"sequence_id": self.number + 1, "sequence_start": True, "sequence_end": bool(turn % 2)}
        head = json.dumps({"inputs": [entry], "parameters": parameters}).encode()
        headers = {LENGTH: str(len(head)), "X-Request-Id": id}
        connection.request("POST", "/v2/models/tagger/infer", body=head + self.x.tobytes(), headers=headers)
        answer = connection.getresponse()
        content = answer.read()
        self.answered[id] = answer.status
        if answer.status == 200 and content[int(answer.headers[LENGTH]) :] != self.expected.tobytes():
            self.wrong.append(id)


def once(files, model, clients, seconds):
    """One server's life: (answered, failed at the connection, lost)."""
    with server_process(files) as server:
        found = [Client(number, server.port, model, time.monotonic() + 60) for number in range(clients)]
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
    last = server.events[-1]
    assert code == 0 and last["event"] == "ended" and last["open_requests"] == 0, (code, last)
    assert all(counts["accepted"] == counts["completed"] for counts in last["models"].values()), last
    assert not any(client.wrong for client in found), [client.wrong for client in found]
    assert set(answered.values()) == {200}, answered
    lost = {id for id in logged if answered.get(id) != logged[id]} | (failed & set(logged))
    return len(answered), len(failed), sorted(lost)


def run(count, clients, seed, report=print):
    """So many servers; AssertionError where one lost something."""
    rng, total, model = np.random.default_rng(seed), 0, tagger(hidden=128)
    with tempfile.TemporaryDirectory() as folder:
        files = save_models(folder, {"tagger": model})
        for number in range(count):
            answered, failed, lost = once(files, model, clients, rng.uniform(0.05, 0.6))
            total += answered
            report(f"{number + 1:3}: {answered} answered, {failed} not accepted, {len(lost)} lost")
            assert not lost, lost
    report(f"{count} times SIGTERM under load: {total} requests answered, none lost")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run(options.count, options.clients, options.seed)
