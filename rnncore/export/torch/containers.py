"""nn.TransformerEncoder and nn.TransformerDecoder while they are recorded: their layers, one after the other.

Their own forward looks into masks: whether one is causal, which is only a hint, and whether padding is at the end
of each row. Where it does, and torch leaves padding out for speed, the encoder's layers give zeros there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["CONTAINERS", "recorded_containers"]

CONTAINERS = (
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder,
    nn.TransformerEncoderLayer, nn.TransformerDecoderLayer,
)  # fmt: skip
"""Modules of torch whose forward is recorded as users' code is, call by call."""


@contextmanager
def recorded_containers(recorded: Callable[[Any], bool], refusal: Callable[[str], Exception]) -> Iterator[None]:
    """While a module is recorded, stacks of Transformer layers call their layers and nothing else.

    recorded  whether a call with these arguments is to be recorded
    refusal   the error for a call that cannot be, with the user's line
    """

    def encode(self: Any, src: Any, mask: Any = None, src_key_padding_mask: Any = None, is_causal: Any = None) -> Any:
        x, hidden = src, src_key_padding_mask
        for layer in self.layers:
            x = layer(x, src_mask=mask, is_causal=bool(is_causal), src_key_padding_mask=hidden)
        if hidden is not None and mask is None and src.dim() == 3 and getattr(self, "use_nested_tensor", False):
            if not getattr(self, "mask_check", True):
                raise refusal("a TransformerEncoder with mask_check=False and padding, expected mask_check=True")
            if torch.backends.mha.get_fastpath_enabled():
                x = _without_padding(x, hidden if hidden.dtype == torch.bool else hidden != 0)
        return x if self.norm is None else self.norm(x)

    def replaced(kind: Any, own: Callable) -> Callable:
        kept = kind.forward

        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            return (own if recorded((args, kwargs)) else kept)(self, *args, **kwargs)

        return forward

    homes: list[tuple[Any, Callable]] = [(nn.TransformerEncoder, encode), (nn.TransformerDecoder, _decode)]
    kept = [kind.forward for kind, _ in homes]
    try:
        for kind, own in homes:
            kind.forward = replaced(kind, own)
        yield
    finally:
        for (kind, _), forward in zip(homes, kept, strict=True):
            kind.forward = forward


def _decode(
    self: Any,
    tgt: Any,
    memory: Any,
    tgt_mask: Any = None,
    memory_mask: Any = None,
    tgt_key_padding_mask: Any = None,
    memory_key_padding_mask: Any = None,
    tgt_is_causal: Any = None,
    memory_is_causal: bool = False,
) -> Any:
    """TransformerDecoder.forward: its layers and nothing else."""
    x = tgt
    for layer in self.layers:
        x = layer(
            x,
            memory,
            tgt_mask=tgt_mask,
            memory_mask=memory_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
            memory_key_padding_mask=memory_key_padding_mask,
            tgt_is_causal=bool(tgt_is_causal),
            memory_is_causal=memory_is_causal,
        )
    return x if self.norm is None else self.norm(x)


def _without_padding(x: Any, hidden: Any) -> Any:
    """(B, T, D) with zeros where a step is hidden (B, T), if in each row all hidden steps are at the end."""
    steps = hidden.long()
    at_the_end = (steps[:, 1:] >= steps[:, :-1]).all()
    return torch.where((hidden & at_the_end).unsqueeze(2), 0.0, x)
