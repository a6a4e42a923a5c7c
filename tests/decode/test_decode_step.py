"""generate for a decoder step of PyTorch that over_time loops, against PyTorch's own greedy loop."""

import functools

import numpy as np
import pytest
import torch
from stream_models import equal
from torch import nn

import rnncore
from rnncore import InputError, Model
from rnncore.decode import PrefixCache

LENGTH = 9
KINDS = ("lstm", "gru", "two layers", "attention", "rows of one token")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """PyTorch's threads cost more than they save in products of this size."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Decoder(nn.Module):
    """A step: a token and the states after the step before -> scores and states, each an argument and a result."""

    def __init__(self, kind, words, embedded, hidden):
        super().__init__()
        self.kind, read = kind, hidden if kind == "attention" else 0
        self.embed = nn.Embedding(words, embedded)
        self.cell = (nn.GRUCell if kind == "gru" else nn.LSTMCell)(embedded + read, hidden)
        self.upper = nn.LSTMCell(hidden, hidden)
        self.out = nn.Linear(hidden + read, words)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.7)

    def forward(self, token, h, c, h2, c2, memory):
        x = self.embed(token.squeeze(1) if self.kind == "rows of one token" else token)
        if self.kind == "gru":
            h = self.cell(x, h)
            return self.out(h), h
        if self.kind == "attention":
            weights = torch.softmax(torch.bmm(memory, h.unsqueeze(2)).squeeze(2), dim=1)
            read = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
            h, c = self.cell(torch.cat((x, read), dim=1), (h, c))
            return self.out(torch.cat((h, read), dim=1)), h, c
        h, c = self.cell(x, (h, c))
        if self.kind != "two layers":
            return self.out(h), h, c
        h2, c2 = self.upper(h, (h2, c2))
        return self.out(h2), h, c, h2, c2


@functools.cache
def drawn(kind, seed):
    """A module in float64, its model of one step, and the names of its states with the outputs they are fed from."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    words, embedded, hidden = (int(n) for n in rng.integers(3, 13, 3))
    module = Decoder(kind, words, embedded, hidden).double().eval()
    token = torch.zeros((2, 1) if kind == "rows of one token" else 2, dtype=torch.int64)
    examples = (token, *(torch.zeros(2, hidden).double() for _ in range(4)), torch.zeros(2, 5, hidden).double())
    exported = rnncore.export.from_torch(module, examples)
    model = Model(exported.spec, exported.weights, "float64")
    states = [name for name in ("h", "c", "h2", "c2") if state_input(model, name)]
    return module, model, {state_input(model, n): o for n, o in zip(states, model.spec.outputs[1:], strict=True)}


def state_input(model, name):
    """The model's input for an argument: of the same name, or "NAME_in" where a node has that; None if unused."""
    names = [entry.name for entry in model.inputs]
    return next((found for found in (name, f"{name}_in") if found in names), None)


@torch.inference_mode()
def greedy(module, firsts, given):
    """Tokens (n, LENGTH) and the log-probability of each."""
    token, tokens, log_probs = torch.tensor(firsts), [], []
    states, rows = [torch.tensor(given[name]) for name in ("h", "c", "h2", "c2")], torch.arange(len(firsts))
    for _ in range(LENGTH):
        shaped = token[:, None] if module.kind == "rows of one token" else token
        scores, *after = module(shaped, *states, torch.tensor(given["memory"]))
        states[: len(after)] = after
        token = scores.argmax(dim=1)
        tokens.append(token)
        log_probs.append(torch.log_softmax(scores, dim=1)[rows, token])
    return torch.stack(tokens, 1).numpy(), torch.stack(log_probs, 1).numpy()


def looped(model, carry, starts):
    chunk = 1 if model.inputs[0].shape[1:] == (1,) else None
    return model.over_time(carry, starts=starts, steps=["token"], chunk=chunk)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_a_step_of_torch_generates_as_its_loop(kind, seed):
    """From the given states, or zeros where a state is no input; each row is the same alone."""
    module, model, carry = drawn(kind, seed)
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    for count in (1, int(rng.integers(2, 6))):
        starts = [name for name in carry if rng.random() < 0.7]
        hidden = module.out.in_features // (2 if kind == "attention" else 1)
        given = {name: np.zeros((count, hidden)) for name in ("h", "c", "h2", "c2")}
        given |= {name.removesuffix("_in"): rng.standard_normal((count, hidden)) for name in starts}
        given["memory"] = rng.standard_normal((count, int(rng.integers(1, 7)), hidden))
        firsts = rng.integers(0, module.out.out_features, count)
        tokens, log_probs = greedy(module, firsts, given)
        loop = looped(model, carry, starts)
        assert {entry.name for entry in loop.inputs} - {"memory"} == {"token", *starts}
        inputs = {e.name: given[e.name.removesuffix("_in")] for e in loop.inputs if e.name != "token"}
        results = loop.generate(firsts[:, None], LENGTH, inputs=inputs)
        np.testing.assert_array_equal([result.tokens for result in results], tokens)
        np.testing.assert_allclose([result.log_probs for result in results], log_probs, rtol=0, atol=1e-9)
        alone = loop.generate(firsts[:1, None], LENGTH, inputs={name: array[:1] for name, array in inputs.items()})
        np.testing.assert_allclose(alone[0].log_probs, log_probs[0], rtol=0, atol=1e-9)
        cached = loop.generate(firsts[:, None], LENGTH, inputs=inputs, cache=PrefixCache(loop))
        assert all(equal(a.tokens, b.tokens) for a, b in zip(cached, results, strict=True))


def test_the_start_decides_and_is_required():
    _, model, carry = drawn("lstm", 0)
    loop = model.over_time(carry, starts=list(carry))
    shape = (2, model.inputs[1].shape[1])
    zeros = {name: np.zeros(shape) for name in carry}
    one, other = (loop.generate([[0], [0]], 4, inputs=given) for given in (zeros, {**zeros, "h": zeros["h"] + 3}))
    assert not np.allclose(one[0].log_probs, other[0].log_probs)
    alike = model.over_time(carry).generate([[0], [0]], 4)
    assert equal(alike[0].log_probs, one[0].log_probs)
    with pytest.raises(InputError, match="input 'h'"):
        loop.generate([[0]], 4)


def test_beams_keep_the_states_of_their_prompt():
    """The best of as many beams as there are texts is the best text."""
    module, model, carry = drawn("attention", 1)
    loop = model.over_time(carry, starts=list(carry), steps=["token"])
    words, hidden = module.out.out_features, module.out.in_features // 2
    rng = np.random.default_rng(2)
    inputs = {name: rng.standard_normal((3, hidden)) for name in carry}
    inputs["memory"] = rng.standard_normal((3, 4, hidden))
    best = loop.generate([[0], [1], [2]], 2, inputs=inputs, beams=words)
    for row, result in enumerate(best):
        one = {name: np.repeat(array[row : row + 1], words, axis=0) for name, array in inputs.items()}
        fed = np.stack([np.full(words, row), np.arange(words)], axis=1)
        scores = torch.log_softmax(torch.tensor(loop.run({"token": fed, **one})["out"]), dim=2).numpy()
        sums = scores[0, 0][:, None] + scores[:, 1]
        assert tuple(result.tokens) == np.unravel_index(sums.argmax(), sums.shape)


@pytest.mark.parametrize("kind", ["lstm", "rows of one token"])
@pytest.mark.parametrize("named", [False, True])
def test_a_step_without_its_loop_names_over_time(kind, named):
    _, model, carry = drawn(kind, 0)
    given = {name: np.zeros((1, model.inputs[1].shape[1])) for name in carry}
    with pytest.raises(InputError, match=r"'token' may be one step's tokens: over_time\(.*starts="):
        model.generate([[0]], 3, inputs=given, tokens="token" if named else None)
