"""from_torch: what sizes and lengths decide is followed, or refused with its line; nothing kills the process."""

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import TOOLS
from torch import nn
from torch.autograd import Variable
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

import rnncore
from rnncore.engine.batching import Batcher
from rnncore.errors import InputError, UnsupportedError
from rnncore.export import from_torch
from rnncore.export.torch.entrances import checked_states
from rnncore.graph.spec import Spec

SCALE = max(1, int(float(os.environ.get("RNNCORE_TEST_SCALE", "1"))))
SIZES = [(1, 7), (1, 2), (2, 9), (3, 3), (5, 8), (4, 12), (6, 5), (7, 7), (2, 30), (3, 21)]


def floats(*shape):
    return torch.from_numpy(np.random.default_rng(shape).standard_normal(shape).astype(np.float32))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.cell = nn.GRUCell(4, 4)
        self.linear = nn.Linear(4, 4)

    def steps(self, x, count):
        h, found = torch.zeros(x.size(0), 4), []
        for t in range(count):
            h = self.cell(x[:, t], h)
            found.append(h)
        return torch.stack(found, 1)


class TeacherForced(Net):
    def forward(self, x):
        return self.steps(x, x.size(1) - 1)


class Differences(Net):
    def forward(self, x):
        h, found = torch.zeros(x.size(0), 4), []
        for t in range(1, x.size(1)):
            h = self.cell(x[:, t] - x[:, t - 1], h)
            found.append(h)
        return torch.stack(found, 1)


class HalfTheSteps(Net):
    def forward(self, x):
        return self.steps(x, x.size(1) // 2)


class CountedByLen(Net):
    def forward(self, x):
        return self.steps(x, len(x[0]) - 1) / len(x[0])


class AtMostThree(Net):
    def forward(self, x):
        y = x[:, -3:]
        return y.sum(1) / y.size(1)


class Asserted(Net):
    def forward(self, x):
        assert x.size(1) <= 90_000_000
        if x.size(0) == 0:
            raise ValueError("no rows")
        return self.gru(x)[0]


class NoDifference(Net):
    def forward(self, x):
        if x.size(1) > 20:
            x = x * 1
        return self.gru(x)[0]


FOLLOWED = [TeacherForced, Differences, HalfTheSteps, CountedByLen, AtMostThree, Asserted, NoDifference]


@pytest.mark.parametrize("example", [(3, 7), (2, 8), (4, 4)])
@pytest.mark.parametrize("kind", FOLLOWED)
def test_sizes_that_differ_stay_apart(kind, example):
    module = kind().eval()
    model = rnncore.Model(*from_torch(module, floats(*example, 4)))
    for size in SIZES:
        x = floats(*size, 4)
        with torch.no_grad():
            np.testing.assert_allclose(model(x.numpy()), module(x).numpy(), rtol=0, atol=1e-5)


class BranchFarAway(Net):
    def forward(self, x):
        y = self.gru(x)[0]
        if y.shape[1] > 150:  # refused
            return y.mean(1)
        return y[:, -1]


class OneRow(Net):
    def forward(self, x):
        y = x * 2
        if x.size(0) == 1:  # refused
            y = y.squeeze(0)
        return y


class Parity(Net):
    def forward(self, x):
        return x if x.size(1) % 2 else -x  # refused


class CountedBranch(Net):
    def forward(self, x):
        if len(x[0]) > 33:  # refused
            return x[:, :33].sum(1)
        return x.sum(1)


class Escaped(Net):
    def forward(self, x):
        scale = max(int(x.size(1)), 5)  # refused
        return x * scale


class TooFarAway(Net):
    def forward(self, x):
        if x.size(1) > 900_000:  # refused
            x = x * 3
        return x * 2


class EqualSizes(Net):
    def forward(self, x):
        return x + 1 if x.size(0) == x.size(1) else x - 1  # refused


class Between(Net):
    def forward(self, x):
        y = x - 1
        return y * 2 if 3 < y.size(1) <= 11 else y * 3  # refused


class Exactly(Net):
    def forward(self, x):
        return x * 2 if x.size(1) == 10_000 else x * 3  # refused


class Squeezed(Net):
    def forward(self, x):
        return self.gru(x)[0][:, -1, :1].squeeze()  # refused


class NotSquare(Net):
    def forward(self, x):
        return x * 2 if x.size(1) * x.size(0) > 30 else x * 3  # refused


class InALoop(Net):
    def forward(self, x):
        h = x[:, 0]
        for t in range(x.size(1)):
            if x.size(1) - t > 20:  # refused
                h = h * 0.5
            h = h + x[:, t]
        return h


DECIDED = [Parity, CountedBranch, EqualSizes, NotSquare, InALoop]
BOUNDED = {  # the axis, and the sizes that are kept
    BranchFarAway: (1, 0, 150), OneRow: (0, 2, None), Escaped: (1, 5, None), TooFarAway: (1, 0, 900_000),
    Between: (1, 4, 11), Exactly: (1, 0, 9_999), Squeezed: (0, 2, None),
}  # fmt: skip


def line_of(kind):
    source, first = inspect.getsourcelines(kind)
    return f"{__file__}:{first + next(i for i, line in enumerate(source) if '# refused' in line)}: "


@pytest.mark.parametrize("kind", DECIDED)
def test_a_branch_on_a_size_is_refused_with_its_line(kind):
    with pytest.raises(UnsupportedError) as caught:
        from_torch(kind(), floats(3, 7, 4))
    assert str(caught.value).startswith(line_of(kind))


@pytest.mark.parametrize("kind", BOUNDED)
def test_a_branch_on_one_size_bounds_it(kind, tmp_path):
    module, (axis, least, most) = kind().eval(), BOUNDED[kind]
    exported = from_torch(module, floats(3, 7, 4))
    assert any(note.startswith(Path(line_of(kind)).name) and "the model refuses" in note for note in exported.notes)
    rnncore.save(tmp_path / "model.safetensors", exported)
    model = rnncore.load(tmp_path / "model.safetensors", check=True)
    assert Spec.from_json(json.dumps(exported.spec.to_json())) == exported.spec
    edges = [least, least - 1] if least else []
    edges += [most, most + 1] if most and most < 10_000 else []
    for size in (*edges, 2, 5, 8):
        shape = (size, 7, 4) if axis == 0 else (2, size, 4)
        if least <= size and (most is None or size <= most):
            x = floats(*shape)
            with torch.no_grad():
                np.testing.assert_allclose(model(x.numpy()), module(x).numpy(), rtol=1e-5, atol=1e-5)
        else:
            with pytest.raises(InputError, match=re.escape(f"size {size} of axis {axis}, expected")) as caught:
                model(floats(*shape).numpy())
            line = Path(line_of(kind)).name
            assert f"({line}" in str(caught.value)
    assert str(Path(__file__).parent) not in json.dumps([exported.spec.to_json(), exported.notes])  # for other machines


def test_what_is_bounded_is_neither_padded_nor_cut():
    exported = from_torch(BranchFarAway().eval(), floats(3, 7, 4))
    model = rnncore.Model(*exported)
    assert "lengths" not in [entry.name for entry in model.inputs]
    with pytest.raises(UnsupportedError, match=r"x_bounded.*whole"):
        model.stream(2)
    assert Batcher(model).time is None
    rows = rnncore.Model(*from_torch(Squeezed().eval(), floats(3, 7, 4)))
    assert not Batcher(rows).mergeable


def test_a_size_that_stays_lets_a_branch_be():
    module = OneRow().eval()
    exported = from_torch(module, floats(3, 7, 4), sizes={"x": (None, "T", None)})
    assert exported.spec.inputs[0].shape == (3, "T", 4)
    with pytest.raises(InputError):
        rnncore.Model(*exported)(floats(1, 7, 4).numpy())


def test_what_torch_refuses_is_noted():
    (note,) = from_torch(Asserted(), floats(3, 7, 4)).notes
    assert note.startswith(f"{Path(__file__).name}:") and "torch refuses other sizes here" in note


class Packed(Net):
    def forward(self, x, n_frames):
        packed = pack_padded_sequence(x, n_frames, batch_first=True, enforce_sorted=False)
        y = pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0]
        return y.sum(1) / y.size(1)


class Masked(Net):
    def forward(self, x, valid):
        mask = (torch.arange(x.size(1))[None] < valid[:, None]).unsqueeze(2)
        return (self.gru(x)[0] * mask).sum(1) / valid.unsqueeze(1)


class Indexed(Net):
    def forward(self, x, t_in):
        return self.gru(x)[0][torch.arange(x.size(0)), t_in - 1]


@pytest.mark.parametrize("lengths", [[5, 3], [4, 3], [5, 5]])
@pytest.mark.parametrize("kind", [Packed, Masked, Indexed])
def test_lengths_by_any_name(kind, lengths):
    module = kind().eval()
    exported = from_torch(module, (floats(2, 5, 4), torch.tensor(lengths)))
    model = rnncore.Model(*exported)
    names = [entry.name for entry in exported.spec.inputs]
    for (rows, steps), short in zip(SIZES, [0, 1, 2, 0, 3, 1, 0, 2, 4, 0], strict=True):
        longest = max(1, steps - short)
        given = [floats(rows, steps, 4), torch.tensor([longest, *(1 + i % longest for i in range(rows - 1))])]
        with torch.no_grad():
            expected = module(*given).numpy()
        (found,) = model.run(dict(zip(names, (one.numpy() for one in given), strict=True))).values()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_lengths_for_the_argument_that_is_left_out():
    exported = from_torch(Packed(), floats(2, 5, 4), lengths=[5, 3])
    assert [entry.name for entry in exported.spec.inputs] == ["x", "n_frames"]


class TwoSequences(nn.Module):
    def forward(self, x, y):
        return x.sum(1) + y.sum(1) / y.size(1)


class SameSteps(nn.Module):
    def forward(self, x, y):
        return x * y


@pytest.mark.parametrize("rows", [1, 3])
def test_sizes_that_agree_in_the_example_alone(rows):
    model = rnncore.Model(*from_torch(TwoSequences(), (floats(rows, 5, 4), floats(rows, 5, 4) + 1)))
    assert model.inputs[0].shape[1] != model.inputs[1].shape[1]
    x, y = floats(2, 9, 4), floats(2, 3, 4)
    (found,) = model.run({"x": x.numpy(), "y": y.numpy()}).values()
    np.testing.assert_allclose(found, TwoSequences()(x, y).numpy(), rtol=0, atol=1e-5)
    together = from_torch(SameSteps(), (floats(rows, 5, 4), floats(rows, 5, 4) + 1)).spec.inputs
    assert together[0].shape == together[1].shape


# --- what reaches compiled code --------------------------------------------------------------------------------------


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        ctx.factor = 2
        return x * ctx.factor


class Tripled(torch.autograd.Function):
    @staticmethod
    def forward(x, factor=3):
        return x * factor

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])


@torch.jit.script
def scripted(x: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
    return torch.tanh(x) * scale


class Own(torch.Tensor):
    pass


TRACED = {
    "Variable": lambda net, x: net.gru(x, torch.autograd.Variable(torch.zeros(1, x.size(0), 4)))[0],
    "Variable by name": lambda net, x: net.gru(Variable(x), Variable(torch.zeros(1, x.size(0), 4)).to(x.device))[0],
    "Function": lambda net, x: net.gru(Doubled.apply(x))[0],
    "Function with setup_context": lambda net, x: net.gru(Tripled.apply(x))[0],
    "scripted": lambda net, x: net.gru(scripted(x))[0],
    "checkpoint, reentrant": lambda net, x: net.gru(checkpoint(net.linear, x, use_reentrant=True))[0],
    "checkpoint": lambda net, x: net.gru(checkpoint(net.linear, x, use_reentrant=False))[0],
    "isinstance": lambda net, x: (
        net.gru(x)[0] if isinstance(x, torch.Tensor) and torch.is_tensor(x) and isinstance(x.size(0), int) else None
    ),
    "torch.ops": lambda net, x: net.gru(torch.ops.aten.relu(x))[0],
}
REFUSED = {
    "torch.Tensor": lambda net, x: torch.Tensor(x),
    "vmap": lambda net, x: torch.func.vmap(net.linear)(x),
    "grad": lambda net, x: torch.func.grad(lambda v: v.sum())(x),
    "jvp": lambda net, x: torch.func.jvp(lambda v: v * 2, (x,), (x,))[0],
    "nested_tensor": lambda net, x: torch.nested.nested_tensor([x[0], x[1]]).to_padded_tensor(0.0),
    "_make_subclass": lambda net, x: torch.Tensor._make_subclass(Own, x) * 2,
    "as_subclass": lambda net, x: x.as_subclass(Own) * 2,
    "storage": lambda net, x: torch.tensor(x.untyped_storage()),
    "dlpack": lambda net, x: torch.from_dlpack(x),
    "numpy": lambda net, x: np.asarray(x) * 2,
}


class Runs(Net):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(self, x)


@pytest.mark.parametrize("name", TRACED)
def test_calls_into_compiled_code_are_recorded(name):
    module = Runs(TRACED[name]).eval()
    before = isinstance, torch.autograd.Function.__dict__["apply"], torch.jit.ScriptFunction.__call__
    model = rnncore.Model(*from_torch(module, floats(3, 7, 4)))
    assert (isinstance, torch.autograd.Function.__dict__["apply"], torch.jit.ScriptFunction.__call__) == before
    x = floats(2, 5, 4)
    with torch.no_grad():
        np.testing.assert_allclose(model(x.numpy()), module(x).numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", REFUSED)
def test_calls_into_compiled_code_are_refused_with_the_line(name):
    line = REFUSED[name].__code__.co_firstlineno
    with pytest.raises(UnsupportedError) as caught:
        from_torch(Runs(REFUSED[name]), floats(3, 7, 4))
    assert str(caught.value).startswith(f"{__file__}:{line}: ")
    assert "\n" not in str(caught.value)
    assert name != "torch.Tensor" or str(caught.value).endswith("expected the tensor itself, or torch.as_tensor of it")


def test_scripted_and_compiled_modules():
    compiled = nn.Sequential(nn.Linear(4, 4), torch.compile(nn.Linear(4, 4)))
    for module in (compiled, torch.compile(TeacherForced())):
        exported = from_torch(module, floats(3, 7, 4))
        assert not any("_orig_mod" in name for name in exported.weights)
    assert hasattr(compiled[1], "_orig_mod")
    with pytest.raises(UnsupportedError, match=r"module '1' \(ScriptModule\): has no Python that can be traced"):
        from_torch(nn.Sequential(nn.Linear(4, 4), torch.jit.script(nn.Linear(4, 4))), floats(2, 4))
    program = torch.export.export(nn.Linear(4, 4), (floats(2, 4),))
    with pytest.raises(UnsupportedError, match="an ExportedProgram"):
        from_torch(program, floats(2, 4))


def test_code_without_a_file():
    space = {"nn": nn, "torch": torch, "Net": Net}
    for file in ("<stdin>", "<string>", "<ipython-input-3-1f2e>"):
        exec(compile(inspect.getsource(TeacherForced), file, "exec"), space)
        module = space["TeacherForced"]().eval()
        assert from_torch(module, floats(3, 7, 4)).spec.recurrent
        exec(compile(inspect.getsource(Parity), file, "exec"), space)
        with pytest.raises(UnsupportedError, match=f"^{file}:3: a branch"):
            from_torch(space["Parity"](), floats(3, 7, 4))


def test_drawn_modules_are_refused_or_equal():
    script = TOOLS / "export_draws.py"
    done = subprocess.run(
        [sys.executable, str(script), "--count", str(200 * SCALE)], capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(item.rsplit(" ", 1) for item in done.stdout.strip().splitlines()[-1].split(", "))
    assert int(counts["ok"]) > 50 * SCALE
    assert counts["wrong"] == counts["crash"] == "0"


class Attended(nn.Module):
    """The width that scores are divided by is free, and so is the dtype's own name."""

    def forward(self, x):
        return torch.nn.functional.scaled_dot_product_attention(x, x, x) + x.type(torch.int32)


class SummedSteps(nn.Module):
    def forward(self, x):
        return torch.stack([one.sum() for one in x])  # refused


class Chunked(nn.Module):
    def forward(self, x):
        return x.chunk(2, 2)


def test_what_a_soak_found():
    model = rnncore.Model(*from_torch(Attended(), floats(3, 7, 4)))
    x = floats(2, 5, 9)
    np.testing.assert_allclose(model(x.numpy()), Attended()(x).numpy(), rtol=0, atol=1e-5)
    with pytest.raises(UnsupportedError, match="is one number for each step") as caught:
        from_torch(SummedSteps(), floats(3, 7, 4))
    assert str(caught.value).startswith(line_of(SummedSteps))
    with pytest.raises(UnsupportedError, match="another number of tensors in its result with"):
        from_torch(Chunked(), floats(3, 7, 4))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_states_of_packed_sequences_are_looked_at(kind):
    """torch reads states of packed sequences without a look at how many there are, which may end the process."""

    class Stated(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = kind(4, 3)

        def forward(self, x, lengths, *states):
            packed = pack_padded_sequence(x, lengths)
            y, after = self.rnn(packed, tuple(states) if len(states) > 1 else states[0])
            return pad_packed_sequence(y)[0], after

    states = [floats(1, 3, 3)] * (2 if kind is nn.LSTM else 1)
    example = (floats(5, 3, 4), torch.tensor([5, 4, 2]), *(one.clone() for one in states))
    exported = from_torch(Stated(), example)
    assert exported.spec.inputs[-1].shape == (1, "B", 3)
    assert torch.nn.modules.rnn._VF is torch._VF
    with checked_states(), pytest.raises(RuntimeError, match=r"(state of shape|got).*6, 3, 3"):
        Stated()(*example[:2], *(one.repeat(6, 1, 1) for one in states))
