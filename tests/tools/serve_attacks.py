"""Attacks on a server in a process of its own, by clients without a token, while one with a token asks it.

    python tests/tools/serve_attacks.py [--seconds 10] [--attack slow_heads ...]

Each attack runs in a process of its own and keeps on: what the server closes is opened again. Meanwhile a client with a
token asks over a connection that it has, and over a new one each time. Compared are its answer times with those on the
idle server just before; the server's memory, after and before; and the time from SIGTERM to the end, under attack.
"""

import argparse
import contextlib
import http.client
import json
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _helpers  # noqa: F401
import numpy as np
import psutil
import serve_attackers
from certificates import certificate
from serve_attackers import ATTACKS
from serve_processes import save_models, server_process
from served import FEATURES, tagger

TOKEN = "a-token-of-a-client"
INFER = "/v2/models/tagger/infer"
BODY = json.dumps(
    {"inputs": [{"name": "x", "shape": [1, 2, FEATURES], "datatype": "FP32", "data": [0.5] * 2 * FEATURES}]}
).encode()
GROWTH = 128 << 20
DRAIN = 0.5


class Client:
    """With a token. times: seconds of its answers, over the connection that it keeps and over new ones."""

    def __init__(self, port, tls, expected):
        self.port, self.tls, self.expected, self.kept = port, tls, expected, None
        self.times = {"kept": [], "new": []}

    def connection(self):
        return http.client.HTTPSConnection("localhost", self.port, context=self.tls, timeout=60)

    def ask(self, connection):
        connection.request("POST", INFER, BODY, {"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        data = np.array(json.loads(content)["outputs"][0]["data"], np.float32)
        assert data.tobytes() == self.expected

    def timed(self, kind):
        start = time.perf_counter()
        if kind == "new":
            with contextlib.closing(self.connection()) as connection:
                self.ask(connection)
        else:
            self.kept = self.kept or self.connection()
            self.ask(self.kept)
        self.times[kind].append(time.perf_counter() - start)

    def run(self, seconds, at_least=20):
        """Answer times over so many seconds: (median, nine of ten, worst), of the slower kind."""
        self.times, self.kept = {"kept": [], "new": []}, None
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(self.times["new"]) < at_least:
            for kind in self.times:
                self.timed(kind)
            time.sleep(0.01)
        tenths = [statistics.quantiles(times, n=10) for times in self.times.values()]
        return max(one[4] for one in tenths), max(one[8] for one in tenths), max(map(max, self.times.values()))


@contextlib.contextmanager
def attacking(name, port, chain):
    """An attack in a process of its own, which has begun: its report is there at the end."""
    words = [sys.executable, serve_attackers.__file__, name, str(port), chain]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    report = {}
    try:
        assert process.stdout.readline() == "begun\n"
        yield report
        process.send_signal(signal.SIGTERM)
        report.update(json.loads(process.stdout.readline()))
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def target():
    """A server with TLS, a token and both ports: (ServerProcess, certificate, Client)."""
    with tempfile.TemporaryDirectory() as folder:
        chain, key = certificate(Path(folder))
        tokens = Path(folder) / "tokens"
        tokens.write_text(TOKEN)
        model = tagger()
        files = save_models(folder, {"tagger": model})
        words = ["--ssl-certfile", chain, "--ssl-keyfile", key, "--token-file", str(tokens), "--grpc-port", "0"]
        with server_process(files, *words, "--drain", str(DRAIN), "--no-request-log") as server:
            expected = model(np.full((1, 2, FEATURES), 0.5, np.float32)).tobytes()
            context = ssl.create_default_context(cafile=chain)
            yield server, chain, Client(server.port, context, expected)


def once(name, seconds, server, chain, client, at_least=20):
    """An attack beside the idle server: figures of it."""
    idle = client.run(min(2.0, seconds), at_least)
    before = server.resident
    port = server.events[0]["grpc_port"] if ATTACKS[name].to_grpc else server.port
    with attacking(name, port, chain) as report:
        attacked = client.run(seconds, at_least)
        descriptors = psutil.Process(server.process.pid).num_fds()
    return {
        "idle": idle,
        "attacked": attacked,
        "answered": len(client.times["kept"]) + len(client.times["new"]),
        "growth": server.resident - before,
        "descriptors": descriptors,
        **report,
    }


def check(name, found):
    """A client with a token is answered: the median under attack is of the order of the idle server's worst."""
    assert found["attacked"][0] < 10 * found["idle"][2], (name, found)
    assert found["growth"] < GROWTH, (name, found)


def end_under(name, server, chain):
    """Seconds from SIGTERM to the end, while an attack goes on; of an idle server without a name."""
    if name is None:
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.wait(120) == 0
        return time.monotonic() - start
    port = server.events[0]["grpc_port"] if ATTACKS[name].to_grpc else server.port
    with attacking(name, port, chain):
        return end_under(None, server, chain)


def run(names, seconds, report=print):
    for name in names:
        with target() as (server, chain, client):
            found = once(name, seconds, server, chain, client)
            ended = end_under(name, server, chain)
            assert server.events[-1]["event"] == "ended"
        idle, attacked = (" / ".join(f"{1e3 * one:.1f}" for one in found[kind]) for kind in ("idle", "attacked"))
        report(
            f"{name:16} {found['opened']:6} connections, {found['answers']}; {found['answered']} requests answered: "
            f"median, 90 % and slowest {attacked} ms (idle {idle}); memory +{found['growth'] / 1e6:.1f} MB, "
            f"{found['descriptors']} descriptors; SIGTERM {ended:.2f} s"
        )
        check(name, found)
        assert ended < 5.0, ended


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--attack", nargs="*", choices=ATTACKS, default=list(ATTACKS))
    options = parser.parse_args()
    run(options.attack, options.seconds)
