"""Small PyTorch modules as people write them, each with an example: what from_torch has to take."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

VOCABULARY = 13


def ids(*shape):
    return torch.arange(math.prod(shape)).reshape(shape) * 7 % VOCABULARY


def floats(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 5, padding_idx=0)
        self.lstm = nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True, dropout=0.3)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(8, 3)

    def forward(self, tokens):
        x, _ = self.lstm(self.embed(tokens))
        return F.log_softmax(self.fc(self.drop(x)), dim=-1)


class PackedEncoder(nn.Module):
    """Sentiment: the last layer's two final states."""

    def __init__(self, enforce_sorted=False):
        super().__init__()
        self.sorted = enforce_sorted
        self.embed = nn.Embedding(VOCABULARY, 5)
        self.rnn = nn.GRU(5, 4, 2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(8, 1)

    def forward(self, tokens, lengths):
        packed = pack_padded_sequence(self.embed(tokens), lengths.cpu(), batch_first=True, enforce_sorted=self.sorted)
        _, h = self.rnn(packed)
        return torch.sigmoid(self.fc(torch.cat((h[-2], h[-1]), dim=1))).squeeze(1)


class PackedSequenceOut(nn.Module):
    """Packing written out, the sequence unpacked, its own lengths returned."""

    def __init__(self, batch_first=True, total=False, value=0.0):
        super().__init__()
        self.batch_first, self.total, self.value = batch_first, total, value
        self.lstm = nn.LSTM(3, 4, batch_first=batch_first)
        self.fc = nn.Linear(4, 2)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, self.batch_first, enforce_sorted=False)
        out, (h, c) = self.lstm(packed)
        total = x.size(1 if self.batch_first else 0) if self.total else None
        out, sizes = nn.utils.rnn.pad_packed_sequence(
            out, batch_first=self.batch_first, padding_value=self.value, total_length=total
        )
        return self.fc(out).mean(1 if self.batch_first else 0), h, c, sizes


class MixedLayouts(nn.Module):
    """Packed time first out of batch-first input, unpacked batch first."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4)

    def forward(self, x, lengths):
        packed = pack_padded_sequence(x.transpose(0, 1), lengths, enforce_sorted=False)
        out, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        return out


class LastValidStep(nn.Module):
    """out[torch.arange(B), lengths - 1], and the same by gather."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, x, lengths):
        out, _ = self.lstm(x)
        one = out[torch.arange(x.size(0)), lengths - 1]
        index = (lengths - 1).view(-1, 1, 1).expand(-1, 1, out.size(2))
        return one, out.gather(1, index).squeeze(1)


class SelfAttention(nn.Module):
    """Word attention written out, with a mask of lengths."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, bidirectional=True, batch_first=True)
        self.project = nn.Linear(8, 5)
        self.context = nn.Parameter(floats(5))
        self.fc = nn.Linear(8, 2)

    def forward(self, x, lengths):
        h, _ = self.lstm(x)
        u = torch.tanh(self.project(h))
        scores = torch.matmul(u, self.context)
        mask = torch.arange(x.shape[1], device=x.device)[None, :] < lengths[:, None]
        weights = torch.softmax(scores.masked_fill(~mask, float("-inf")), dim=1)
        pooled = (weights.unsqueeze(-1) * h).sum(dim=1)
        return {"logits": self.fc(pooled), "attention": weights}


class Seq2SeqEncoder(nn.Module):
    """Bidirectional states joined for a decoder."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 5)
        self.rnn = nn.GRU(5, 4, bidirectional=True)
        self.fc = nn.Linear(8, 6)

    def forward(self, src):
        outputs, hidden = self.rnn(self.embedding(src))
        hidden = torch.tanh(self.fc(torch.cat((hidden[-2, :, :], hidden[-1, :, :]), dim=1)))
        return outputs, hidden


class AttentionStep(nn.Module):
    """One step of a decoder with additive attention, driven word by word."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 5)
        self.attn = nn.Linear(6 + 8, 6)
        self.v = nn.Linear(6, 1, bias=False)
        self.rnn = nn.GRU(5 + 8, 6)
        self.out = nn.Linear(6 + 8 + 5, VOCABULARY)

    def forward(self, token, hidden, encoder_outputs):
        embedded = self.embedding(token.unsqueeze(0))
        steps = encoder_outputs.shape[0]
        repeated = hidden.unsqueeze(1).repeat(1, steps, 1)
        memory = encoder_outputs.permute(1, 0, 2)
        energy = torch.tanh(self.attn(torch.cat((repeated, memory), dim=2)))
        a = F.softmax(self.v(energy).squeeze(2), dim=1).unsqueeze(1)
        weighted = torch.bmm(a, memory).permute(1, 0, 2)
        output, hidden = self.rnn(torch.cat((embedded, weighted), dim=2), hidden.unsqueeze(0))
        prediction = self.out(torch.cat((output.squeeze(0), weighted.squeeze(0), embedded.squeeze(0)), dim=1))
        return prediction, hidden.squeeze(0), a.squeeze(1)


class CRNN(nn.Module):
    """Text recognition: convolutions, columns as steps, BiLSTM, CTC output."""

    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, 2),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.MaxPool2d((2, 1)),
        )
        self.rnn = nn.LSTM(6 * 2, 5, bidirectional=True)
        self.fc = nn.Linear(10, 7)
        randomize(self)

    def forward(self, image):
        x = self.cnn(image)
        b, c, h, w = x.size()
        x = x.view(b, c * h, w).permute(2, 0, 1)
        out, _ = self.rnn(x)
        t, b, f = out.size()
        return F.log_softmax(self.fc(out.view(t * b, f)).view(t, b, -1), dim=2)


class CharLM(nn.Module):
    """State in and out; tied weights."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Embedding(VOCABULARY, 6)
        self.rnn = nn.LSTM(6, 6, 2)
        self.decoder = nn.Linear(6, VOCABULARY)
        self.decoder.weight = self.encoder.weight

    def forward(self, x, state):
        output, state = self.rnn(self.encoder(x), state)
        decoded = self.decoder(output).view(-1, VOCABULARY)
        return F.log_softmax(decoded, dim=1), state


class OptionalState(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, 2, batch_first=True)

    def forward(self, x, h=None):
        if h is None:
            h = torch.zeros(self.gru.num_layers, x.size(0), 4, device=x.device, dtype=x.dtype)
        out, h = self.gru(x, h)
        return out[:, -1, :], h


class LearnedState(nn.Module):
    def __init__(self):
        super().__init__()
        self.h0 = nn.Parameter(floats(2, 1, 4))
        self.c0 = nn.Parameter(floats(2, 1, 4) * 2)
        self.lstm = nn.LSTM(3, 4, 2, batch_first=True)

    def forward(self, x):
        b = x.shape[0]
        return self.lstm(x, (self.h0.expand(-1, b, -1).contiguous(), self.c0.repeat(1, b, 1)))[0]


class ComputedState(nn.Module):
    """Captioning: features start the decoder."""

    def __init__(self):
        super().__init__()
        self.start = nn.Linear(6, 4)
        self.embed = nn.Embedding(VOCABULARY, 3)
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.fc = nn.Linear(4, VOCABULARY)

    def forward(self, features, captions):
        h = torch.tanh(self.start(features)).unsqueeze(0)
        out, _ = self.lstm(self.embed(captions), (h, torch.zeros_like(h)))
        return self.fc(out)


class StatesByLayer(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True)

    def forward(self, x):
        _, (h, c) = self.lstm(x)
        h = h.view(2, 2, x.size(0), 4)
        return h[-1].transpose(0, 1).reshape(x.size(0), -1), c.permute(1, 0, 2).flatten(1)


class ResidualStack(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.LSTM(4, 4, batch_first=True) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(3))

    def forward(self, x):
        for lstm, norm in zip(self.layers, self.norms, strict=True):
            x = norm(x + lstm(x)[0])
        return x


class WeightNormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 4, 3, padding=1))
        self.old = nn.utils.weight_norm(nn.Linear(4, 5))
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 5))
        self.gru = nn.GRU(5, 4, batch_first=True)

    def forward(self, x):
        x = F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        return self.gru(self.spectral(self.old(x)))[0]


class CellLoop(nn.Module):
    """The sequence written out step by step."""

    def __init__(self, kind=nn.LSTMCell):
        super().__init__()
        self.cell = kind(3, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        b, t, _ = x.shape
        h = torch.zeros(b, 4)
        c = torch.zeros(b, 4)
        outputs = []
        for i in range(t):
            if isinstance(self.cell, nn.LSTMCell):
                h, c = self.cell(x[:, i], (h, c))
            else:
                h = self.cell(x[:, i, :], h)
            outputs.append(self.fc(h))
        return torch.stack(outputs, dim=1), h


class TwoCells(nn.Module):
    """Two cells and an Embedding in one loop, time first, outputs joined by cat."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 3)
        self.one = nn.LSTMCell(3, 4)
        self.two = nn.GRUCell(4, 5)
        self.drop = nn.Dropout(0.1)

    def forward(self, tokens):
        h1 = c1 = torch.zeros(tokens.size(1), 4)
        h2 = torch.zeros(tokens.size(1), 5)
        outputs = []
        for token in tokens:
            h1, c1 = self.one(self.embed(token), (h1, c1))
            h2 = self.two(self.drop(torch.tanh(h1)), h2)
            outputs.append(h2.unsqueeze(0))
        return torch.cat(outputs, dim=0), (h1, c1)


class BackwardLoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        outputs = []
        for t in range(x.size(1) - 1, -1, -1):
            h = self.cell(x[:, t], h)
            outputs.insert(0, h)
        return torch.stack(outputs, 1)


class StoredOutputs(nn.Module):
    """Outputs written into a tensor of zeros; the state begins at None."""

    def __init__(self):
        super().__init__()
        self.cell = nn.RNNCell(3, 4, nonlinearity="relu")

    def forward(self, x):
        out = torch.zeros(x.size(0), x.size(1), 4)
        h = None
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
            out[:, t] = h
        return out


class SteppedStack(nn.Module):
    """A whole nn.LSTM called for one step at a time."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, 2, batch_first=True)
        self.fc = nn.Linear(4, 2)

    def forward(self, x, h, c):
        outputs = []
        for t in range(x.size(1)):
            out, (h, c) = self.lstm(x[:, t : t + 1], (h, c))
            outputs.append(self.fc(out))
        return torch.cat(outputs, dim=1), h, c


class GatedLoop(nn.Module):
    """A mask inside the loop keeps the state of rows that have ended: no cell alone, so a Scan."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def forward(self, x, lengths):
        h = torch.zeros(x.size(0), 4)
        outputs = []
        for t in range(x.size(1)):
            keep = (lengths > t).unsqueeze(1).to(x.dtype)
            h = keep * self.cell(x[:, t], h) + (1 - keep) * h
            outputs.append(h)
        return torch.stack(outputs, dim=1)


class OwnCell(nn.Module):
    """An LSTM written as equations."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(floats(7, 16))
        self.bias = nn.Parameter(floats(16))

    def forward(self, x):
        h = c = torch.zeros(x.size(0), 4)
        outputs = []
        for t in range(x.size(1)):
            gates = torch.cat([x[:, t], h], 1) @ self.weight + self.bias
            i, f, g, o = gates.chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return torch.stack(outputs, 1)


class Speaker(nn.Module):
    """Resemblyzer's shape: LSTM, Linear of the last state, ReLU, L2 norm."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)
        self.relu = nn.ReLU()

    def forward(self, mels):
        _, (hidden, _) = self.lstm(mels)
        raw = self.relu(self.linear(hidden[-1]))
        return raw / torch.norm(raw, dim=1, keepdim=True)


class MultiHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x, padding):
        h, _ = self.gru(x)
        y, weights = self.attention(h, h, h, key_padding_mask=padding)
        return y + h, weights


class Arithmetic(nn.Module):
    """Operators, scalars, comparisons, reductions."""

    def forward(self, x):
        y = (x * 2 - 1) / (x.abs() + 1.5) ** 2
        z = torch.where(y > 0, y, -y) + x.clamp(-1, 1) - x.mean(dim=-1, keepdim=True)
        top, index = z.max(dim=1)
        return z.sum((1, 2)), top, index, z.argmax(-1), (x > 0).float().mean(), z.std(dim=2), torch.maximum(x, y)


class Shapes(nn.Module):
    """Reshapes, splits, slices, flips and repeats."""

    def forward(self, x):
        b, t, f = x.shape
        a, c = x.chunk(2, dim=-1)
        first, rest = x.split([1, f - 1], dim=2)
        y = x.reshape(b * t, f).view(b, t, 2, f // 2).transpose(1, 2)
        w = x.unsqueeze(1).expand(b, 3, t, f).reshape(b, 3 * t, f)
        v = torch.stack([a, c], dim=2).flatten(2)
        return y, w, v, x.flip(1), x[:, 1:, ::2], x[..., None, -2], F.pad(rest, (1, 0, 2, 0)), first.repeat(1, 1, 3)


class Sizes(nn.Module):
    """Tensors made of sizes, and arithmetic on them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", floats(50, 4))

    def forward(self, x):
        b, t, f = x.size()
        ramp = torch.arange(t, dtype=torch.float32) / t
        y = x + self.table[:t] + ramp[:, None]
        causal = torch.tril(torch.ones(t, t)).bool()
        scores = y @ y.transpose(1, 2) / math.sqrt(f)
        weights = scores.masked_fill(~causal, -1e9).softmax(-1)
        return torch.einsum("btu,buf->btf", weights, y), x.new_full((b, t // 2), 3.0), torch.zeros(len(x), 2)


class Activations(nn.Module):
    def __init__(self):
        super().__init__()
        self.prelu = nn.PReLU(4)
        self.chain = nn.Sequential(nn.ELU(), nn.SiLU(), nn.Mish(), nn.Softsign(), nn.Hardtanh(-0.4, 0.4))
        randomize(self)

    def forward(self, x):
        y = F.gelu(x) + F.gelu(x, approximate="tanh") + F.softplus(x) + F.hardsigmoid(x) + F.hardswish(x)
        y = y + F.leaky_relu(x, 0.1) + F.selu(x) + F.celu(x) + F.relu6(x * 5) + F.logsigmoid(x) + torch.erf(x)
        y = y + F.glu(torch.cat([x, x], -1)) + self.chain(x) + F.softplus(x, beta=2)
        return y + self.prelu(x.transpose(1, 2)).transpose(1, 2) + F.normalize(x, dim=-1)


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.batch = nn.BatchNorm1d(6)
        self.group = nn.GroupNorm(3, 6)
        self.instance = nn.InstanceNorm1d(6, affine=True)
        self.layer = nn.LayerNorm(6, elementwise_affine=False)
        randomize(self)

    def forward(self, x):
        y = self.instance(self.group(self.batch(x.transpose(1, 2)))).transpose(1, 2)
        return self.layer(y) + F.layer_norm(x, (6,))


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.same = nn.Conv1d(3, 4, 4, padding="same", dilation=2)
        self.strided = nn.Conv1d(4, 6, 3, stride=2, groups=2, bias=False)
        self.mirror = nn.Conv1d(6, 6, 3, padding=1, padding_mode="reflect")
        self.up = nn.ConvTranspose1d(6, 4, 4, stride=2, padding=1, output_padding=1)
        self.pool = nn.MaxPool1d(3, stride=1, padding=1)
        self.mean = nn.AvgPool1d(2, ceil_mode=True)
        self.one = nn.AdaptiveAvgPool1d(1)

    def forward(self, x):
        y = self.mirror(self.strided(F.relu(self.same(x), inplace=True)))
        z = self.up(self.pool(y))
        return z, self.mean(z), self.one(z).squeeze(-1), F.max_pool1d(z, 2), F.adaptive_max_pool1d(z, 1)


class StreamingConv(nn.Module):
    """BeatNet's kind of network: windows of features, Conv1d, max-pool, Linear, LSTM."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv1d(1, 2, 10)
        self.linear0 = nn.Linear(2 * ((24 - 9) // 2), 6)
        self.lstm = nn.LSTM(6, 6, 2, batch_first=True)
        self.linear = nn.Linear(6, 3)

    def forward(self, data):
        x = torch.reshape(data, (-1, 24)).unsqueeze(0).transpose(0, 1)
        x = F.max_pool1d(F.relu(self.conv1(x)), 2)
        x = x.view(-1, self.linear0.in_features)
        x = torch.reshape(self.linear0(x), (data.shape[0], data.shape[1], 6))
        return self.linear(self.lstm(x)[0]).transpose(1, 2)


class SortedByHand(nn.Module):
    """Rows sorted by length before packing, and put back behind."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x, lengths):
        ordered, order = lengths.sort(descending=True)
        packed = pack_padded_sequence(x[order], ordered, batch_first=True)
        _, h = self.gru(packed)
        _, back = order.sort()
        return h[-1][back]


class Projected(nn.Module):
    """Unbatched input and a projection."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 6, proj_size=2)

    def forward(self, x):
        out, (h, c) = self.lstm(x)
        return out, h, c


class SeveralInputs(nn.Module):
    """Two sequences and a vector: similarity of two encodings."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.LSTM(3, 4, batch_first=True)
        self.mix = nn.Bilinear(4, 2, 3)

    def forward(self, left, right, features):
        a, b = self.encoder(left)[1][0][-1], self.encoder(right)[1][0][-1]
        return F.cosine_similarity(a, b), self.mix(a - b, features), torch.exp(-torch.norm(a - b, 1, dim=1))


class OneHotChars(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(VOCABULARY, 5, batch_first=True)
        self.out = nn.Linear(5, VOCABULARY)

    def forward(self, tokens):
        x = F.one_hot(tokens, VOCABULARY).float()
        y, _ = self.rnn(x)
        values, indices = self.out(y).topk(3, dim=-1)
        return values, indices


class MaskFromIds(nn.Module):
    """Lengths counted in the graph; the mean over valid steps."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 4, padding_idx=0)
        self.gru = nn.GRU(4, 5, batch_first=True)

    def forward(self, tokens):
        mask = tokens.ne(0)
        out, _ = self.gru(self.embed(tokens))
        mask = mask.unsqueeze(2).type_as(out)
        return (out * mask).sum(1) / mask.sum(1).clamp(min=1)


class Interpolated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 4, batch_first=True)

    def forward(self, x):
        up = F.interpolate(x.transpose(1, 2), scale_factor=2, mode="nearest").transpose(1, 2)
        return self.gru(up)[0][:, ::2]


class TimeDistributed(nn.Module):
    """A convolution for each frame, frames as steps."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.pool = nn.AdaptiveAvgPool2d((1, 1))
        self.lstm = nn.LSTM(3, 4, batch_first=True)

    def forward(self, frames):
        b, t = frames.shape[:2]
        x = self.pool(torch.relu(self.conv(frames.view(b * t, *frames.shape[2:]))))
        return self.lstm(x.view(b, t, -1))[0][:, -1]


class FedAttention(nn.Module):
    """Teacher-forced decoder, whose context enters the next step: a loop that is no cell alone."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 4)
        self.cell = nn.LSTMCell(4 + 6, 5)
        self.query = nn.Linear(5, 6)
        self.out = nn.Linear(11, VOCABULARY)

    def forward(self, memory, target, lengths):
        b = memory.size(0)
        h, c, context = torch.zeros(b, 5), torch.zeros(b, 5), torch.zeros(b, 6)
        mask = torch.arange(memory.size(1)).unsqueeze(0) >= lengths.unsqueeze(1)
        embedded = self.embed(target)
        outputs = []
        for t in range(target.size(1)):
            h, c = self.cell(torch.cat([embedded[:, t], context], -1), (h, c))
            scores = torch.bmm(memory, self.query(h).unsqueeze(2)).squeeze(2)
            weights = scores.masked_fill(mask, -1e9).softmax(-1)
            context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
            outputs.append(self.out(torch.cat([h, context], 1)))
        return torch.stack(outputs, 1)


class LayersOfCells(nn.Module):
    """States in lists, a layer of cells inside each step, steps by unbind."""

    def __init__(self):
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(3, 4), nn.LSTMCell(4, 4)])
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        h = [x.new_zeros(x.size(0), 4) for _ in self.cells]
        c = [torch.zeros_like(one) for one in h]
        outputs = []
        for step in x.unbind(1):
            for i, cell in enumerate(self.cells):
                h[i], c[i] = cell(step, (h[i], c[i]))
                step = self.drop(h[i])
            outputs.append(step)
        return torch.stack(outputs).transpose(0, 1), torch.stack(h)


class BothWays(nn.Module):
    """Two loops, one backwards, from trained states."""

    def __init__(self):
        super().__init__()
        self.there, self.back = nn.GRUCell(3, 4), nn.GRUCell(3, 4)
        self.start = nn.Parameter(floats(1, 4))

    def forward(self, x):
        b, t = x.shape[:2]
        f, g = self.start.expand(b, -1), self.start.repeat(b, 1)
        one, two = [], []
        for i in range(t):
            f = self.there(x[:, i], f)
            one.append(f)
        for i in reversed(range(t)):
            g = self.back(x[:, i], g)
            two.append(g)
        return torch.cat([torch.stack(one, 1), torch.stack(two[::-1], 1)], -1)


class SteppedTimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, 2)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        h, outputs = None, []
        for step in x:
            y, h = self.gru(step.unsqueeze(0), h)
            outputs.append(self.fc(y[0]))
        return torch.stack(outputs), h


class Result(NamedTuple):
    logits: torch.Tensor
    state: torch.Tensor


class ClassicLM(nn.Module):
    """init_hidden from a weight, and a named tuple as result."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 4, 2)
        self.decoder = nn.Linear(4, 5)

    def init_hidden(self, rows):
        weight = next(self.parameters()).data
        return weight.new(2, rows, 4).zero_(), weight.new_zeros(2, rows, 4)

    def forward(self, x):
        self.rnn.flatten_parameters()
        y, state = self.rnn(x, self.init_hidden(x.size(1)))
        decoded = self.decoder(y.view(y.size(0) * y.size(1), y.size(2)))
        return Result(decoded.view(y.size(0), y.size(1), decoded.size(1)), state[0])


class Greedy(nn.Module):
    """A fixed number of steps, each fed with the best of the one before."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 4)
        self.cell = nn.GRUCell(4, 5)
        self.out = nn.Linear(5, VOCABULARY)

    def forward(self, h):
        token = torch.full((h.size(0),), 1, dtype=torch.long)
        outputs = []
        for _ in range(4):
            h = self.cell(self.embed(token), h)
            token = self.out(h).argmax(-1)
            outputs.append(token)
        return torch.stack(outputs, 1), h


class ByForward(nn.Module):
    """Modules called by their forward, an input changed in place, roots of sizes."""

    def __init__(self):
        super().__init__()
        self.lstm, self.fc = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        x.mul_(2)
        y = self.fc.forward(self.lstm.forward(x)[0])
        return y / math.sqrt(x.size(1)) + x.size(0) ** 0.5


class GreedyLSTM(nn.Module):
    """A decoder of four steps, whose cell state begins as zeros_like of a state that is given."""

    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.LSTMCell(5, 5), nn.Linear(5, 5)

    def forward(self, h):
        c, y, outputs = torch.zeros_like(h), h, []
        for _ in range(4):
            h, c = self.cell(y, (h, c))
            y = self.out(h)
            outputs.append(y)
        return torch.stack(outputs, 1)


def randomize(module):
    """Parameters and statistics that are not what a fresh module has."""
    generator = torch.Generator().manual_seed(3)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.dtype.is_floating_point and tensor.ndim == 1:
            drawn = torch.randn(tensor.shape, generator=generator) * 0.3
            tensor.data.copy_(drawn.abs() + 0.5 if "var" in name or "weight" in name else drawn)


def lengths(*values):
    return torch.tensor(values)


PADDED = (ids(3, 6), lengths(6, 4, 2))
RAGGED = (floats(3, 6, 3), lengths(2, 6, 4))

MODULES = {
    "tagger": (Tagger, (ids(2, 7),)),
    "packed encoder": (PackedEncoder, PADDED),
    "packed encoder, sorted": (lambda: PackedEncoder(True), PADDED),
    "packed sequence out": (PackedSequenceOut, (floats(3, 6, 3), lengths(2, 5, 4))),
    "packed time first": (lambda: PackedSequenceOut(False), (floats(6, 3, 3), lengths(2, 5, 4))),
    "packed, total length": (lambda: PackedSequenceOut(total=True), (floats(3, 6, 3), lengths(2, 5, 4))),
    "packed, padding value": (lambda: PackedSequenceOut(value=-7.0), RAGGED),
    "mixed layouts": (MixedLayouts, RAGGED),
    "last valid step": (LastValidStep, RAGGED),
    "self-attention": (SelfAttention, RAGGED),
    "seq2seq encoder": (Seq2SeqEncoder, (ids(6, 3),)),
    "attention step": (AttentionStep, (ids(3), floats(3, 6), floats(5, 3, 8))),
    "crnn": (CRNN, (floats(2, 1, 8, 12),)),
    "char lm": (CharLM, (ids(5, 3), (floats(2, 3, 6), floats(2, 3, 6)))),
    "optional state, absent": (OptionalState, (floats(3, 5, 3),)),
    "optional state, given": (OptionalState, (floats(3, 5, 3), floats(2, 3, 4))),
    "learned state": (LearnedState, (floats(3, 5, 3),)),
    "computed state": (ComputedState, (floats(3, 6), ids(3, 5))),
    "states by layer": (StatesByLayer, (floats(3, 5, 3),)),
    "residual stack": (ResidualStack, (floats(3, 5, 4),)),
    "weight norm": (WeightNormed, (floats(2, 6, 3),)),
    "cell loop": (CellLoop, (floats(2, 5, 3),)),
    "gru cell loop": (lambda: CellLoop(nn.GRUCell), (floats(2, 5, 3),)),
    "two cells": (TwoCells, (ids(5, 2),)),
    "backward loop": (BackwardLoop, (floats(2, 5, 3),)),
    "stored outputs": (StoredOutputs, (floats(2, 5, 3),)),
    "stepped stack": (SteppedStack, (floats(2, 5, 3), floats(2, 2, 4), floats(2, 2, 4) + 1)),
    "gated loop": (GatedLoop, (floats(2, 5, 3), lengths(5, 3))),
    "own cell": (OwnCell, (floats(2, 5, 3),)),
    "speaker": (Speaker, (floats(2, 9, 40),)),
    "multi-head": (MultiHead, (floats(2, 5, 4), torch.tensor([[False] * 5, [False] * 3 + [True] * 2]))),
    "arithmetic": (Arithmetic, (floats(2, 5, 4),)),
    "shapes": (Shapes, (floats(2, 5, 4),)),
    "sizes": (Sizes, (floats(2, 6, 4),)),
    "activations": (Activations, (floats(2, 5, 4),)),
    "norms": (Norms, (floats(2, 7, 6),)),
    "convolutions": (Convolutions, (floats(2, 3, 12),)),
    "streaming conv": (StreamingConv, (floats(2, 5, 24),)),
    "sorted by hand": (SortedByHand, RAGGED),
    "projected": (Projected, (floats(7, 3),)),
    "several inputs": (SeveralInputs, (floats(2, 5, 3), floats(2, 4, 3), floats(2, 2))),
    "one-hot chars": (OneHotChars, (ids(2, 5),)),
    "mask from ids": (MaskFromIds, (ids(3, 6),)),
    "interpolated": (Interpolated, (floats(2, 5, 4),)),
    "fed attention": (FedAttention, (floats(2, 4, 6), ids(2, 5), lengths(4, 2))),
    "layers of cells": (LayersOfCells, (floats(2, 5, 3),)),
    "both ways": (BothWays, (floats(2, 5, 3),)),
    "stepped time first": (SteppedTimeFirst, (floats(5, 2, 3),)),
    "classic lm": (ClassicLM, (floats(5, 2, 3),)),
    "greedy": (Greedy, (floats(3, 5),)),
    "greedy lstm": (GreedyLSTM, (floats(3, 5),)),
    "by forward": (ByForward, (floats(2, 5, 3),)),
    "time distributed": (TimeDistributed, (floats(2, 3, 1, 6, 6),)),
}


class Refused(nn.Module):
    """One line of forward has no place in a graph: the one marked so."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.cell = nn.GRUCell(3, 4)
        self.bag = nn.EmbeddingBag(VOCABULARY, 4)
        self.hidden = None
        self.hooked = nn.Linear(3, 3)
        self.hooked.register_forward_hook(lambda module, args, output: output * 2)


class BranchOnData(Refused):
    def forward(self, x):
        if x.sum() > 0:  # refused
            x = -x
        return self.lstm(x)[0]


class BranchOnSize(Refused):
    def forward(self, x):
        if x.size(1) % 3 == 2:  # refused
            x = x[:, :5]
        return self.lstm(x)[0]


class LoopOnData(Refused):
    def forward(self, x, lengths):
        h = x.new_zeros(x.size(0), 4)
        for t in range(lengths.max()):  # refused
            h = self.cell(x[:, t], h)
        return h


class MaskIndex(Refused):
    def forward(self, x):
        return x[x > 0]  # refused


class Transformed(Refused):
    def forward(self, x):
        return torch.fft.ifft(x).abs()  # refused


class Bag(Refused):
    def forward(self, tokens):
        return self.bag(tokens)  # refused


class Noisy(Refused):
    def forward(self, x):
        return self.lstm(x + torch.randn_like(x))[0]  # refused


class DropoutAlwaysOn(Refused):
    def forward(self, x):
        return F.dropout(self.lstm(x)[0], 0.5)  # refused


class LeavesTorch(Refused):
    def forward(self, x):
        return torch.from_numpy(x.numpy() * 2)  # refused


class PackedData(Refused):
    def forward(self, x, lengths):
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return packed.data * 2  # refused


class Hooked(Refused):
    def forward(self, x):
        return self.hooked(x)  # refused


class GrowingList(Refused):
    def forward(self, x):
        outputs = [x[:, 0]]
        for t in range(1, x.size(1)):
            outputs.append(torch.stack(outputs, 1).mean(1) + x[:, t])  # refused
        return outputs[-1]


class ListOfSteps(Refused):
    def forward(self, x):
        h, outputs = x.new_zeros(x.size(0), 4), []
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)  # refused
            outputs.append(h)
        return outputs


class Sorting(Refused):
    def forward(self, x):
        return torch.median(x, dim=1)  # refused


REFUSED = {
    BranchOnData: ((floats(2, 4, 3),), "a condition of a tensor's content"),
    BranchOnSize: ((floats(2, 4, 3),), "a branch that depends on the size"),
    LoopOnData: ((floats(2, 4, 3), lengths(4, 2)), "an integer of a tensor's content"),
    MaskIndex: ((floats(2, 4, 3),), "a mask as index, whose result has no fixed size, expected torch.where"),
    Transformed: ((floats(2, 4, 3),), "fft_ifft is not supported, expected one of"),
    Bag: ((ids(2, 4),), r"module 'bag' \(EmbeddingBag\) is not supported, expected one of"),
    Noisy: ((floats(2, 4, 3),), "randn_like, which is random"),
    DropoutAlwaysOn: ((floats(2, 4, 3),), "dropout at inference, expected training=self.training"),
    LeavesTorch: ((floats(2, 4, 3),), "numpy, which leaves torch"),
    PackedData: ((floats(2, 4, 3), lengths(4, 2)), "the attribute 'data' of a PackedSequence"),
    Hooked: ((floats(2, 4, 3),), r"module 'hooked' \(Linear\): has forward hooks"),
    GrowingList: ((floats(2, 4, 3),), "takes a list that grows"),
    ListOfSteps: ((floats(2, 4, 3),), "a list with one tensor for each step is returned"),
    Sorting: ((floats(2, 4, 3),), "median is not supported"),
}
