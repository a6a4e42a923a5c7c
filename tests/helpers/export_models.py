"""Modules of the kinds that torch's own tests of its ONNX exporter have, small, and functions of tensors in one line.

MODELS: name -> function that makes (module, arguments). EXPRESSIONS: what a forward of x (B, T, 4), y (B, 4) and
ids (B, T) returns.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

__all__ = ["EXPRESSIONS", "MODELS", "of_expression"]


class Generator(nn.Module):
    """Images out of noise."""

    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(6, 8, 4, 1, 0, bias=False), nn.BatchNorm2d(8), nn.ReLU(True),
            nn.ConvTranspose2d(8, 4, 4, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(True),
            nn.ConvTranspose2d(4, 3, 4, 2, 1, bias=False), nn.Tanh(),
        )  # fmt: skip

    def forward(self, noise):
        return self.main(noise)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(3, 4, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(4, 8, 4, 2, 1, bias=False), nn.BatchNorm2d(8), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(8, 1, 4, 1, 0, bias=False), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, image):
        return self.main(image).view(-1, 1)


class Digits(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 5), nn.Conv2d(4, 6, 5)
        self.drop = nn.Dropout2d()
        self.fc1, self.fc2 = nn.Linear(6 * 16, 10), nn.Linear(10, 5)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.drop(self.conv2(x)), 2))
        x = F.dropout(F.relu(self.fc1(x.view(-1, 6 * 16))), training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


class Fire(nn.Module):
    def __init__(self, inputs, squeezed, expanded):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.one, self.three = nn.Conv2d(squeezed, expanded, 1), nn.Conv2d(squeezed, expanded, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.act(self.squeeze(x))
        return torch.cat([self.act(self.one(x)), self.act(self.three(x))], 1)


class Squeezed(nn.Module):
    """Fire modules, pools that round up, the mean of the whole image."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, ceil_mode=True),
            Fire(6, 3, 4), nn.MaxPool2d(3, 2, ceil_mode=True), Fire(8, 3, 4),
        )  # fmt: skip
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(8, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d((1, 1)))

    def forward(self, x):
        return torch.flatten(self.classifier(self.features(x)), 1)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.PReLU()
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        return x + self.bn2(self.conv2(self.act(self.bn1(self.conv1(x)))))


class Upscaled(nn.Module):
    """Residual blocks, then channels shuffled into pixels."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 9, padding=4), nn.PReLU())
        self.blocks = nn.Sequential(Residual(), Residual())
        self.up = nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.PixelShuffle(2), nn.PReLU())
        self.last = nn.Conv2d(4, 3, 9, padding=4)

    def forward(self, x):
        x = self.first(x)
        return self.last(self.up(x + self.blocks(x)))


class SubPixel(nn.Module):
    def __init__(self, upscale=3):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 5, 1, 2), nn.Conv2d(4, upscale**2, 3, 1, 1)
        self.shuffle = nn.PixelShuffle(upscale)

    def forward(self, x):
        return self.shuffle(self.conv2(torch.relu(self.conv1(x))))


class Flattened(nn.LSTM):
    """An LSTM whose results are side by side."""

    def forward(self, x, *args):
        y, (h, c) = super().forward(x, *args)
        return y, h, c


class PackedInside(nn.Module):
    def __init__(self, module, batch_first, states=0):
        super().__init__()
        self.module, self.batch_first, self.states = module, batch_first, states

    def forward(self, x, lengths, *states):
        packed = pack_padded_sequence(x, lengths, batch_first=self.batch_first)
        given = () if not states else (states[0],) if len(states) == 1 else (tuple(states),)
        y, after = self.module(packed, *given)
        y, lengths = pad_packed_sequence(y, batch_first=self.batch_first)
        return y, after, lengths


class WordModel(nn.Module):
    """A language model as the tutorial has it, with a state of its own kind."""

    def __init__(self, kind, tied=False):
        super().__init__()
        self.kind, self.drop, self.encoder = kind, nn.Dropout(0.5), nn.Embedding(11, 6)
        if kind in ("LSTM", "GRU"):
            self.rnn = getattr(nn, kind)(6, 6, 2, dropout=0.5)
        else:
            self.rnn = nn.RNN(6, 6, 2, nonlinearity={"RNN_TANH": "tanh", "RNN_RELU": "relu"}[kind], dropout=0.5)
        self.decoder = nn.Linear(6, 11)
        if tied:
            self.decoder.weight = self.encoder.weight

    def forward(self, ids, hidden=None):
        if hidden is None:
            weight = next(self.parameters())
            hidden = weight.new_zeros(2, ids.size(1), 6)
            hidden = (hidden, weight.new_zeros(2, ids.size(1), 6)) if self.kind == "LSTM" else hidden
        y, hidden = self.rnn(self.drop(self.encoder(ids)), hidden)
        y = self.drop(y)
        decoded = self.decoder(y.view(y.size(0) * y.size(1), y.size(2)))
        return decoded.view(y.size(0), y.size(1), decoded.size(1)), hidden


class Concatenated(nn.Module):
    def forward(self, inputs):
        return torch.cat(inputs, 1)


class Turned(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)

    def forward(self, x):
        y = self.conv(x)
        return y.view(y.shape[0], 1, y.shape[1] * y.shape[2], y.shape[3]).permute(0, 3, 1, 2)


class Decoded(nn.Module):
    """Attention over an encoder, by LSTMCells, fed by its own choice."""

    def __init__(self):
        super().__init__()
        self.encoder, self.cell = nn.GRU(4, 6, batch_first=True), nn.LSTMCell(6 + 3, 6)
        self.embed, self.out = nn.Embedding(7, 3), nn.Linear(6, 7)

    def forward(self, x):
        memory, h = self.encoder(x)
        h, c = h[0], torch.zeros_like(h[0])
        word, steps = torch.zeros(x.size(0), dtype=torch.long), []
        for _ in range(3):
            weights = torch.softmax(torch.bmm(memory, h.unsqueeze(2)).squeeze(2), 1)
            context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
            h, c = self.cell(torch.cat([context, self.embed(word)], 1), (h, c))
            scores = self.out(h)
            word = scores.argmax(1)
            steps.append(scores)
        return torch.stack(steps, 1)


class Quantized(nn.Module):
    def __init__(self):
        super().__init__()
        self.fake = torch.ao.quantization.FakeQuantize()
        self.fake.disable_observer()

    def forward(self, x):
        return self.fake(x)


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


LENGTHS = torch.tensor([5, 4, 2])

MODELS = {
    "generator": lambda: (Generator(), (drawn(2, 6, 1, 1),)),
    "discriminator": lambda: (Discriminator(), (drawn(2, 3, 16, 16),)),
    "digits": lambda: (Digits(), (drawn(2, 1, 28, 28),)),
    "squeezed": lambda: (Squeezed(), (drawn(2, 3, 33, 33),)),
    "upscaled": lambda: (Upscaled(), (drawn(2, 3, 8, 8),)),
    "sub-pixel": lambda: (SubPixel(), (drawn(2, 1, 6, 6),)),
    "flattened": lambda: (Flattened(4, 3, 2), (drawn(5, 3, 4),)),
    "flattened, with states": lambda: (
        Flattened(4, 3, bidirectional=True), (drawn(5, 3, 4), (drawn(2, 3, 3), drawn(2, 3, 3)))),
    "concatenated": lambda: (Concatenated(), ((drawn(2, 3, 4), drawn(2, 5, 4)),)),
    "turned": lambda: (Turned(), (drawn(2, 1, 8, 9),)),
    "decoded": lambda: (Decoded(), (drawn(2, 5, 4),)),
    "quantized": lambda: (Quantized(), (drawn(2, 5, 4),)),
    **{
        f"word model, {kind}, tied {tied}, state {given}": lambda kind=kind, tied=tied, given=given: (
            WordModel(kind, tied),
            (
                torch.arange(15).reshape(5, 3) % 11,
                *([(drawn(2, 3, 6), drawn(2, 3, 6)) if kind == "LSTM" else drawn(2, 3, 6)] if given else []),
            ),
        )
        for kind in ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")
        for tied in (False, True)
        for given in (False, True)
    },
    **{
        f"packed {kind}, {layers} layers, {'both' if both else 'one'}, batch first {first}, states {given}": (
            lambda kind=kind, layers=layers, both=both, first=first, given=given: (
                PackedInside(getattr(nn, kind)(4, 3, layers, bidirectional=both, batch_first=first), first),
                (
                    drawn(*((3, 5) if first else (5, 3)), 4),
                    LENGTHS,
                    *(drawn(layers * (1 + both), 3, 3) for _ in range(given * (1 + (kind == "LSTM")))),
                ),
            )
        )
        for kind in ("LSTM", "GRU", "RNN")
        for layers in (1, 2)
        for both in (False, True)
        for first in (False, True)
        for given in (0, 1)
    },
}  # fmt: skip

EXPRESSIONS = [line.strip() for line in """
x.roll(1, 1)
x.roll((1, 2), (0, 2))
x.flip(0, 1)
x.tril()
torch.triu(x @ x.transpose(1, 2), 1)
x.cumsum(1).cumprod(2)
x.sort(1, descending=True)
x.topk(2, 2)
x.median(2)
x.kthvalue(2, 2)
x.var(1), x.std((1, 2)), torch.var_mean(x, 2)
x.norm(), x.norm(2, 1), torch.linalg.norm(x, dim=2), torch.linalg.vector_norm(x, 1)
x.logsumexp(1), x.prod(2), x.amin((0, 1)), x.aminmax()
x.argmax(), x.argmin(1, keepdim=True)
x.any(), x.all(1), (x > 0).sum(), (x > 0).any(2)
x.unbind(2)[1], x.split(2, 2)[0], x.tensor_split(2, 2)[1], x.chunk(2, 2)
torch.stack(x.unbind(0))
x.gather(2, (ids % 4).unsqueeze(2))
x.scatter(2, (ids % 4).unsqueeze(2), 1.5)
x.scatter_add(2, (ids % 4).unsqueeze(2), x)
x.index_select(2, torch.tensor([3, 0]))
x.index_fill(2, torch.tensor([1]), 2.0)
x.masked_fill(x > 0, -1.0), x.masked_select(x > 0)
x.take(torch.tensor([0, 3])), torch.take_along_dim(x, x.argsort(1), 1)
x[:, :, [0, 2]], x[..., -1], x[:, None], x[:, -2:], x[:, 1:-1:2]
x[torch.arange(x.size(0)), 0], x[x > 0]
x.new_tensor([1.0, 2.0]) + x.size(1)
x.repeat(1, 2, 1), x.tile(2), x.repeat_interleave(2, 1)
x.expand(3, *x.shape), x.expand_as(x), x.broadcast_to((2, *x.shape))
x.view(x.size(0), -1), x.reshape(-1, 2), x.flatten(), x.flatten(1), x.unflatten(2, (2, 2))
x.squeeze(), x.squeeze(0), x.unsqueeze(-1), x.movedim(0, 2), x.permute(2, 0, 1), x.transpose(0, 1), x.mT
x.contiguous().as_strided((2, 2), (1, 2))
x.diagonal(0, 1, 2), torch.diag(y[0]), torch.diag_embed(y)
torch.meshgrid(x[0, :, 0], y[0], indexing="ij")
torch.cartesian_prod(x[0, :, 0], y[0])
torch.einsum("bti,bi->bt", x, y), torch.tensordot(x, y, ([2], [1])), torch.outer(y[0], y[0])
torch.cdist(x, x), F.pairwise_distance(y, y + 1), F.cosine_similarity(x, x + 1, dim=2)
torch.baddbmm(x @ x.transpose(1, 2), x, x.transpose(1, 2)), torch.addmm(y[0], y, torch.ones(4, 4)), y.addcmul(y, y)
torch.where(x > 0, x, 0.0), x.where(x > 0, y[:, None]), torch.lerp(x, x + 1, 0.3), x.clamp(min=0)
x.nan_to_num(), torch.isnan(x), torch.isinf(x), torch.isfinite(x), torch.isclose(x, x + 1)
x.fmod(0.3), x.remainder(0.3), x // 0.5, x % 0.5, x.floor_divide(2), x.trunc(), x.frac(), x.round(decimals=1)
x.sign(), x.sgn(), x.abs().log2(), x.abs().log10(), x.abs().log1p(), x.expm1(), x.abs().rsqrt(), x.exp2()
x.sin(), x.atan(), torch.atan2(x, x + 1), x.sinh(), x.asinh(), torch.hypot(x, x), x.erf(), x.erfc(), x.deg2rad()
torch.logaddexp(x, -x), torch.xlogy(x.abs(), x.abs()), x.abs() ** 0.5, 2.0 ** x, x.abs().pow(x), x.square(), x.sinc()
torch.maximum(x, -x), torch.fmax(x, -x), torch.heaviside(x, x), torch.copysign(x, -x), torch.sigmoid(x).logit()
F.softmax(x, 1), F.log_softmax(x, -1), F.softmin(x, 1), F.gumbel_softmax(x), F.normalize(x, dim=1), F.softsign(x)
F.glu(x), F.gelu(x), F.silu(x), F.mish(x), F.hardtanh(x), F.threshold(x, 0.1, 2.0), F.rrelu(x), F.tanhshrink(x)
F.hardshrink(x), F.softshrink(x), F.celu(x, 0.5), F.prelu(x.transpose(1, 2), torch.tensor([0.2]))
F.pad(x, (1, 2)), F.pad(x, (1, 1, 0, 2), value=3.0), F.pad(x, (1, 1), mode="reflect"), F.pad(x, (0, -1))
F.one_hot(ids, 9), F.embedding(ids, torch.ones(9, 3)), F.embedding_bag(ids, torch.ones(9, 3))
F.interpolate(x, scale_factor=2.0), F.interpolate(x, size=7, mode="linear"), F.interpolate(x.unsqueeze(1), (6, 6))
F.avg_pool1d(x, 2), F.max_pool1d(x, 2, 1), F.adaptive_avg_pool1d(x, 2), F.lp_pool1d(x, 2, 2)
F.adaptive_max_pool1d(x, 1)
F.conv1d(x.transpose(1, 2), torch.ones(5, 4, 2)), F.conv_transpose1d(x.transpose(1, 2), torch.ones(4, 5, 2))
F.unfold(x.unsqueeze(1), (2, 2)), x.unfold(1, 2, 1)
F.layer_norm(x, (4,)), F.group_norm(x.transpose(1, 2), 2), F.instance_norm(x), F.local_response_norm(x, 2)
F.batch_norm(x.transpose(1, 2), torch.zeros(4), torch.ones(4)), F.rms_norm(x, (4,))
F.linear(x, torch.ones(3, 4), torch.ones(3)), F.bilinear(y, y, torch.ones(3, 4, 4))
F.pixel_shuffle(x.unsqueeze(0), 1)
F.mse_loss(x, x + 1), F.cross_entropy(y, ids[:, 0] % 4), F.nll_loss(y, ids[:, 0] % 4), F.smooth_l1_loss(x, x + 1)
F.binary_cross_entropy_with_logits(x, x.sigmoid()), F.kl_div(x, x.softmax(2)), F.triplet_margin_loss(y, y + 1, y - 1)
F.scaled_dot_product_attention(x, x, x), F.scaled_dot_product_attention(x, x, x, is_causal=True)
torch.zeros(x.shape), torch.ones_like(x), torch.full((x.size(0), 2), 3.0), torch.empty_like(x).fill_(1.0)
torch.arange(x.size(1)), torch.arange(0, x.size(1), 2), torch.linspace(0, 1, 5), torch.eye(x.size(1)), torch.eye(4)
torch.tensor(x.size(1)), torch.as_tensor([1, x.size(0)]), torch.scalar_tensor(2.0) * x, x.numel(), torch.numel(x)
x.size(0) * y, x.shape[1] + y, len(x) * y, x.dim() * y, torch.Size((2, 3)), x.shape
x.to(torch.float64), x.double().float(), x.long(), x.bool(), x.half(), x.type(torch.int32), x.type_as(ids)
ids.float()
ids & 3, ids | 1, ids ^ 2, ~ids, ids << 1, ids >> 1, ids // 2, ids % 3, -ids, ids.abs(), ids * 1.5, ids / 2, ids ** 2
ids.unique(), ids.bincount(), (ids > 2).nonzero(), ids.histc(4), torch.bucketize(x, torch.tensor([0.0, 1.0]))
torch.searchsorted(torch.tensor([0.0, 1.0]), x), torch.histc(x, 4), torch.quantile(x, 0.5, 1), x.renorm(2, 1, 1.0)
torch.fft.rfft(x, dim=1).abs(), torch.fft.fft(x).real, torch.stft(x[:, :, 0], 4, return_complex=True).abs()
x.view(-1).stft
torch.complex(x, x), x.is_complex(), x.is_floating_point(), torch.is_tensor(x), x.device, x.dtype, x.requires_grad
torch.det(x @ x.transpose(1, 2)), torch.inverse(x[:, :4, :4] @ x[:, :4].mT), torch.linalg.qr(y)
torch.trace(y[:4, :4])
torch.block_diag(y, y), torch.kron(y, y), torch.combinations(y[0]), torch.vander(y[0])
torch.cross(x[..., :3], x[..., 1:], 2)
torch.bernoulli(x.sigmoid()), torch.rand_like(x), torch.randn(2) + y[0, 0], torch.multinomial(y.softmax(1), 1)
F.dropout(x)
x.clone().add_(1).mul_(2), x.clone().zero_(), x.clone().clamp_(0, 1), x.clone().fill_diagonal_(0)
x.clone().copy_(x + 1)
x.detach().requires_grad_(), x.data, x.cpu(), x.pin_memory(), x.cuda() if torch.cuda.is_available() else x
x.to("cpu")
x.numpy(), x.tolist(), x.sum().item() * y, float(x.sum()), int(ids.sum()), bool(x.sum() > 0), y if x.sum() > 0 else -y
[one.sum() for one in x], {"a": x, "b": y}, (x, [y, (x,)]), None, x.sum, "text", 3, torch.nn.Linear(4, 2)(x)
torch.nested.nested_tensor([x[0]]), torch.sparse_coo_tensor((2, 2)), x.to_sparse(), x.names, x.rename("a", "b", "c")
torch.jit.annotate(torch.Tensor, x), torch.jit.script(F.relu)(x), torch.compile(F.relu)(x), torch.ops.aten.relu(x)
torch.vmap(torch.sin)(x), torch.func.grad(torch.sum)(x), torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))
torch.split(x, [1, 3], 2)
""".strip().splitlines()]  # fmt: skip


class _Expression(nn.Module):
    expression = "x"

    def forward(self, x, y, ids):
        return eval(self.expression, {"torch": torch, "F": F, "nn": nn, "x": x, "y": y, "ids": ids})


def of_expression(text):
    """A module whose forward returns an expression, and its arguments."""
    module = _Expression()
    module.expression = text
    return module, (drawn(3, 5, 4), drawn(3, 4), torch.arange(15).reshape(3, 5) % 9)


def single(text):
    """The parts of a line that are separated by commas outside of brackets."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]
