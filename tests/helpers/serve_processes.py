"""`rnncore serve` as a process of its own, for tests that may end it."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil

import rnncore


class ServerProcess:
    """A running server. events: its log so far; port; process."""

    def __init__(self, models, *words):
        given = [f"{name}={path}" for name, path in models.items()]
        command = [sys.executable, "-m", "rnncore", "serve", *given, "--port", "0", *words]
        root = str(Path(rnncore.__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True)
        self.events, self._ready = [], threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(60) or self.port is None:
            self.process.kill()
            raise AssertionError(f"the server did not start: {self.events}")

    port = None

    def _read(self):
        for line in self.process.stderr:
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "stray", "text": line}
            self.events.append(event)
            if event["event"] == "ready":
                self.port = event["port"]
                self._ready.set()
        self._ready.set()

    @property
    def resident(self):
        """Bytes of memory."""
        return psutil.Process(self.process.pid).memory_info().rss

    def wait(self, seconds=30):
        """Its exit code, once the log is read to its end."""
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        return code


def save_models(folder, models):
    """Models as files: name -> path."""
    return {name: str(rnncore.save(Path(folder) / f"{name}.safetensors", model)) for name, model in models.items()}


@contextlib.contextmanager
def server_process(models, *words):
    """A ServerProcess for files by name; killed at the end, if it still runs."""
    server = ServerProcess(models, *words)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.wait()
