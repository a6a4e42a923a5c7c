"""Decoders with and without attention as PyTorch modules written by hand, and as Specs with the same weights."""

import numpy as np
import torch
from torch import nn

from rnncore.cells import GRU, LSTM
from rnncore.conventions.gates import sum_biases
from rnncore.formats.torch.names import bind
from rnncore.graph.nodes import AttentionDecoder, Input, Node, Recurrent
from rnncore.graph.spec import Spec

WORDS, E, H, A, K, W = 11, 4, 6, 5, 8, 7  # words, embedding, hidden, attention, memory, attentional sizes

B, T, S = 3, 6, 5  # rows, steps of the target, steps of the source

LENGTHS = np.array([5, 2, 4])

START = 1


def embedding(name, source):
    return Node(name, "Embedding", source, {"input_size": WORDS, "output_size": E})


def linear(name, source, read, written, bias=True):
    return Node(name, "Linear", source, {"input_size": read, "output_size": written, "bias": bias})


class Additive(nn.Module):
    def __init__(self):
        super().__init__()
        self.Wa, self.Ua, self.Va = nn.Linear(H, A), nn.Linear(K, A), nn.Linear(A, 1)

    def forward(self, query, memory, valid):
        """query (B, H) -> context (B, K), weights (B, S)."""
        scores = self.Va(torch.tanh(self.Wa(query).unsqueeze(1) + self.Ua(memory))).squeeze(2)
        a = torch.softmax(scores.masked_fill(~valid, -torch.inf), dim=1)
        return torch.bmm(a.unsqueeze(1), memory).squeeze(1), a


class General(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.Linear(K, H)  # its bias adds one number to all scores

    def forward(self, query, memory, valid):
        scores = torch.bmm(self.attn(memory), query.unsqueeze(2)).squeeze(2)
        a = torch.softmax(scores.masked_fill(~valid, -torch.inf), dim=1)
        return torch.bmm(a.unsqueeze(1), memory).squeeze(1), a


class Bahdanau(nn.Module):
    """Attend with the last hidden state, and concatenate the context to the word."""

    def __init__(self):
        super().__init__()
        self.embed, self.attention = nn.Embedding(WORDS, E), Additive()
        self.gru = nn.GRU(E + K, H, batch_first=True)
        self.out = nn.Linear(H + K, WORDS)

    def forward(self, tokens, memory, valid, state):
        logits, weights = [], []
        for t in range(tokens.shape[1]):
            context, a = self.attention(state[-1], memory, valid)
            y, state = self.gru(torch.cat([self.embed(tokens[:, t]), context], dim=1).unsqueeze(1), state)
            logits.append(self.out(torch.cat([y.squeeze(1), context], dim=1)))
            weights.append(a)
        return torch.stack(logits, 1), torch.stack(weights, 1), state

    def start(self):
        return torch.randn(1, B, H, dtype=torch.float64)

    def network(self):
        nodes = [
            embedding("embed", "tokens"),
            AttentionDecoder(
                "dec", GRU(E + K, H), "embed", "memory", K, "bahdanau", A, True, memory_mask="memory_lengths"
            ),
            Node("both", "Concat", ("dec", "dec.context"), {"axis": 2}),
            linear("out", "both", H + K, WORDS),
        ]
        tensors = {name: tensor.numpy() for name, tensor in self.state_dict().items()}
        tensors["key.bias"] = sum_biases(tensors.pop("attention.Wa.bias"), tensors.pop("attention.Ua.bias"))
        names = {
            "dec": "gru",
            "dec.attention.query.weight": "attention.Wa.weight",
            "dec.attention.key.weight": "attention.Ua.weight",
            "dec.attention.key.bias": "key.bias",
            "dec.attention.score.weight": "attention.Va.weight",
        }
        return nodes, tensors, names


class Luong(nn.Module):
    """Two LSTM layers; attend with the new hidden state; the attentional vector is fed to the next step."""

    def __init__(self, feed=True):
        super().__init__()
        self.feed = feed
        self.embed, self.attention = nn.Embedding(WORDS, E), General()
        self.lstm = nn.LSTM(E + W * feed, H, 2, batch_first=True)
        self.W_c = nn.Linear(K + H, W, bias=False)
        self.out = nn.Linear(W, WORDS)

    def forward(self, tokens, memory, valid, state):
        state, fed = (state[:-1], state[-1][0]) if self.feed else (state, None)
        logits, weights = [], []
        for t in range(tokens.shape[1]):
            x = self.embed(tokens[:, t])
            x = torch.cat([x, fed], dim=1) if self.feed else x
            y, state = self.lstm(x.unsqueeze(1), state)
            context, a = self.attention(y.squeeze(1), memory, valid)
            fed = torch.tanh(self.W_c(torch.cat([context, y.squeeze(1)], dim=1)))
            logits.append(self.out(fed))
            weights.append(a)
        return torch.stack(logits, 1), torch.stack(weights, 1), (*state, fed[None]) if self.feed else state

    def start(self):
        state = [torch.randn(2, B, H, dtype=torch.float64) for _ in "hc"]
        return (*state, torch.zeros(1, B, W, dtype=torch.float64)) if self.feed else tuple(state)

    def network(self):
        mask = {"memory_mask": "memory_lengths"}
        options = {"order": "after", "attentional_size": W, "layers": 2, **mask}
        nodes = [
            embedding("embed", "tokens"),
            AttentionDecoder("dec", LSTM(E + W, H), "embed", "memory", K, "general", **options),
            linear("out", "dec", W, WORDS),
        ]
        names = {
            "dec": "lstm",
            "dec.attention.weight": "attention.attn.weight",
            "dec.attentional.weight": "W_c.weight",
        }
        if not self.feed:
            sizes = {"score": "general", "query_size": H, "memory_size": K}
            nodes[1:2] = [
                Recurrent("dec", LSTM(E, H), "embed", layers=2, lengths=None),
                Node("att", "LuongAttention", ("dec", "memory", "memory_lengths"), sizes),
                Node("both", "Concat", ("att", "dec"), {"axis": 2}),
                linear("W_c", "both", K + H, W, bias=False),
                Node("tanh", "Tanh", "W_c"),
            ]
            nodes[-1] = linear("out", "tanh", W, WORDS)
            names = {"dec": "lstm", "att.weight": "attention.attn.weight"}
        tensors = {name: tensor.numpy() for name, tensor in self.state_dict().items()}
        # General is q . (W m + b) here: q . b is the same for every step of the memory.
        tensors.pop("attention.attn.bias")
        return nodes, tensors, names


class Plain(nn.Module):
    """Sutskever et al. 2014: nothing but the encoder's final state."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(WORDS, E)
        self.lstm = nn.LSTM(E, H, 2, batch_first=True)
        self.out = nn.Linear(H, WORDS)

    def forward(self, tokens, memory, valid, state):
        y, state = self.lstm(self.embed(tokens), state)
        return self.out(y), None, state

    def start(self):
        return tuple(torch.randn(2, B, H, dtype=torch.float64) for _ in "hc")

    def network(self):
        nodes = [
            embedding("embed", "tokens"),
            Recurrent("lstm", LSTM(E, H), "embed", layers=2, lengths=None),
            linear("out", "lstm", H, WORDS),
        ]
        return nodes, {name: tensor.numpy() for name, tensor in self.state_dict().items()}, {}


MODULES = {"bahdanau": Bahdanau, "luong": Luong, "luong without feeding": lambda: Luong(feed=False), "plain": Plain}


class Case:
    """A module with random weights, a memory, a start, and the same as a Spec and Weights."""

    def __init__(self, kind):
        torch.manual_seed(len(kind))
        rng = np.random.default_rng(len(kind))
        self.module = MODULES[kind]().double()
        for parameter in self.module.parameters():
            nn.init.normal_(parameter, std=0.6)
        nodes, tensors, names = self.module.network()
        self.tokens = rng.integers(0, WORDS, (B, T))
        self.memory = rng.standard_normal((B, S, K))
        self.valid = torch.from_numpy(np.arange(S) < LENGTHS[:, None])
        self.attends = kind != "plain"
        inputs = [Input("tokens", "int64", ("B", "T"))]
        if self.attends:
            inputs += [Input("memory", "float", ("B", "S", K)), Input("memory_lengths", "int64", ("B",))]
        known = Spec(inputs, nodes, ["out"]).values
        self.weights_name = next((name for name in known if name.endswith(".weights")), None)
        self.spec = Spec(inputs, nodes, ["out", self.weights_name] if self.attends else ["out"])
        self.weights = bind(self.spec, tensors, names).weights
        self.start = self.module.start()
        states = self.start if isinstance(self.start, tuple) else (self.start,)
        (node,) = self.spec.stateful
        self.state = {
            f"{node.name}.{key}": array.numpy() for key, array in zip(node.state_shapes(B), states, strict=True)
        }

    def inputs(self, tokens, dtype):
        memory = {"memory": self.memory.astype(dtype), "memory_lengths": LENGTHS}
        return {"tokens": tokens, **(memory if self.attends else {})}

    def started(self, dtype):
        return {name: array.astype(dtype) for name, array in self.state.items()}

    def expected(self):
        with torch.no_grad():
            arguments = torch.from_numpy(self.memory), self.valid, self.start
            logits, weights, state = self.module(torch.from_numpy(self.tokens), *arguments)
        state = state if isinstance(state, tuple) else (state,)
        outputs = {"out": logits.numpy()}
        if self.attends:
            outputs[self.weights_name] = weights.numpy()
        return outputs, dict(zip(self.state, (array.numpy() for array in state), strict=True))


class Translator(nn.Module):
    """A bidirectional encoder, whose last states start a Bahdanau decoder through Linear and Tanh."""

    def __init__(self):
        super().__init__()
        self.source = nn.Embedding(WORDS, E)
        self.encoder = nn.GRU(E, K // 2, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(K, H)
        self.decoder = Bahdanau()

    def forward(self, source, target):
        packed = nn.utils.rnn.pack_padded_sequence(self.source(source), LENGTHS, True, enforce_sorted=False)
        memory, h = self.encoder(packed)
        memory, _ = nn.utils.rnn.pad_packed_sequence(memory, True, total_length=S)
        h0 = torch.tanh(self.bridge(torch.cat([h[0], h[1]], dim=1))).unsqueeze(0)
        valid = torch.from_numpy(np.arange(S) < LENGTHS[:, None])
        return self.decoder(target, memory, valid, h0)[:2]


def translator():
    """(module, Spec, Weights, source words, target words) of a Translator."""
    torch.manual_seed(3)
    module = Translator().double()
    nodes, tensors, names = module.decoder.network()
    encoder = [
        embedding("source", "words"),
        Recurrent("encoder", GRU(E, K // 2), "source", direction="bidirectional"),
        linear("bridge", "encoder.last", K, H),
        Node("bridge.tanh", "Tanh", "bridge"),
        Node("h0", "Unsqueeze", "bridge.tanh", {"axes": [0]}),
    ]
    options = {"memory_mask": "lengths", "initial": ("h0",), "lengths": "target_lengths"}
    decoder = AttentionDecoder("dec", GRU(E + K, H), "embed", "encoder", K, "bahdanau", A, True, **options)
    inputs = [
        Input("words", "int64", ("B", "S")),
        Input("tokens", "int64", ("B", "T")),
        Input("target_lengths", "int64", ("B",), optional=True),
    ]
    spec = Spec(inputs, [*encoder, nodes[0], decoder, *nodes[2:]], ["out", "dec.weights", "encoder", "h0", "dec.h"])
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items() if not name.startswith("decoder.")}
    weights = bind(spec, {**tensors, **state}, names).weights
    rng = np.random.default_rng(3)
    return module, spec, weights, rng.integers(0, WORDS, (B, S)), rng.integers(0, WORDS, (B, T))
