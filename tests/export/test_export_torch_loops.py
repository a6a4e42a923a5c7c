"""from_torch on loops over a size, however they are written: equal to torch at drawn sizes, or refused by the line."""

import random
from random import random as drawn

import numpy as np
import pytest
import torch
from export_agreement import agrees
from torch import nn
from torch_modules import floats

import rnncore
from rnncore.errors import UnsupportedError
from rnncore.export import from_torch
from rnncore.graph.nodes import Control

W = 4


class Net(nn.Module):
    """Runs a function of itself and the input."""

    def __init__(self, body):
        super().__init__()
        torch.manual_seed(0)
        self.body = body
        self.gru, self.cell, self.lstm_cell = nn.GRU(W, W, batch_first=True), nn.GRUCell(W, W), nn.LSTMCell(W, W)
        self.cells = nn.ModuleList(nn.GRUCell(W, W) for _ in range(2))
        self.linear, self.weight = nn.Linear(W, W), nn.Parameter(floats(W, W) * 0.3)

    def forward(self, x):
        return self.body(self, x)


def example(rows, steps):
    return (floats(rows, steps, W),)


def zeros(x):
    return torch.zeros(x.size(0), W)


def over(self, steps):
    """The cell's outputs over items (B, W)."""
    h, out = None, []
    for step in steps:
        h = self.cell(step, h)
        out.append(h)
    return torch.stack(out, 1)


def chunks_with_their_number(self, x):
    h, c, outputs = zeros(x), zeros(x), []
    for i, part in enumerate(x.chunk(x.size(1), dim=1)):
        h, c = self.lstm_cell(part[:, 0], (h, c))
        outputs += [self.linear(h) * (i + 1)]
    return torch.stack(outputs, 1).squeeze(2)


def split_into_a_stack(self, x):
    h, out = None, []
    for part in torch.split(x, 1, 1):
        y, h = self.gru(part, h)
        out.append(y)
    return torch.cat(out, 1), h


def float_tensor(self, x):
    out, h = torch.FloatTensor(x.size(1), x.size(0), W), zeros(x)
    for t in range(x.size(1)):
        h = self.cell(x[:, t], h)
        out[t] = h
    return out


def empty_with_a_view(self, x):
    out, h = torch.empty(x.size(0), x.size(1), W), zeros(x)
    for t in range(x.size(1)):
        h = self.cell(x[:, t], h)
        out[:, t, :] = self.linear(h)
    return out


def from_the_second_on(self, x):
    out, h = torch.zeros(x.size(1), x.size(0), W), x[:, 0]
    for t in range(1, x.size(1)):
        h = self.cell(x[:, t], h)
        out[t] = self.linear(h)
    return out


def backwards_into_zeros(self, x):
    out, h = x.new_zeros(x.size(0), x.size(1) + 1, W), zeros(x)
    for t in range(x.size(1) - 1, -1, -1):
        h = self.cell(x[:, t], h)
        out[:, t] = h
    return out


def attention_into_zeros(self, x):
    memory, h = self.gru(x)
    h, out, fed = h[0], torch.zeros(x.size(1), x.size(0), W), x[:, 0]
    for t in range(1, x.size(1)):
        weights = torch.softmax((memory * h.unsqueeze(1)).sum(-1), 1)
        h = self.cell(fed + torch.bmm(weights.unsqueeze(1), memory).squeeze(1), h)
        out[t] = self.linear(h)
        fed = x[:, t]
    return out


def fed_by_its_output(self, x):
    h, fed, out = x[:, 0], x[:, 0], torch.zeros(x.size(0), x.size(1), W)
    c = torch.zeros_like(h)
    for t in range(x.size(1)):
        h, c = self.lstm_cell(fed, (h, c))
        fed = self.linear(h)
        out[:, t] = fed
    return out


def reads_what_it_stored(self, x):
    out = torch.zeros(x.size(0), x.size(1) + 1, W)
    for t in range(x.size(1)):
        out[:, t + 1] = torch.tanh(out[:, t] @ self.weight + x[:, t])
    return out[:, 1:]


def in_place_on_the_input(self, x):
    x[:, 0] = 0
    x *= 2
    for t in range(1, x.size(1)):
        x[:, t] = x[:, t] + 0.5 * x[:, t - 1]
    return x


def two_loops_and_a_sum(self, x):
    h, out = zeros(x), []
    for t in range(x.size(1)):
        h = self.cell(x[:, t], h)
        out.append(h)
    return sum(out) / len(out), torch.cat([one.unsqueeze(1) for one in out], 1)


def numbers_to_start_from(self, x):
    h, total, most = zeros(x), 0, 1.0
    for t, step in enumerate(x.transpose(0, 1)):
        h = self.cell(step, h)
        total = total + h * (t + 1)
        most = most * torch.sigmoid(h)
    return total, most


def while_loop(self, x):
    h, t = zeros(x), 0
    while t < x.size(1):
        h = self.cell(x[:, t], h)
        t += 1
    return h


def with_the_state_before(self, x):
    states = [zeros(x)]
    for t in range(x.size(1)):
        states.append(self.cell(x[:, t], states[-1]))
    return torch.stack(states, 1), torch.stack(states[1:], 1), torch.stack(states[:-1])


def first_last_and_middle(self, x):
    h, out = zeros(x), []
    for t in range(x.size(1)):
        h = self.cell(x[:, t], h)
        out.append(h)
    return out[0], out[-1], torch.stack(out[::-1], 1)


def another_first_step(self, x):
    h, out = None, []
    for t in range(x.size(1)):
        h = self.linear(x[:, t]) if t == 0 else torch.tanh(self.linear(x[:, t]) + h @ self.weight)
        out.append(h)
    return torch.stack(out, 1)


def another_last_step(self, x):
    h, out = zeros(x), []
    for t in range(x.size(1)):
        h = self.cell(x[:, t], h)
        out.append(h)
        if t < x.size(1) - 1:
            h = h * 0.5 + x[:, t + 1]
    return torch.stack(out, 1)


def every_second(self, x):
    return over(self, [x[:, t] for t in range(0, x.size(1), 2)])


def layers_by_a_function(self, x):
    for _ in range(2):
        h, out = zeros(x), []
        for step in x.unbind(1):
            h = torch.tanh(step @ self.weight + h)
            out.append(h)
        x = torch.stack(out, 1)
    return over(self, x.unbind(1))


def lists_through_layers(self, x):
    steps = list(x.unbind(1))
    for cell in self.cells:
        h, out = zeros(x), []
        for step in steps:
            h = cell(step, h)
            out.append(h + step)
        steps = out
    return torch.stack(steps, 1)


def same_cell_twice(self, x):
    h = c = zeros(x)
    for t in range(x.size(1)):
        h, c = self.lstm_cell(x[:, t], (h, c))
    out = []
    for t in range(x.size(1) - 1):
        h, c = self.lstm_cell(x[:, t], (h, c))
        out.append(h)
    return torch.stack(out, 1)


def rows(self, x):
    return torch.stack([self.gru(x[i : i + 1])[0][0] for i in range(x.size(0))])


LOOPS = [
    chunks_with_their_number, split_into_a_stack, float_tensor, empty_with_a_view, from_the_second_on,
    backwards_into_zeros, attention_into_zeros, fed_by_its_output, reads_what_it_stored, in_place_on_the_input,
    two_loops_and_a_sum, numbers_to_start_from, while_loop, with_the_state_before, first_last_and_middle,
    another_first_step, another_last_step, every_second, layers_by_a_function, lists_through_layers, same_cell_twice,
    rows,
]  # fmt: skip


@pytest.mark.parametrize("body", LOOPS)
def test_loops(body):
    agrees(Net(body), example, body.__name__)


def test_loops_of_cells_stay_recurrent():
    for body in (from_the_second_on, split_into_a_stack, same_cell_twice, every_second):
        spec = from_torch(Net(body), example(2, 5)).spec
        assert spec.recurrent, body
        assert not any(isinstance(node, Control) for node in spec.nodes), body


# --- what is refused, with the line ----------------------------------------------------------------------------------


def steps_stay_a_list(self, x):
    return [self.linear(step) for step in x.unbind(1)]


def earlier_than_the_last(self, x):
    hs = [zeros(x), zeros(x)]
    for t in range(x.size(1)):
        hs.append(torch.tanh(hs[-2] + x[:, t]))
    return hs[-1]


def steps_of_steps(self, x):
    h = zeros(x)
    for t in range(x.size(1)):
        for u in range(t):
            h = self.cell(x[:, u], h)
    return h


def sizes_as_a_tensor(self, x):
    return torch.Tensor(x.size(0), x.size(1), W) * 0 + x


REFUSED = {
    steps_stay_a_list: (1, "a list with one tensor for each step is returned, expected torch.stack"),
    earlier_than_the_last: (3, "reads a result of another step than its own or the one before"),
    steps_of_steps: (4, "a loop over a size"),
    sizes_as_a_tensor: (1, "expected torch.zeros"),
}


@pytest.mark.parametrize("body", REFUSED)
def test_loops_that_are_refused(body):
    offset, says = REFUSED[body]
    with pytest.raises(UnsupportedError) as caught:
        from_torch(Net(body), example(3, 5))
    assert str(caught.value).startswith(f"{__file__}:{body.__code__.co_firstlineno + offset}: ")
    assert says in str(caught.value)


# --- teacher forcing -------------------------------------------------------------------------------------------------


class Forced(nn.Module):
    def __init__(self, forces):
        super().__init__()
        self.cell, self.linear, self.forces = nn.GRUCell(W, W), nn.Linear(W, W), forces

    def forward(self, x, ratio=0.5):
        h, fed, out = torch.zeros(x.size(0), W), x[:, 0], []
        for t in range(1, x.size(1)):
            h = self.cell(fed, h)
            out.append(self.linear(h))
            fed = x[:, t] if self.forces(ratio) else out[-1]
        return torch.stack(out, 1)


DRAWS = {
    "rand.item": lambda ratio: torch.rand(1).item() < ratio,
    "rand": lambda ratio: torch.rand(1) < ratio,
    "random": lambda ratio: random.random() < ratio,
    "random under another name": lambda ratio: drawn() < ratio,
    "numpy": lambda ratio: np.random.rand() < ratio,
    "the other way": lambda ratio: not ratio <= random.random(),
}


@pytest.mark.parametrize("name", DRAWS)
def test_teacher_forcing(name):
    before = random.random, np.random.rand, drawn, torch.FloatTensor
    for ratio in (0, 1.0):
        agrees(Forced(DRAWS[name]), lambda rows, steps, ratio=ratio: (floats(rows, steps + 1, W), ratio), name)
    with pytest.raises(UnsupportedError, match=r"which is random, .*a teacher forcing ratio of 0") as caught:
        from_torch(Forced(DRAWS[name]), (floats(2, 5, W), 0.5))
    assert f"{__file__}:{DRAWS[name].__code__.co_firstlineno}: " in str(caught.value)
    assert before == (random.random, np.random.rand, drawn, torch.FloatTensor)


@pytest.mark.parametrize(
    "draw", [lambda: random.choice([0, 1]), lambda: np.random.randint(3), lambda: random.random() * 2]
)
def test_other_draws_are_refused(draw):
    with pytest.raises(UnsupportedError, match="which is random"):
        from_torch(Net(lambda self, x: self.gru(x * draw())[0]), example(2, 4))


# --- code without a file ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["<stdin>", "<string>", "<ipython-input-3-1f2e>"])
def test_loops_of_code_without_a_file(file):
    import inspect

    space = {"torch": torch, "zeros": zeros, "W": W}
    exec(compile(inspect.getsource(from_the_second_on), file, "exec"), space)
    agrees(Net(space["from_the_second_on"]), example, file)


def test_the_last_of_no_steps_is_refused_or_what_was_before():
    model = rnncore.Model(*from_torch(Net(from_the_second_on), example(2, 5)))
    (found,) = model.run({"x": floats(2, 1, W).numpy()}).values()
    np.testing.assert_array_equal(found, np.zeros((1, 2, W)))


def stepwise(turned):
    """A loop of cells whose outputs get an axis of size 1 and lose it again, as ``turned`` spells it."""

    def body(self, x):
        h, out = zeros(x), []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            out.append(turned(h))
        return torch.cat(out, 1)

    return body


@pytest.mark.parametrize(
    "spelled",
    [
        lambda h: h.unsqueeze(dim=1).squeeze(1).unsqueeze(1),
        lambda h: h.unsqueeze(1).squeeze(dim=1).unsqueeze(1),
        lambda h: torch.unsqueeze(torch.squeeze(torch.unsqueeze(h, dim=1), dim=1), dim=1),
    ],
)
def test_a_dimension_by_its_name_is_that_by_its_place(spelled):
    plain = from_torch(Net(stepwise(lambda h: h.unsqueeze(1).squeeze(1).unsqueeze(1))).eval(), *example(2, 5))
    named = from_torch(Net(stepwise(spelled)).eval(), *example(2, 5))
    assert [node.op for node in named.spec.nodes] == [node.op for node in plain.spec.nodes]
    assert plain.spec.recurrent and named.spec.recurrent


def test_a_tuple_of_dimensions_is_a_loop_with_a_body():
    body = stepwise(lambda h: h.unsqueeze(1).squeeze((1,)).unsqueeze(1))
    agrees(Net(body), example, "squeezed")
