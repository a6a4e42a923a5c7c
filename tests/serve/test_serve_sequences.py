"""Slots of sequences: taken once, freed once, whoever cancels, fails, begins again or stays away."""

import asyncio
import random
import time

import numpy as np
import pytest
from served import FEATURES, tagger
from stream_models import equal

from rnncore.errors import DeadlineError, EngineClosedError, InputError
from rnncore.serve import Limits
from rnncore.serve.protocol import InferRequest, SequenceStep
from rnncore.serve.sequences import Sequences
from rnncore.serve.service_errors import ServiceError

MODEL = tagger()
STEPS = 12
X = np.random.default_rng(0).standard_normal((40, STEPS, FEATURES)).astype(np.float32)
Y = MODEL(X)


def piece(id, row, begin, end, *, last=STEPS):
    inputs = {"x": X[row : row + 1, begin:end]}
    return InferRequest(inputs=inputs, sequence=SequenceStep(id, begin == 0, end == last))


async def settled(sequences):
    """Once closings are done: every slot that is held belongs to an open sequence."""

    def slots():
        return sequences._held, len(sequences.engine), len(sequences.engine._runner.pool)

    end = time.monotonic() + 60
    while set(slots()) != {len(sequences)} and time.monotonic() < end:
        await asyncio.sleep(0.01)
    assert slots() == (len(sequences),) * 3


class Client:
    """Feeds sequences of one owner in turn, and misbehaves in every way it can."""

    def __init__(self, sequences, number, tally):
        self.sequences, self.owner, self.tally = sequences, f"owner {number % 5}", tally
        self.random = random.Random(number)
        self.ids = [f"{number} {place}" for place in range(4)]

    async def run(self, turns):
        for _ in range(turns):
            await self.one(self.random.choice(self.ids))

    async def one(self, id):
        row, at = self.random.randrange(len(X)), 0
        while at < STEPS:
            end = min(STEPS, at + self.random.randint(1, 5))
            what = self.random.random()
            if what < 0.1:
                return  # stays away; the id may be begun again
            timeout = 1e-6 if what < 0.2 else 10.0
            asked = asyncio.ensure_future(self.sequences.infer(piece(id, row, at, end), self.owner, timeout))
            if what > 0.85:
                await asyncio.sleep(self.random.random() * 0.002)
                asked.cancel()
            try:
                found = await asked
            except asyncio.CancelledError:
                self.tally["cancelled"] += 1
                return  # whether it was fed is not known
            except DeadlineError:
                self.tally["late"] += 1
                if at == 0 or end == STEPS:
                    return
                continue  # it was not fed
            except ServiceError as refusal:
                self.tally[refusal.status] += 1
                return
            assert equal(found["tags"], Y[row : row + 1, at:end])
            self.tally["right"] += 1
            at = end


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_freed_twice_or_kept(seed):
    tally = dict.fromkeys(("right", "cancelled", "late", 400, 503), 0)

    async def work():
        sequences = Sequences("tagger", MODEL, Limits(max_sequences=30, sequence_idle=0.02))
        await asyncio.gather(*(Client(sequences, 100 * seed + number, tally).run(25) for number in range(20)))
        await settled(sequences)
        end = time.monotonic() + 60
        while len(sequences) and time.monotonic() < end:  # idle ones end
            await asyncio.sleep(0.01)
        assert len(sequences) == 0
        await settled(sequences)
        sequences._limits = Limits(max_sequences=30)  # none of these is idle, however slow this machine is
        for id in range(30):  # every slot is free, and holds zeros
            found = await sequences.infer(piece(id, id, 0, 3), "last", 10.0)
            assert equal(found["tags"], Y[id : id + 1, :3])
        with pytest.raises(ServiceError, match="30 sequences are open"):
            await sequences.infer(piece("more", 0, 0, 3), "last", 10.0)
        await asyncio.to_thread(sequences.shutdown)
        with pytest.raises(EngineClosedError):
            await sequences.infer(piece(1, 1, 3, 4), "last", 10.0)

    asyncio.run(work())
    assert tally["right"] > 300 and tally["cancelled"] > 10 and tally["late"] > 10, tally


def test_pieces_sent_without_waiting_are_fed_in_order():
    async def work():
        sequences = Sequences("tagger", MODEL, Limits())
        asked = [sequences.infer(piece(row, row, t, t + 1), "one", 10.0) for t in range(STEPS) for row in range(len(X))]
        found = await asyncio.gather(*asked)
        for place, answer in enumerate(found):
            t, row = divmod(place, len(X))
            assert equal(answer["tags"], Y[row : row + 1, t : t + 1])
        await settled(sequences)
        assert len(sequences) == 0
        sequences.shutdown()

    asyncio.run(work())


def test_a_start_ends_what_was_open():
    async def work():
        sequences = Sequences("tagger", MODEL, Limits(max_sequences=1))
        await sequences.infer(piece("a", 0, 0, 5), "one", 10.0)
        found = await sequences.infer(piece("a", 1, 0, 5), "one", 10.0)
        assert equal(found["tags"], Y[1:2, :5])
        with pytest.raises(ServiceError, match="1 sequences are open"):
            await sequences.infer(piece("a", 1, 0, 5), "another", 10.0)
        with pytest.raises(InputError, match="expected"):
            wrong = InferRequest(inputs={"x": X[:2, 5:6]}, sequence=SequenceStep("a", False, False))
            await sequences.infer(wrong, "one", 10.0)
        found = await sequences.infer(piece("a", 1, 5, STEPS), "one", 10.0)
        assert equal(found["tags"], Y[1:2, 5:])
        await settled(sequences)
        sequences.shutdown()

    asyncio.run(work())
