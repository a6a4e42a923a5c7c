"""Models to serve, and a server to ask: in this process, on a port of its own, with real sockets."""

import contextlib
import signal
import socket
import threading
import time

import numpy as np
import uvicorn
from random_networks import draw_weights

from rnncore.cells import GRU, LSTM
from rnncore.graph.nodes import Input, Node, Recurrent
from rnncore.graph.spec import Spec
from rnncore.runtime.model import Model
from rnncore.serve import Service, create_app
from rnncore.serve.server import Binding, Server

FEATURES, TAGS, WORDS = 5, 4, 30


def tagger(seed=1, hidden=24, direction="forward"):
    """(B, T, 5) float and lengths -> (B, T, 4)."""
    width = hidden * (1 + (direction == "bidirectional"))
    spec = Spec(
        [Input("x", "float", ("B", "T", FEATURES)), Input("lengths", "int64", ("B",), optional=True)],
        [
            Recurrent("lstm", LSTM(FEATURES, hidden), "x", layers=2, direction=direction),
            Node("tags", "Linear", "lstm", {"input_size": width, "output_size": TAGS}),
        ],
        ["tags"],
    )
    return Model(spec, draw_weights(spec, np.random.default_rng(seed)))


def reader(seed=2):
    """(B, T) int64 ids of 30 words -> (B, 8) the last output, and (1, B, 8) the final state."""
    spec = Spec(
        [Input("ids", "int64", ("B", "T"))],
        [
            Node("embed", "Embedding", "ids", {"input_size": WORDS, "output_size": 6}),
            Recurrent("gru", GRU(6, 8), "embed", lengths=None),
        ],
        ["gru.last", "gru.h"],
    )
    return Model(spec, draw_weights(spec, np.random.default_rng(seed)))


def adder():
    """(B, N) float and (B, N) bool, both of any N -> their product and the mask again: no recurrence at all."""
    spec = Spec(
        [Input("a", "float", ("B", "N")), Input("keep", "bool", ("B", "N"))],
        [Node("number", "Cast", "keep", {"to": "float"}), Node("kept", "Mul", ("a", "number"))],
        ["kept", "keep"],
    )
    return Model(spec, {})


def models():
    return {"tagger": tagger(), "reader": reader(), "two.ways": tagger(3, direction="bidirectional"), "adder": adder()}


@contextlib.contextmanager
def running(served, **options):
    """A server for models or an app: "host:port"."""
    app = create_app(served, **options) if isinstance(served, dict) else served
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield f"127.0.0.1:{taken.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@contextlib.contextmanager
def serving(networks, limits=None, **binding):
    """The server of the command, in a thread: a rnncore.serve.server.Server, whose port is ``listener.port``."""
    server = Server(Service(networks, limits), Binding(port=0, **{"drain_seconds": 0.1, **binding}))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    try:
        yield server
    finally:
        server.handle_exit(signal.SIGTERM, None)
        thread.join(30)
        assert not thread.is_alive()


class Held:
    """A model whose calls wait until they are released: its own is what it gives."""

    def __init__(self):
        self.model, self.begun, self.released = tagger(hidden=64), threading.Event(), threading.Event()
        work = self.model._forward

        def forward(*arguments):
            self.begun.set()
            assert self.released.wait(60)
            return work(*arguments)

        self.model._forward, self.model._direct = forward, None
