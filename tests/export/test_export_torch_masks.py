"""Attention of torch.nn under masks, rows without a valid step among them: what torch gives in evaluation mode."""

import numpy as np
import pytest
import torch
from torch import nn

import rnncore
from rnncore.errors import UnsupportedError
from rnncore.export import from_torch

D = 8


def padded(lengths, steps, left=False):
    """A batch (B, T, D), and True where a step is padding."""
    count = torch.arange(steps)[None]
    limit = torch.tensor(lengths)[:, None]
    generator = torch.Generator().manual_seed(len(lengths) * 100 + steps)
    x = torch.randn(len(lengths), steps, D, generator=generator)
    return x, (count < steps - limit if left else count >= limit)


def compared(module, example, others):
    """A module exported with one example and run with others: the same numbers, and NaN in the same places."""
    module = module.eval()
    model = rnncore.Model(*from_torch(module, example))
    empty = 0
    for given in others:
        with torch.no_grad():
            expected = module(*given).numpy()
        arrays = {entry.name: tensor.numpy() for entry, tensor in zip(model.inputs, given, strict=True)}
        (found,) = model.run(arrays).values()
        np.testing.assert_allclose(found, expected, atol=2e-6)
        empty += int(np.isnan(expected).sum())
    return empty


class Attention(nn.Module):
    def __init__(self, batch_first, need_weights, cross):
        super().__init__()
        self.attend, self.need_weights, self.cross = (
            nn.MultiheadAttention(D, 2, batch_first=batch_first),
            need_weights,
            cross,
        )

    def forward(self, x, hidden):
        x = x if self.attend.batch_first else x.transpose(0, 1)
        memory = x * 0.5 if self.cross else x
        return self.attend(x, memory, memory, key_padding_mask=hidden, need_weights=self.need_weights)[0]


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_rows_without_a_step_in_attention(batch_first, need_weights, cross):
    """torch has several ways, which give NaN or the output's bias there."""
    others = [padded([4, 2], 6), padded([6, 0, 2], 6), padded([0], 3)]
    empty = compared(Attention(batch_first, need_weights, cross), padded([5, 3, 2], 5), others)
    assert bool(empty) == (need_weights or (batch_first and not cross))


class Encoder(nn.Module):
    def __init__(self, nested, norm_first, batch_first=True):
        super().__init__()
        layer = nn.TransformerEncoderLayer(D, 2, 16, batch_first=batch_first, norm_first=norm_first)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
        self.batch_first = batch_first

    def forward(self, x, hidden):
        x = x if self.batch_first else x.transpose(0, 1)
        return self.layers(x, src_key_padding_mask=hidden)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor|.*nested tensors")
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_rows_without_a_step_in_an_encoder(nested, norm_first, batch_first):
    others = [padded([4, 2], 6), padded([6, 0, 2], 6), padded([3, 0], 4, left=True)]
    compared(Encoder(nested, norm_first, batch_first), padded([5, 3, 2], 5), others)


class Layer(nn.Module):
    def __init__(self, kind, batch_first):
        super().__init__()
        self.layer, self.batch_first = kind(D, 2, 16, batch_first=batch_first), batch_first

    def forward(self, x, mask):
        x = x if self.batch_first else x.transpose(0, 1)
        if isinstance(self.layer, nn.TransformerEncoderLayer):
            return self.layer(x, src_mask=mask)
        return self.layer(x, x * 0.5, tgt_mask=mask)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
def test_steps_that_see_nothing(kind, batch_first):
    mask = torch.zeros(5, 5, dtype=torch.bool)
    mask[2], mask[1, 3] = True, True
    x, _ = padded([5, 5], 5)
    assert bool(compared(Layer(kind, batch_first), (x, ~torch.eye(5).bool()), [(x, mask)])) == batch_first


class Buffered(nn.Module):
    """With a float mask for the longest sequence, which is cut to the one at hand."""

    def __init__(self, mask, steps=None):
        super().__init__()
        self.attend, self.steps = nn.MultiheadAttention(D, 2, batch_first=True), steps
        self.register_buffer("mask", mask)

    def forward(self, x):
        mask = self.mask if self.steps else self.mask[: x.size(1), : x.size(1)]
        return self.attend(x, x, x, attn_mask=mask, need_weights=False)[0]


@pytest.mark.parametrize("steps", [None, 6])
def test_a_float_mask_that_is_a_buffer(steps):
    mask = nn.Transformer.generate_square_subsequent_mask(6)
    sizes = [(1, 6), (3, 6)] if steps else [(1, 2), (2, 6), (3, 1)]
    compared(Buffered(mask, steps), (torch.randn(2, 6 if steps else 4, D),), [(torch.randn(*one, D),) for one in sizes])


@pytest.mark.parametrize("steps", [None, 6])
@pytest.mark.parametrize("trained", [False, True])
def test_masks_of_other_numbers_are_refused(trained, steps):
    module = Buffered(torch.linspace(-1, 0, 36).reshape(6, 6), steps)
    if trained:
        del module.mask
        module.mask = nn.Parameter(torch.zeros(6, 6))
    with pytest.raises(UnsupportedError, match=r"attend: a mask .*expected (bool, or )?a buffer of 0 and -inf"):
        from_torch(module.eval(), torch.randn(2, 6 if steps else 4, D))
