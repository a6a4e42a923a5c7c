"""A service: models behind the Open Inference Protocol v2, for its clients (tritonclient, KServe, curl). Extra "serve".

app = rnncore.serve.create_app({"tagger": model})   # an ASGI app of its own, or to mount in Starlette or FastAPI
rnncore serve tagger=tagger.safetensors             # the same as a command

service_errors.py  errors as answers: a status and a reason
tensors.py         names of dtypes, JSON data and raw bytes, to arrays and back, checked before anything is made
protocol.py        a request and its JSON and binary form
sequences.py       sequence_id, sequence_start and sequence_end to streams
service.py         models by name, each with its engines, for every transport
metrics.py         counts and histograms for Prometheus
middleware.py      what every HTTP request goes through: id, token, log, count
gzipped.py         compressed bodies, unpacked within bounds
watch.py           requests that take long: bodies that do not come, clients that do not stay
inference.py       a request for inference, from its body to the answer
application.py     the other routes, and the app
connection.py      one HTTP connection of the command's server: bounded heads, deadlines
listener.py        which connections are open, and which give way to new ones
server.py          the command's server: where it may listen, how it ends
grpc_service.py    the same service over gRPC

Decisions

- The service knows one request, `serve/protocol.py`'s InferRequest: HTTP and gRPC each turn theirs into it and the
  outputs into their answer. What a client says of a tensor is checked before anything of that size is made.
- A request over HTTP costs the service no task and no timer of its own: what takes long is looked at by one timer
  (`serve/watch.py`), and what asks a model goes past the table of routes (`serve/inference.py`).
- A short request that comes alone runs in the event loop's thread (`at_once`): another thread costs more to wake
  than a small model does to run. The last request like it took less than half a millisecond, nothing waits or runs,
  and one connection has been asking for a while, one by one; as soon as a second one does, batches form as before.
- The server accepts its connections itself (`serve/listener.py`): uvloop's own server neither says whose
  connections wait in a handshake nor closes one for another. Those that never had a request answered with a token
  give way to new ones, so a client with a token can always connect, and others cannot exhaust the limit.
- gRPC's connections are found from outside (`serve/grpc_connections.py`), among the process's own sockets: grpcio
  has limits and idle times, but closes no connection for another. A relay before it would know as little of tokens
  and copy every byte.
- Deadlines cost no timers: each connection notes until when its client must have sent something, and one look over
  all of them, four times a second, closes those that are late.
- An answer is written by one call, its head with its body (`serve/connection.py`): uvicorn makes two writes of it.
- A sequence's slot is freed by one owner, the event loop's thread, and named by a number that never comes back.
- gRPC's messages are made from a .proto at run time, in a pool of their own: no generated code, and nothing that
  collides with a client in the same process.
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
