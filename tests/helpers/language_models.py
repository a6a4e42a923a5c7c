"""A word language model in PyTorch, and the same network as a Model."""

import functools

import numpy as np
import torch
from torch import nn

from rnncore import Input, Model, Node, Recurrent, Spec
from rnncore.cells import LSTM
from rnncore.formats.torch.names import bind

V, E, H = 23, 7, 19


class Language(nn.Module):
    """A word language model with sharp preferences."""

    def __init__(self, seed=0, spread=0.9):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.lstm, self.out = nn.Embedding(V, E), nn.LSTM(E, H, 2, batch_first=True), nn.Linear(H, V)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=spread)
        self.double().eval()

    @torch.inference_mode()
    def forward(self, tokens):
        """Log-probabilities (T, V) of what follows each of the tokens (T,)."""
        y, _ = self.lstm(self.embed(torch.as_tensor(np.array(tokens, np.int64))[None]))
        return torch.log_softmax(self.out(y)[0], dim=1).numpy()


def network(module, dtype="float64", head=(), lengths="lengths", **options):
    nodes = [
        Node("embed", "Embedding", "tokens", {"input_size": V, "output_size": E}),
        Recurrent("lstm", LSTM(E, H), "embed", layers=2, lengths=lengths),
        Node("out", "Linear", "lstm", {"input_size": H, "output_size": V}),
        *head,
    ]
    spec = Spec([Input("tokens", "int64", ("B", "T"))], nodes, [nodes[-1].name])
    tensors = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    return Model(spec, bind(spec, tensors).weights, dtype, **options)


@functools.cache
def float32_model(threads=1):
    return network(Language(), "float32", num_threads=threads)


def prompts(count=9, longest=150, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, V, int(n)) for n in rng.integers(1, longest, count)]


LETTERS = ["<s>", "</s>", "<unk>", *"abcdefghijklmnopqrst"]
