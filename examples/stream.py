"""Streams: one step at a time with the state kept, and many streams stepped together.

python examples/stream.py
"""

import numpy as np

import rnncore
from rnncore import zoo

model = rnncore.load("zoo:sunspots")
years, numbers = zoo.sunspots_data()

stream = model.stream()
for year, number in zip(years[-5:], numbers[-5:], strict=True):
    forecast = stream.feed(np.array([[[number]]], np.float32))
    print(f"{year}: {number:5.1f}, next year {forecast[0, -1, 0]:5.1f}")

kept = stream.save()  # bytes, for a store of your own
again = model.stream()
again.load(kept)
assert np.array_equal(again.feed(numbers[None, :3, None]), stream.feed(numbers[None, :3, None]))

pool = model.pool(capacity=1000)  # one product for all streams that have something new
ids = [pool.open() for _ in range(3)]
for number in numbers[:50]:
    found = pool.step({one: np.array([[number * (1 + 0.1 * place)]], np.float32) for place, one in enumerate(ids)})
print("three streams:", ", ".join(f"{found[one][-1, 0]:.1f}" for one in ids))
