"""A service: models behind the Open Inference Protocol v2, for its clients (tritonclient, KServe, curl). Extra "serve".

app = rnncore.serve.create_app({"tagger": model})   # an ASGI app of its own, or to mount in Starlette or FastAPI
rnncore serve tagger=tagger.safetensors             # the same as a command

refusals.py     what is answered instead of a result
tensors.py      names of dtypes, JSON data and raw bytes, to arrays and back, checked before anything is made
protocol.py     a request and its JSON and binary form
sequences.py    sequence_id, sequence_start and sequence_end to streams
service.py      models by name, each behind its engines: what every transport asks
metrics.py      counts and histograms for Prometheus
gate.py         what every HTTP request goes through: id, token, log, count
gzipped.py      compressed bodies, unpacked within bounds
watch.py        requests that take long: bodies that do not come, clients that do not stay
inference.py    a request for inference, from its body to the answer
application.py  the other routes, and the app
connection.py   one HTTP connection of the command's server: bounded heads, deadlines
listener.py     which connections are open, and which give way to new ones
server.py       the command's server: where it may listen, how it ends
grpc_service.py the same service over gRPC
"""

from __future__ import annotations

from rnncore.errors import MissingPackageError

try:
    import prometheus_client  # noqa: F401
    import starlette  # noqa: F401
except ImportError as error:
    raise MissingPackageError(
        'rnncore.serve needs starlette and prometheus-client: pip install "rnncore[serve]"'
    ) from error

from rnncore.serve.application import create_app
from rnncore.serve.service import Limits, Service

__all__ = ["Limits", "Service", "create_app"]
