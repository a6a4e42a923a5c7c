"""Malformed requests against a server in a process of its own: each is answered with a reason, and none ends it.

    python tests/tools/serve_malformed.py --count 20000 [--seed 1]

Every request is built from a valid one by malformed_requests.py. A kind that is certainly wrong must get a 4xx with a
reason and a request id; one that may happen to be right (flipped bytes), that or the right answer. Between them valid
requests get the bits of the model, and the server's memory stays where it was.
"""

import argparse
import collections
import http.client
import json
import socket
import tempfile
import time

import _helpers  # noqa: F401
from malformed_requests import LENGTH, Attack, as_pairs
from serve_processes import save_models, server_process
from served import FEATURES, models

GROWTH = 160 << 20


class Connection:
    """HTTP that is opened again where the server closed it."""

    def __init__(self, port):
        self._port, self._client = port, http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def post(self, path, headers, body):
        try:
            return self._post(path, headers, body)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            self._client.close()
            return self._post(path, headers, body)

    def _post(self, path, headers, body):
        pairs = as_pairs(headers)
        names = {name.lower() for name, _ in pairs}
        self._client.putrequest("POST", path, skip_host="host" in names, skip_accept_encoding=True)
        for name, value in [*pairs, ("Content-Length", str(len(body)))]:
            self._client.putheader(name, value)
        self._client.endheaders(body)
        answer = self._client.getresponse()
        return answer.status, answer.headers, answer.read()

    def leave_in_the_middle(self, path, headers, body, at):
        """Announces a body, sends a part and goes."""
        with socket.create_connection(("127.0.0.1", self._port)) as plain:
            lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
            lines += [f"{name}: {value}" for name, value in as_pairs(headers)]
            plain.sendall("\r\n".join([*lines, "", ""]).encode() + body[:at])


def check_answer(kind, certain, status, headers, answer):
    """The fault of an answer, or None."""
    if status == 200 and not certain:
        return None
    if not 400 <= status < 500:
        return f"{kind}: status {status}: {answer[:300]!r}"
    found = json.loads(answer)
    if set(found) != {"error", "request_id"} or len(found["error"]) < 8 or len(found["error"]) > 600:
        return f"{kind}: {answer[:1000]!r}"
    if headers["X-Request-Id"] != found["request_id"]:
        return f"{kind}: another request id"
    return None


def check_valid(attack, connection, networks):
    """A valid request among the others has the model's own bits."""
    x = attack.numbers(2, 3, FEATURES)
    model, found, raw = attack.request("tagger", {"x": x}, True)
    found["parameters"] = {"binary_data_output": True}
    status, headers, answer = connection.post(*attack.packed(model, found, raw)[:3])
    assert status == 200, answer
    assert answer[int(headers[LENGTH]) :] == networks["tagger"](x).tobytes()


def run(count, seed, report=print):
    """Counts by kind and status; AssertionError for the first wrong answers."""
    attack, networks = Attack(seed), models()
    wrong, counts, before = [], collections.Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        files = save_models(folder, networks)
        with server_process(files) as server:
            connection = Connection(server.port)
            start = time.perf_counter()
            for number in range(count):
                kind, (path, headers, body, certain) = attack.draw()
                status, found, answer = connection.post(path, headers, body)
                counts[kind, status] += 1
                problem = check_answer(kind, certain, status, found, answer)
                if problem:
                    wrong.append(f"request {number}: {problem}")
                if number % 50 == 0:
                    check_valid(attack, connection, networks)
                    connection.leave_in_the_middle(path, headers, body, attack.rng.integers(len(body) + 1))
                if number == count // 4:
                    before = server.resident
            growth = server.resident - before
            assert server.process.poll() is None, "the server is gone"
            errors = [event for event in server.events if "traceback" in event]
    seconds = time.perf_counter() - start
    for (kind, status), number in sorted(counts.items()):
        report(f"{kind:28} {status} {number:7}")
    report(f"{count} requests in {seconds:.1f} s, memory +{growth / 1e6:.1f} MB, {len(wrong)} wrong answers")
    assert not wrong, "\n".join(wrong[:20])
    assert not errors, errors[0]
    assert growth < GROWTH, f"{growth} bytes more than after a quarter"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    run(options.count, options.seed)
