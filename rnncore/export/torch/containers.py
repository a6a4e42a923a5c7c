"""Modules of torch's whose own forward is not called while it is recorded.

nn.TransformerEncoder and nn.TransformerDecoder are their layers, one after the other.

Their own forward looks into masks: whether one is causal, which is only a hint, and whether padding is at the end
of each row. Where it does, and torch leaves padding out for speed, the encoder's layers give zeros there. A layer that
torch runs as one function gives NaN where a query sees nothing: its attention is noted.

A subclass of a recurrent module or of nn.MultiheadAttention may call super().forward: that is a call of the module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["CONTAINERS", "base_of", "recorded_bases", "recorded_containers"]

CONTAINERS = (
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.Transformer, nn.TransformerEncoder, nn.TransformerDecoder,
    nn.TransformerEncoderLayer, nn.TransformerDecoderLayer,
)  # fmt: skip
"""Modules of torch whose forward is recorded as users' code is, call by call."""


BASES = (nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell, nn.MultiheadAttention)
"""Modules whose forward is one node of the graph."""


def base_of(module: nn.Module) -> Any:
    """The class of BASES whose forward a module overrides; None where it has that forward, or is of none."""
    kind = next((kind for kind in BASES if isinstance(module, kind)), None)
    return None if kind is None or type(module).forward is kind.forward else kind


@contextmanager
def recorded_bases(recorded: Callable[[Any], bool], called: Callable[[nn.Module, Any, Any], Any]) -> Iterator[None]:
    """While a module is recorded, super().forward in a subclass of BASES is called(module, args, kwargs)."""

    def replaced(kind: Any) -> Callable:
        kept = kind.forward

        @functools.wraps(kept)
        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            own = base_of(self) is None or not recorded((args, kwargs))
            return kept(self, *args, **kwargs) if own else called(self, args, kwargs)

        return forward

    with ExitStack() as stack:
        for kind in BASES:
            stack.callback(setattr, kind, "forward", kind.forward)
            kind.forward = replaced(kind)
        yield


@contextmanager
def recorded_containers(
    recorded: Callable[[Any], bool],
    refusal: Callable[[str], Exception],
    masked: dict[nn.Module, tuple[nn.Module, tuple[str, ...]]],
) -> Iterator[None]:
    """While a module is recorded, stacks of Transformer layers call their layers and nothing else.

    recorded  whether a call with these arguments is to be recorded
    refusal   the error for a call that cannot be, with the user's line
    masked    gets the attention of each nn.TransformerEncoderLayer with masks -> the layer, its masks' names
    """
    own_layer = nn.TransformerEncoderLayer.forward

    def encode_layer(
        self: Any, src: Any, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
    ) -> Any:
        masks = {"src_mask": src_mask, "src_key_padding_mask": src_key_padding_mask}
        names = tuple(name for name, mask in masks.items() if mask is not None)
        if names and src.dim() == 3:
            masked[self.self_attn] = (self, names)
        return own_layer(self, src, src_mask, src_key_padding_mask, is_causal)

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

    homes: list[tuple[Any, Callable]] = [
        (nn.TransformerEncoder, encode),
        (nn.TransformerDecoder, _decode),
        (nn.TransformerEncoderLayer, encode_layer),
    ]
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
