"""The service under load: mixed requests and live sequences held against an oracle, and its rates beside a bare server.

    python bench/serve.py --seconds 600 --clients 64 --sequences 1000 [--compare 60] [--write FILE]

mixed     every client asks without a pause, for batches of ragged rows and for the next piece of one of its sequences.
          An answer must have the bits that the model gives for those rows alone, and for the sequence as a whole; the
          model's own numbers are held against the equations of the cell in float64. So an answer that belongs to
          another request, and a state that belongs to another sequence, are seen. The server's memory is watched
compared  the same array, of batch 1, again and again to `rnncore serve` and to onnxruntime behind Starlette
          (serve_bare.py): once as bytes and nothing else, once in the protocol's form, in turn. rnncore serve checks,
          bounds and counts, and puts together what waits; the others do not. The servers live in processes of their
          own, the clients in this one and on the same cores; CPU is microseconds for each request, of either side

Exit code 1 where an answer was wrong or missing, or memory grew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import uvloop  # noqa: E402
from reference import reference  # noqa: E402
from shapes import Shape  # noqa: E402

import rnncore  # noqa: E402
from rnncore.formats.torch.names import bind  # noqa: E402

MIXED = Shape("LSTM", 256, 96, 24, 64)
COMPARED = Shape("LSTM", 1, 50, 64, 128)
LENGTH = "Inference-Header-Content-Length"
LARGEST_ERROR = 1e-5
SHARE_OF_SEQUENCES = 0.6
MOST_PIECE, MOST_ROWS = 8, 4
FLAT = (1.05, 16 << 20)  # memory may grow by this factor and so many bytes
ROUNDS = 4
QUIET = ("--port", "0", "--no-request-log")


def model_of(shape: Shape) -> rnncore.Model:
    cell = rnncore.cells.CELLS[shape.cell](shape.I, shape.H)
    spec = rnncore.Spec(
        [rnncore.Input("x", "float", ("B", "T", shape.I))], [rnncore.Recurrent("rnn", cell, "x")], ["rnn"]
    )
    weights, _ = shape.arrays()
    return rnncore.Model(spec, bind(spec, {f"rnn.{name}": array for name, array in weights.items()}).weights)


class Server:
    """A server's process, which says on stderr where it listens."""

    def __init__(self, *words: str, threads: int):
        environment = {**os.environ, "RNNCORE_NUM_THREADS": str(threads)}
        environment["PYTHONPATH"] = str(Path(rnncore.__file__).parents[1])
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - the process writes it
        self.process = subprocess.Popen([sys.executable, *words], stderr=self._log, env=environment)
        self.port = self._wait()

    def _wait(self) -> int:
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            self._log.seek(0)
            for line in self._log:
                if '"ready"' in line and line.endswith("\n"):
                    return json.loads(line)["port"]
            time.sleep(0.05)
        raise SystemExit("a server did not start")

    @property
    def cpu(self) -> float:
        """Seconds of CPU so far."""
        found = psutil.Process(self.process.pid).cpu_times()
        return found.user + found.system

    @property
    def resident(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


class Connection:
    """HTTP/1.1 over one connection, with as little of its own as possible: the clients share the machine."""

    async def open(self, port: int) -> Connection:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        return self

    async def post(self, path: str, body: bytes, headers: str = "") -> tuple[int, dict[str, str], bytes]:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        self._writer.write(head.encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        found = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        content = await self._reader.readexactly(int(found["content-length"]))
        return int(lines[0].split()[1]), found, content

    def close(self) -> None:
        self._writer.close()


def infer_request(arrays: dict[str, np.ndarray], parameters: dict | None = None) -> tuple[bytes, str]:
    """The body and the header of a request in the binary form."""
    names = {"float32": "FP32", "int64": "INT64"}
    inputs = [
        {"name": name, "shape": list(array.shape), "datatype": names[array.dtype.name]}
        | {"parameters": {"binary_data_size": array.nbytes}}
        for name, array in arrays.items()
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True, **(parameters or {})}}).encode()
    return head + b"".join(array.tobytes() for array in arrays.values()), f"{LENGTH}: {len(head)}\r\n"


@dataclass
class Tally:
    """What came of the requests of one kind."""

    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    wrong: int = 0
    server_cpu: float = 0.0
    client_cpu: float = 0.0

    def summary(self, lasted: float) -> dict:
        found = {"requests": len(self.seconds), "errors": len(self.errors), "wrong": self.wrong}
        found["requests_per_second"] = len(self.seconds) / lasted
        for name, share in (("p50", 50), ("p99", 99)):
            found[f"{name}_ms"] = float(np.percentile(self.seconds, share)) * 1e3 if self.seconds else None
        return found

    def cpu(self) -> dict:
        """Microseconds of CPU for each request."""
        count = max(1, len(self.seconds))
        return {"server_cpu_us": self.server_cpu / count * 1e6, "client_cpu_us": self.client_cpu / count * 1e6}


class Bank:
    """Inputs and, for each of their prefixes, the outputs that are right."""

    def __init__(self, model: rnncore.Model, shape: Shape):
        _, self.x = shape.arrays()
        self.y = model(self.x)
        error = float(np.abs(self.y - reference(shape)).max())
        if error > LARGEST_ERROR:
            raise SystemExit(f"the model itself is wrong by {error}")


@dataclass
class LiveSequence:
    """A sequence that is fed: which row of the bank, and how far."""

    id: int
    row: int
    length: int
    at: int = 0


class MixedClient:
    """One client of the mixed load, with its own sequences."""

    def __init__(self, number: int, sequences: int, bank: Bank):
        self.rng = np.random.default_rng(number)
        self.bank, self.next_id, self.step = bank, number * 10_000_000 + 1, number
        self.live = [self.new_sequence() for _ in range(sequences)]
        self.infers, self.pieces = Tally(), Tally()

    def new_sequence(self) -> LiveSequence:
        self.next_id += 1
        length = int(self.rng.integers(2, MIXED.T + 1))
        return LiveSequence(self.next_id, int(self.rng.integers(MIXED.B)), length)

    async def run(self, port: int, end: float) -> None:
        connection = await Connection().open(port)
        while time.monotonic() < end:
            if self.live and self.rng.random() < SHARE_OF_SEQUENCES:
                await self.feed(connection)
            else:
                await self.infer(connection)
        connection.close()

    async def infer(self, connection: Connection) -> None:
        rows = self.rng.choice(MIXED.B, int(self.rng.integers(1, MOST_ROWS + 1)))
        lengths = self.rng.integers(1, MIXED.T + 1, len(rows))
        steps = int(lengths.max())
        expected = np.where(np.arange(steps)[:, None] < lengths[:, None, None], self.bank.y[rows, :steps], 0)
        arrays = {"x": np.ascontiguousarray(self.bank.x[rows, :steps]), "lengths": lengths}
        await self.ask(connection, self.infers, *infer_request(arrays), expected)

    async def feed(self, connection: Connection) -> None:
        place = int(self.rng.integers(len(self.live)))
        one = self.live[place]
        end = min(one.length, one.at + int(self.rng.integers(1, MOST_PIECE + 1)))
        flags = {"sequence_start": one.at == 0, "sequence_end": end == one.length}
        arrays = {"x": np.ascontiguousarray(self.bank.x[None, one.row, one.at : end])}
        expected = self.bank.y[None, one.row, one.at : end]
        fed = await self.ask(
            connection, self.pieces, *infer_request(arrays, {"sequence_id": one.id, **flags}), expected
        )
        one.at = end
        if not fed or end == one.length:
            self.live[place] = self.new_sequence()

    async def ask(self, connection: Connection, tally: Tally, body: bytes, header: str, expected: np.ndarray) -> bool:
        start = time.perf_counter()
        status, headers, content = await connection.post("/v2/models/lstm/infer", body, header)
        tally.seconds.append(time.perf_counter() - start)
        if status != 200:
            tally.errors.append(f"{status} {content[:200]!r}")
            return False
        if content[int(headers[LENGTH.lower()]) :] != expected.astype(np.float32).tobytes():
            tally.wrong += 1
        return True


async def watch(server: Server, end: float, found: list[int]) -> None:
    while time.monotonic() < end:
        found.append(server.resident)
        await asyncio.sleep(0.25)


def mixed(folder: str, options: argparse.Namespace) -> dict:
    """The mixed load: counts, rates and memory."""
    model = model_of(MIXED)
    path = rnncore.save(Path(folder) / "mixed.safetensors", model)
    bank = Bank(model, MIXED)
    most = str(options.sequences + options.clients)  # one that ends beside one that begins
    words = ["-m", "rnncore", "serve", f"lstm={path}", *QUIET, "--max-sequences", most]
    server = Server(*words, threads=options.threads)
    shares = np.diff(np.linspace(0, options.sequences, options.clients + 1).astype(int))
    clients = [MixedClient(number, int(share), bank) for number, share in enumerate(shares)]
    memory: list[int] = []

    async def load() -> float:
        start = time.monotonic()
        end = start + options.seconds
        await asyncio.gather(watch(server, end, memory), *(client.run(server.port, end) for client in clients))
        return time.monotonic() - start

    lasted = uvloop.run(load())
    server.stop()
    found = {}
    for kind in ("infers", "pieces"):
        tallies = [getattr(client, kind) for client in clients]
        total = Tally(
            [seconds for tally in tallies for seconds in tally.seconds],
            [error for tally in tallies for error in tally.errors],
            sum(tally.wrong for tally in tallies),
        )
        found[kind] = total.summary(lasted)
        for error in total.errors[:3]:
            print(f"  {kind}: {error}")
    part = max(1, len(memory) // 5)
    before, after = max(memory[part : 2 * part] or memory), max(memory[-part:])
    return {**found, "seconds": lasted, "memory": {"early_bytes": before, "late_bytes": after}}


@dataclass
class Side:
    """A server, and a request with its right answer."""

    server: Server
    path: str
    body: bytes
    header: str
    expected: np.ndarray


async def hammer(side: Side, clients: int, seconds: float) -> Tally:
    """So many clients with one request, again and again."""
    tally = Tally()
    cpu, own = side.server.cpu, time.process_time()
    end = time.monotonic() + seconds

    async def one() -> None:
        connection = await Connection().open(side.server.port)
        while time.monotonic() < end:
            start = time.perf_counter()
            status, _, content = await connection.post(side.path, side.body, side.header)
            tally.seconds.append(time.perf_counter() - start)
            if status != 200:
                tally.errors.append(f"{status} {content[:200]!r}")
                continue
            found = np.frombuffer(content[-side.expected.nbytes :], np.float32)
            tally.wrong += not np.abs(found - side.expected).max() <= LARGEST_ERROR
        connection.close()

    await asyncio.gather(*(one() for _ in range(clients)))
    tally.server_cpu, tally.client_cpu = side.server.cpu - cpu, time.process_time() - own
    return tally


def compared(folder: str, options: argparse.Namespace) -> dict:
    """rnncore serve and the bare server, in turn, on the same weights and input."""
    import onnxruntime
    from engines.onnxruntime_engine import graph

    model, (_, x) = model_of(COMPARED), COMPARED.arrays()
    saved = rnncore.save(Path(folder) / "compared.safetensors", model)
    onnx_file = Path(folder) / "compared.onnx"
    onnx_file.write_bytes(graph(COMPARED))
    y = model(x)
    threads = str(options.threads)
    ours = Server("-m", "rnncore", "serve", f"lstm={saved}", *QUIET, threads=options.threads)
    bare = Server(str(HERE / "serve_bare.py"), str(onnx_file), "--threads", threads, threads=options.threads)
    first, expected = np.ascontiguousarray(x.transpose(1, 0, 2)), y.transpose(1, 0, 2).ravel()
    sides = {
        "rnncore serve": Side(ours, "/v2/models/lstm/infer", *infer_request({"x": x}), y.ravel()),
        "onnxruntime, bare bytes": Side(bare, "/infer", first.tobytes(), "", expected),
        "onnxruntime, protocol": Side(bare, "/v2/infer", *infer_request({"x": first}), expected),
    }
    tallies = {name: Tally() for name in sides}
    for number in range(ROUNDS + 1):
        for name, side in sides.items():
            seconds = options.compare / (len(sides) * ROUNDS) if number else min(1.0, options.compare / 4)
            found = uvloop.run(hammer(side, options.clients, seconds))
            if number:  # the first is to get warm
                tallies[name].seconds += found.seconds
                tallies[name].server_cpu += found.server_cpu
                tallies[name].client_cpu += found.client_cpu
            tallies[name].errors += found.errors
            tallies[name].wrong += found.wrong
    for server in (ours, bare):
        server.stop()
    found = {name: {**tally.summary(options.compare / len(sides)), **tally.cpu()} for name, tally in tallies.items()}
    return {"shape": COMPARED.name, "onnxruntime": onnxruntime.__version__, "clients": options.clients, **found}


def show(name: str, found: dict) -> None:
    cpu = f"   CPU {found['server_cpu_us']:.0f} + {found['client_cpu_us']:.0f} us" if "server_cpu_us" in found else ""
    print(
        f"{name:26} {found['requests']:9,} requests {found['requests_per_second']:9,.0f}/s"
        f"   p50 {found['p50_ms']:7.2f} ms   p99 {found['p99_ms']:7.2f} ms"
        f"   {found['errors']} errors   {found['wrong']} wrong{cpu}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--sequences", type=int, default=1000)
    parser.add_argument("--compare", type=float, default=10, help="seconds for both servers together; 0: not at all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", metavar="FILE", help="the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = {"mixed": mixed(folder, options)}
        show("mixed: batches", results["mixed"]["infers"])
        show("mixed: live sequences", results["mixed"]["pieces"])
        memory = results["mixed"]["memory"]
        print(f"memory {memory['early_bytes'] / 1e6:.1f} MB early, {memory['late_bytes'] / 1e6:.1f} MB late")
        if options.compare:
            results["compared"] = compared(folder, options)
            for name, found in results["compared"].items():
                if isinstance(found, dict):
                    show(name, found)
    if options.write:
        Path(options.write).write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    sides = [*results["mixed"].values(), *results.get("compared", {}).values()]
    bad = sum(side["errors"] + side["wrong"] for side in sides if isinstance(side, dict) and "errors" in side)
    grew = memory["late_bytes"] > memory["early_bytes"] * FLAT[0] + FLAT[1]
    return 1 if bad or grew else 0


if __name__ == "__main__":
    sys.exit(main())
