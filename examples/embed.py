"""Embed a model in a service: load once, call from any thread, let requests share batches.

python examples/embed.py
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

import rnncore

model = rnncore.load("zoo:names")  # immutable: one for the whole process, shared by its threads
letters, countries = model.vocabulary["tokens"], model.vocabulary["probabilities"]


def handle(name: str) -> str:
    """What a request handler does: a call of some microseconds, without the framework."""
    shares = model(np.array([letters.ids(name)]))[0]
    return f"{name}: {countries[int(shares.argmax())]} ({shares.max():.0%})"


with ThreadPoolExecutor(8) as threads:
    for answer in threads.map(handle, ["tanaka", "rossi", "wisniewska", "papadopoulos"]):
        print(answer)

# Under load, requests that arrive together are computed together; answers have the same bits as alone.
with rnncore.Engine(model) as engine:
    futures = [engine.submit(np.array([letters.ids(name)])) for name in ("yamamoto", "oyelowo", "yilmaz")]
    print("together:", ", ".join(countries[int(future.result().argmax())] for future in futures))
