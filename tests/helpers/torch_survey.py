"""Small networks as tutorials and papers' code have them: what from_torch meets. Each with an example of any size."""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch_modules import floats, ids, lengths, randomize

__all__ = ["SURVEY"]

V, E, H = 13, 5, 6
SURVEY = {}


def network(make):
    """Puts a class under its name into SURVEY; make(rows, steps) gives the arguments of its forward."""

    def remember(kind):
        SURVEY[kind.__name__] = (kind, make)
        return kind

    return remember


def tokens(b, t):
    return (ids(b, t),)


def features(b, t):
    return (floats(b, t, E),)


def signal(b, t):
    return (floats(b, 16 * t + 16),)


def ragged(b, t):
    return floats(b, t, E), lengths(*(max(1, t - 2 * i) for i in range(b)))


def ragged_tokens(b, t):
    return ids(b, t), lengths(*(max(1, t - 2 * i) for i in range(b)))


# --- sequence to sequence --------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Additive, as in the tutorials."""

    def __init__(self):
        super().__init__()
        self.Wa, self.Ua, self.Va = nn.Linear(H, H), nn.Linear(H, H), nn.Linear(H, 1)

    def forward(self, query, keys):
        scores = self.Va(torch.tanh(self.Wa(query) + self.Ua(keys))).squeeze(2).unsqueeze(1)
        weights = F.softmax(scores, dim=-1)
        return torch.bmm(weights, keys), weights


@network(lambda b, t: (ids(b, t), ids(b, t + 1)))
class TutorialSeq2Seq(nn.Module):
    """Encoder GRU, decoder GRU with Bahdanau attention and teacher forcing, outputs and attentions collected."""

    def __init__(self):
        super().__init__()
        self.src, self.trg = nn.Embedding(V, E), nn.Embedding(V, E)
        self.encoder = nn.GRU(E, H, batch_first=True)
        self.attention = Attention()
        self.gru = nn.GRU(E + H, H, batch_first=True)
        self.out = nn.Linear(H, V)
        self.dropout = nn.Dropout(0.1)

    def step(self, token, hidden, memory):
        embedded = self.dropout(self.trg(token))
        context, weights = self.attention(hidden.permute(1, 0, 2), memory)
        output, hidden = self.gru(torch.cat((embedded, context), dim=2), hidden)
        return self.out(output), hidden, weights

    def forward(self, source, target):
        memory, hidden = self.encoder(self.dropout(self.src(source)))
        outputs, attentions = [], []
        token = torch.zeros(source.size(0), 1, dtype=torch.long)
        for i in range(target.size(1)):
            output, hidden, weights = self.step(token, hidden, memory)
            outputs.append(output)
            attentions.append(weights)
            token = target[:, i].unsqueeze(1)
        return F.log_softmax(torch.cat(outputs, dim=1), dim=-1), hidden, torch.cat(attentions, dim=1)


@network(lambda b, t: (ids(t, b), ids(t + 2, b)))
class BentrevettSeq2Seq(nn.Module):
    """outputs[t] = output over range(1, trg_len), time first, teacher forcing by a ratio of 0."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(V, E)
        self.encoder = nn.LSTM(E, H, 2, dropout=0.5)
        self.decoder = nn.LSTM(E, H, 2, dropout=0.5)
        self.fc_out = nn.Linear(H, V)

    def forward(self, src, trg, teacher_forcing_ratio=0):
        trg_len, batch_size = trg.shape
        outputs = torch.zeros(trg_len, batch_size, V).to(src.device)
        _, (hidden, cell) = self.encoder(self.embed(src))
        token = trg[0, :]
        for t in range(1, trg_len):
            output, (hidden, cell) = self.decoder(self.embed(token.unsqueeze(0)), (hidden, cell))
            prediction = self.fc_out(output.squeeze(0))
            outputs[t] = prediction
            teacher_force = torch.rand(1).item() < teacher_forcing_ratio
            top1 = prediction.argmax(1)
            token = trg[t] if teacher_force else top1
        return outputs


@network(lambda b, t: (*ragged_tokens(b, t), ids(b, 5)))
class PackedSeq2Seq(nn.Module):
    """Packed encoder, Luong attention with a mask, an LSTMCell decoder."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(V, E)
        self.encoder = nn.LSTM(E, H // 2, batch_first=True, bidirectional=True)
        self.cell = nn.LSTMCell(E + H, H)
        self.combine, self.out = nn.Linear(2 * H, H), nn.Linear(H, V)

    def forward(self, source, lengths, target):
        packed = pack_padded_sequence(self.embed(source), lengths, batch_first=True, enforce_sorted=False)
        memory, (h, c) = self.encoder(packed)
        memory, _ = pad_packed_sequence(memory, batch_first=True)
        h, c = torch.cat([h[0], h[1]], 1), torch.cat([c[0], c[1]], 1)
        mask = torch.arange(memory.size(1)).unsqueeze(0) < lengths.unsqueeze(1)
        fed, logits = torch.zeros_like(h), []
        for token in self.embed(target).unbind(1):
            h, c = self.cell(torch.cat([token, fed], 1), (h, c))
            scores = torch.bmm(memory, h.unsqueeze(2)).squeeze(2).masked_fill(~mask, -1e9)
            context = torch.bmm(torch.softmax(scores, 1).unsqueeze(1), memory).squeeze(1)
            fed = torch.tanh(self.combine(torch.cat([h, context], 1)))
            logits.append(self.out(fed))
        return torch.stack(logits, 1)


@network(lambda b, t: (floats(b, t, H), ids(b, t + 1)))
class Captioner(nn.Module):
    """Show, attend and tell: a gate over the context, predictions and alphas written into zeros."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(V, E)
        self.enc, self.dec, self.full = nn.Linear(H, 4), nn.Linear(H, 4), nn.Linear(4, 1)
        self.init_h, self.init_c = nn.Linear(H, H), nn.Linear(H, H)
        self.f_beta, self.fc = nn.Linear(H, H), nn.Linear(H, V)
        self.step = nn.LSTMCell(E + H, H)

    def forward(self, image, captions):
        words = self.embedding(captions)
        mean = image.mean(dim=1)
        h, c = self.init_h(mean), self.init_c(mean)
        predictions = torch.zeros(image.size(0), captions.size(1) - 1, V)
        alphas = torch.zeros(image.size(0), captions.size(1) - 1, image.size(1))
        for t in range(captions.size(1) - 1):
            att = self.full(torch.relu(self.enc(image) + self.dec(h).unsqueeze(1))).squeeze(2)
            alpha = torch.softmax(att, dim=1)
            context = (image * alpha.unsqueeze(2)).sum(dim=1) * torch.sigmoid(self.f_beta(h))
            h, c = self.step(torch.cat([words[:, t, :], context], dim=1), (h, c))
            predictions[:, t, :] = self.fc(h)
            alphas[:, t, :] = alpha
        return predictions, alphas


@network(lambda b, t: (floats(b, t, H), floats(b, 4, 3)))
class LocationAttention(nn.Module):
    """Tacotron's decoder: cumulative weights, a convolution over them, a stop token."""

    def __init__(self):
        super().__init__()
        self.prenet = nn.Sequential(nn.Linear(3, E), nn.ReLU(), nn.Dropout(0.5))
        self.attention_rnn, self.decoder_rnn = nn.LSTMCell(E + H, H), nn.LSTMCell(2 * H, H)
        self.query, self.memory_layer, self.v = nn.Linear(H, 4), nn.Linear(H, 4), nn.Linear(4, 1, bias=False)
        self.conv, self.dense = nn.Conv1d(2, 3, 3, padding=1, bias=False), nn.Linear(3, 4, bias=False)
        self.mel, self.gate = nn.Linear(2 * H, 3), nn.Linear(2 * H, 1)

    def forward(self, memory, frames):
        b, t = memory.size(0), memory.size(1)
        ah = ac = dh = dc = memory.new_zeros(b, H)
        weights = total = memory.new_zeros(b, t)
        context, processed = memory.new_zeros(b, H), self.memory_layer(memory)
        mels, gates, alignments = [], [], []
        for frame in self.prenet(frames).unbind(1):
            ah, ac = self.attention_rnn(torch.cat((frame, context), -1), (ah, ac))
            both = torch.cat((weights.unsqueeze(1), total.unsqueeze(1)), dim=1)
            location = self.dense(self.conv(both).transpose(1, 2))
            energies = self.v(torch.tanh(self.query(ah.unsqueeze(1)) + location + processed)).squeeze(-1)
            weights = F.softmax(energies, dim=1)
            total = total + weights
            context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
            dh, dc = self.decoder_rnn(torch.cat((ah, context), -1), (dh, dc))
            out = torch.cat((dh, context), dim=1)
            mels.append(self.mel(out))
            gates.append(self.gate(out).squeeze(1))
            alignments.append(weights)
        return torch.stack(mels, 2), torch.stack(gates, 1), torch.stack(alignments).transpose(0, 1)


@network(lambda b, t: (floats(b, t, E), ids(b, 4)))
class Transducer(nn.Module):
    """RNN-T: encoder, predictor and joiner over the square of both."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.LSTM(E, H, batch_first=True, bidirectional=True)
        self.embed, self.predictor = nn.Embedding(V, E), nn.GRU(E, H, batch_first=True)
        self.enc, self.pred, self.joint = nn.Linear(2 * H, H), nn.Linear(H, H), nn.Linear(H, V)

    def forward(self, x, targets):
        f = self.enc(self.encoder(x)[0]).unsqueeze(2)
        g = self.pred(self.predictor(F.pad(self.embed(targets), (0, 0, 1, 0)))[0]).unsqueeze(1)
        return self.joint(torch.tanh(f + g)).log_softmax(-1)


@network(lambda b, t: (floats(b, E), floats(b, E), floats(2, b, H)))
class Joiner(nn.Module):
    """One step of a transducer, driven frame by frame."""

    def __init__(self):
        super().__init__()
        self.gru, self.fc = nn.GRU(E, H, 2), nn.Linear(H + E, V)

    def forward(self, frame, token, state):
        y, state = self.gru(token.unsqueeze(0), state)
        return self.fc(torch.cat([frame, y[0]], -1)).log_softmax(-1), state


@network(lambda b, t: (floats(b, t, E), floats(b, t + 1, E)))
class PointerNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.cell = nn.LSTM(E, H, batch_first=True), nn.LSTMCell(E, H)
        self.w1, self.w2, self.v = nn.Linear(H, H, False), nn.Linear(H, H, False), nn.Linear(H, 1, False)

    def forward(self, x, inputs):
        memory, (h, c) = self.encoder(x)
        h, c = h.squeeze(0), c.squeeze(0)
        pointers = []
        for i in range(inputs.size(1)):
            h, c = self.cell(inputs[:, i], (h, c))
            u = self.v(torch.tanh(self.w1(memory) + self.w2(h).unsqueeze(1))).squeeze(-1)
            pointers.append(F.log_softmax(u, -1))
        return torch.stack(pointers, dim=1)


# --- language --------------------------------------------------------------------------------------------------------


@network(lambda b, t: (ids(b, t), floats(2, b, H), floats(2, b, H)))
class CharRNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.fc = nn.LSTM(V, H, 2, dropout=0.5, batch_first=True), nn.Linear(H, V)

    def forward(self, x, h, c):
        r, (h, c) = self.lstm(F.one_hot(x, V).float(), (h, c))
        out = self.fc(r.contiguous().view(-1, H))
        return out, h, c


@network(lambda b, t: (floats(b, 4), floats(b, H)))
class ClassicNameRNN(nn.Module):
    """i2h and i2o of the names tutorial."""

    def __init__(self):
        super().__init__()
        self.i2h, self.i2o, self.softmax = nn.Linear(4 + H, H), nn.Linear(4 + H, 3), nn.LogSoftmax(dim=1)

    def forward(self, input, hidden):
        combined = torch.cat((input, hidden), 1)
        return self.softmax(self.i2o(combined)), self.i2h(combined)


@network(tokens)
class CRFTagger(nn.Module):
    """Emissions of a BiLSTM, and the partition of a linear-chain CRF by the forward algorithm."""

    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(V, E), nn.LSTM(E, H, bidirectional=True, batch_first=True)
        self.fc, self.transitions = nn.Linear(2 * H, 4), nn.Parameter(floats(4, 4))
        self.start, self.end = nn.Parameter(floats(4)), nn.Parameter(floats(4) * 2)

    def forward(self, x):
        emissions = self.fc(self.lstm(self.embed(x))[0])
        score = self.start + emissions[:, 0]
        for i in range(1, emissions.size(1)):
            score = torch.logsumexp(score.unsqueeze(2) + self.transitions + emissions[:, i].unsqueeze(1), dim=1)
        return emissions, torch.logsumexp(score + self.end, dim=1)


@network(tokens)
class Viterbi(nn.Module):
    """The best scores of a CRF with back pointers."""

    def __init__(self):
        super().__init__()
        self.embed, self.gru = nn.Embedding(V, E), nn.GRU(E, E, batch_first=True)
        self.fc, self.transitions = nn.Linear(E, 4), nn.Parameter(floats(4, 4))

    def forward(self, x):
        emissions = self.fc(self.gru(self.embed(x))[0]).transpose(0, 1)
        score, history = emissions[0], []
        for i in range(1, len(emissions)):
            best, index = (score.unsqueeze(2) + self.transitions).max(dim=1)
            score = best + emissions[i]
            history.append(index)
        return score.max(dim=1)[0], torch.stack(history)


@network(ragged_tokens)
class MeanPooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.gru, self.fc = nn.Embedding(V, E), nn.GRU(E, H, batch_first=True), nn.Linear(2 * H, 3)

    def forward(self, tokens, lengths):
        h, _ = self.gru(self.embed(tokens))
        mask = (torch.arange(tokens.size(1))[None, :] < lengths[:, None]).unsqueeze(-1).float()
        mean = (h * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        most = h.masked_fill(mask == 0, -1e9).max(1)[0]
        return self.fc(torch.cat([mean, most], -1))


@network(tokens)
class PaddedClassifier(nn.Module):
    """Padding is id 0: lengths counted from the ids."""

    def __init__(self):
        super().__init__()
        self.embed, self.lstm = (
            nn.Embedding(V, E, padding_idx=0),
            nn.LSTM(E, H, 2, batch_first=True, bidirectional=True),
        )
        self.attention, self.fc = nn.Linear(2 * H, 1), nn.Linear(2 * H, 2)

    def forward(self, tokens):
        mask = tokens.ne(0)
        out, _ = self.lstm(self.embed(tokens))
        scores = self.attention(out).squeeze(-1).masked_fill(~mask, float("-inf"))
        weights = torch.nan_to_num(torch.softmax(scores, -1))
        return self.fc(torch.einsum("bt,btd->bd", weights, out))


@network(lambda b, t: (ids(b, 3, t),))
class HAN(nn.Module):
    """Hierarchical attention: words, then sentences."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(V, E)
        self.word, self.sentence = (nn.GRU(n, H, bidirectional=True, batch_first=True) for n in (E, 2 * H))
        self.word_fc, self.sentence_fc = nn.Linear(2 * H, 4), nn.Linear(2 * H, 4)
        self.word_u, self.sentence_u = nn.Parameter(floats(4)), nn.Parameter(floats(4) * 2)
        self.fc = nn.Linear(2 * H, 3)

    def pool(self, h, fc, context):
        weights = torch.softmax(torch.tanh(fc(h)) @ context, dim=1)
        return torch.sum(weights.unsqueeze(-1) * h, dim=1)

    def forward(self, documents):
        b, s, w = documents.shape
        words, _ = self.word(self.embed(documents.view(b * s, w)))
        sentences = self.pool(words, self.word_fc, self.word_u).view(b, s, -1)
        h, _ = self.sentence(sentences)
        return self.fc(self.pool(h, self.sentence_fc, self.sentence_u))


@network(lambda b, t: (ids(b, t), ids(b, t + 2) + 0))
class ESIM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(V, E), nn.LSTM(E, H, batch_first=True, bidirectional=True)
        self.project, self.compose = nn.Linear(8 * H, H), nn.LSTM(H, H, batch_first=True, bidirectional=True)
        self.fc = nn.Sequential(nn.Linear(8 * H, H), nn.Tanh(), nn.Dropout(0.5), nn.Linear(H, 3))

    def branch(self, x, aligned):
        x = F.relu(self.project(torch.cat([x, aligned, x - aligned, x * aligned], -1)))
        h, _ = self.compose(x)
        return torch.cat([F.avg_pool1d(h.transpose(1, 2), h.size(1)).squeeze(-1), h.max(dim=1).values], 1)

    def forward(self, premise, hypothesis):
        a, b = self.lstm(self.embed(premise))[0], self.lstm(self.embed(hypothesis))[0]
        e = torch.matmul(a, b.transpose(1, 2))
        a_, b_ = torch.matmul(F.softmax(e, -1), b), torch.matmul(F.softmax(e, 1).transpose(1, 2), a)
        return self.fc(torch.cat([self.branch(a, a_), self.branch(b, b_)], 1))


@network(lambda b, t: (ids(b, t), ids(b, t + 1) + 0))
class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(V, E), nn.LSTM(E, H, batch_first=True)

    def encode(self, x):
        return self.lstm(self.embed(x))[1][0].squeeze(0)

    def forward(self, a, b):
        a, b = self.encode(a), self.encode(b)
        return torch.exp(-torch.norm(a - b, p=1, dim=1)), F.cosine_similarity(a, b), F.pairwise_distance(a, b)


@network(tokens)
class ELMoLike(nn.Module):
    """Layers of two directions, mixed by trained weights."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(V, H)
        self.forwards = nn.ModuleList(nn.LSTM(H, H, batch_first=True) for _ in range(2))
        self.backwards = nn.ModuleList(nn.LSTM(H, H, batch_first=True) for _ in range(2))
        self.mix, self.gamma = nn.Parameter(floats(3)), nn.Parameter(torch.ones(1) * 1.5)

    def forward(self, x):
        f = b = self.embed(x)
        layers = [torch.cat([f, b], -1)]
        for there, back in zip(self.forwards, self.backwards, strict=True):
            f = f + there(f)[0]
            b = b + back(b.flip(1))[0].flip(1)
            layers.append(torch.cat([f, b], -1))
        weights = F.softmax(self.mix, dim=0)
        return self.gamma * sum(w * layer for w, layer in zip(weights, layers, strict=True))


@network(lambda b, t: (ids(b, t), ids(b, t, 4) % 7))
class CharWordTagger(nn.Module):
    """Words beside their characters, whose LSTM's last states are taken."""

    def __init__(self):
        super().__init__()
        self.words, self.chars = nn.Embedding(V, E), nn.Embedding(7, 3)
        self.char_lstm = nn.LSTM(3, 4, bidirectional=True, batch_first=True)
        self.lstm, self.fc = nn.LSTM(E + 8, H, bidirectional=True, batch_first=True), nn.Linear(2 * H, 5)

    def forward(self, words, chars):
        b, t, c = chars.size()
        _, (h, _) = self.char_lstm(self.chars(chars.reshape(b * t, c)))
        h = h.transpose(0, 1).contiguous().view(b, t, -1)
        return self.fc(self.lstm(torch.cat([self.words(words), h], 2))[0]).argmax(-1)


@network(tokens)
class TextCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(V, E)
        self.convs = nn.ModuleList(nn.Conv2d(1, 3, (k, E), padding=(k - 1, 0)) for k in (2, 3, 4))
        self.fc = nn.Linear(9, 2)

    def forward(self, x):
        x = self.embed(x).unsqueeze(1)
        x = [F.relu(conv(x)).squeeze(3) for conv in self.convs]
        return self.fc(torch.cat([F.max_pool1d(one, one.size(2)).squeeze(2) for one in x], 1))


@network(tokens)
class BiLSTMMaxFirst(nn.Module):
    """Time first by a transpose, the states of both directions by a view."""

    def __init__(self):
        super().__init__()
        self.embed, self.gru, self.fc = nn.Embedding(V, E), nn.GRU(E, H, 2, bidirectional=True), nn.Linear(2 * H, 2)

    def init_hidden(self, rows):
        return torch.zeros(4, rows, H)

    def forward(self, x):
        x = x.t()
        _, hidden = self.gru(self.embed(x), self.init_hidden(x.size(1)))
        hidden = hidden.view(2, 2, -1, H)[-1]
        return self.fc(torch.cat((hidden[0], hidden[1]), dim=-1))


@network(ragged)
class SortedAndBack(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(E, H, batch_first=True, bidirectional=True)

    def forward(self, x, lengths):
        lengths, order = lengths.sort(descending=True)
        packed = pack_padded_sequence(x[order], lengths, batch_first=True)
        out, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        return out[torch.argsort(order)]


@network(lambda b, t: (ids(b, t),))
class PositionalTransformer(nn.Module):
    """A Transformer encoder under an LSTM."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(V, H)
        position = torch.arange(64).unsqueeze(1)
        div = torch.exp(torch.arange(0, H, 2) * (-math.log(10000.0) / H))
        pe = torch.zeros(64, H)
        pe[:, 0::2], pe[:, 1::2] = torch.sin(position * div), torch.cos(position * div)
        self.register_buffer("pe", pe.unsqueeze(0))
        layer = nn.TransformerEncoderLayer(H, 2, 8, batch_first=True)
        self.encoder, self.lstm = nn.TransformerEncoder(layer, 2), nn.LSTM(H, H, batch_first=True)

    def forward(self, tokens):
        pad = tokens == 0
        x = self.embed(tokens) * math.sqrt(H)
        x = x + self.pe[:, : x.size(1)]
        return self.lstm(self.encoder(x, src_key_padding_mask=pad))[0]


# --- time series -----------------------------------------------------------------------------------------------------


@network(lambda b, t: (floats(b, t, 1), floats(b, t, 2)))
class DeepAR(nn.Module):
    """Scaled input, mu and sigma of each step."""

    def __init__(self):
        super().__init__()
        self.lstm, self.mu, self.sigma = nn.LSTM(3, H, 2, batch_first=True), nn.Linear(H, 1), nn.Linear(H, 1)

    def forward(self, z, covariates):
        scale = 1 + z.abs().mean(dim=1, keepdim=True)
        h, _ = self.lstm(torch.cat([z / scale, covariates], -1))
        mu, sigma = self.mu(h) * scale, F.softplus(self.sigma(h)) * scale
        return mu, sigma, -torch.log(sigma) - 0.5 * math.log(2 * math.pi) - (z - mu) ** 2 / (2 * sigma**2)


@network(lambda b, t: (floats(b, t, 1),))
class Forecaster(nn.Module):
    """The state after the history, then five steps on their own output."""

    def __init__(self):
        super().__init__()
        self.lstm1, self.lstm2, self.linear = nn.LSTMCell(1, H), nn.LSTMCell(H, H), nn.Linear(H, 1)

    def forward(self, input, future=5):
        outputs = []
        h1 = c1 = h2 = c2 = torch.zeros(input.size(0), H)
        for step in input.split(1, dim=1):
            h1, c1 = self.lstm1(step.squeeze(1), (h1, c1))
            h2, c2 = self.lstm2(h1, (h2, c2))
            output = self.linear(h2)
            outputs += [output]
        for _ in range(future):
            h1, c1 = self.lstm1(output, (h1, c1))
            h2, c2 = self.lstm2(h1, (h2, c2))
            output = self.linear(h2)
            outputs += [output]
        return torch.cat(outputs, dim=1)


@network(features)
class TCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv1d(E, E, 3, padding=2 * d, dilation=d)) for d in (1, 2, 4)
        )

    def forward(self, x):
        x = x.transpose(1, 2)
        for conv in self.convs:
            y = conv(x)[:, :, : -conv.padding[0]].contiguous()
            x = F.relu(x + F.relu(y))
        return x.transpose(1, 2)


@network(features)
class WaveNetGRU(nn.Module):
    """Gated dilated convolutions with skips, then a GRU."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv1d(E, H, 1)
        self.filters = nn.ModuleList(nn.Conv1d(H, 2 * H, 2, dilation=2**i) for i in range(3))
        self.skips = nn.ModuleList(nn.Conv1d(H, H, 1) for _ in range(3))
        self.gru, self.fc = nn.GRU(H, H, batch_first=True), nn.Linear(H, 4)

    def forward(self, x):
        x, total = self.first(x.permute(0, 2, 1)), 0
        for conv, skip in zip(self.filters, self.skips, strict=True):
            y = conv(F.pad(x, (conv.dilation[0], 0)))
            a, b = torch.split(y, H, dim=1)
            y = torch.tanh(a) * torch.sigmoid(b)
            total = total + skip(y)
            x = x + y
        return self.fc(self.gru(F.relu(total).permute(0, 2, 1))[0])


@network(lambda b, t: (floats(b, t, E), floats(b, t, 1).abs() + 0.1))
class GRUODE(nn.Module):
    """Euler steps between observations, a GRUCell at each."""

    def __init__(self):
        super().__init__()
        self.ode, self.cell, self.fc = nn.Sequential(nn.Linear(H, H), nn.Tanh()), nn.GRUCell(E, H), nn.Linear(H, 2)

    def forward(self, x, dt):
        h = x.new_zeros(x.shape[0], H)
        out = []
        for i in range(x.shape[1]):
            for _ in range(2):
                h = h + 0.5 * dt[:, i] * self.ode(h)
            h = self.cell(x[:, i], h)
            out.append(self.fc(h))
        return torch.stack(out, dim=1)


@network(lambda b, t: (floats(b, t, E), (floats(b, t, E) > 0).float(), floats(b, t, E).abs()))
class GRUD(nn.Module):
    """Missing values decay towards the mean."""

    def __init__(self):
        super().__init__()
        self.cell, self.decay_h, self.decay_x = nn.GRUCell(2 * E, H), nn.Linear(E, H), nn.Parameter(floats(E))
        self.register_buffer("mean", floats(E) * 0.3)

    def forward(self, x, mask, delta):
        h, last = torch.zeros(x.size(0), H), torch.zeros(x.size(0), E)
        for t in range(x.size(1)):
            m, d = mask[:, t], delta[:, t]
            gamma = torch.exp(-torch.relu(self.decay_x * d))
            last = torch.where(m > 0, x[:, t], last)
            filled = m * x[:, t] + (1 - m) * (gamma * last + (1 - gamma) * self.mean)
            h = torch.exp(-F.relu(self.decay_h(d))) * h
            h = self.cell(torch.cat([filled, m], 1), h)
        return h


@network(features)
class MDNRNN(nn.Module):
    """World models: mixture parameters of the next step."""

    def __init__(self):
        super().__init__()
        self.lstm, self.fc = nn.LSTM(E, H), nn.Linear(H, (2 * 2 + 1) * 3)

    def forward(self, x):
        out, _ = self.lstm(x.transpose(0, 1))
        t, b, _ = out.size()
        parameters = self.fc(out)
        mus, sigmas = parameters[:, :, :6].view(t, b, 3, 2), torch.exp(parameters[:, :, 6:12].view(t, b, 3, 2))
        return mus, sigmas, F.log_softmax(parameters[:, :, 12:].view(t, b, 3), dim=-1)


@network(lambda b, t: (floats(b, t, 2, 5, 5),))
class ConvLSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2 + 3, 12, 3, padding=1)

    def forward(self, x):
        b, t, _, height, width = x.size()
        h = torch.zeros(b, 3, height, width, device=x.device)
        c = torch.zeros(b, 3, height, width, device=x.device)
        out = []
        for step in range(t):
            gates = self.conv(torch.cat([x[:, step], h], dim=1))
            i, f, o, g = torch.split(gates, 3, dim=1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            out.append(h)
        return torch.stack(out, dim=1), (h, c)


@network(features)
class VAERNN(nn.Module):
    """Encoder to a mean, repeated for each step of the decoder."""

    def __init__(self):
        super().__init__()
        self.encoder, self.mu, self.logvar = nn.GRU(E, H, batch_first=True), nn.Linear(H, 2), nn.Linear(H, 2)
        self.decoder, self.fc = nn.GRU(2, H, batch_first=True), nn.Linear(H, E)

    def forward(self, x):
        h = self.encoder(x)[1].squeeze(0)
        mu, logvar = self.mu(h), self.logvar(h)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar) if self.training else mu
        return self.fc(self.decoder(z.unsqueeze(1).repeat(1, x.size(1), 1))[0]), mu, logvar


class LastOutput(nn.Module):
    def forward(self, outputs):
        out, _ = outputs
        return out[:, -1, :]


@network(features)
class SequentialPicker(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.LSTM(E, H, batch_first=True), LastOutput(), nn.BatchNorm1d(H), nn.Linear(H, 1))
        randomize(self)

    def forward(self, x):
        return self.net(x).squeeze(-1)


@network(features)
class LSTNet(nn.Module):
    """Convolution, GRU, a GRU of every second step, and an autoregression of the last three."""

    def __init__(self):
        super().__init__()
        self.conv, self.gru, self.skip = nn.Conv2d(1, H, (3, E), padding=(2, 0)), nn.GRU(H, H), nn.GRU(H, 3)
        self.fc, self.highway = nn.Linear(H + 3, E), nn.Linear(3, 1)

    def forward(self, x):
        c = F.relu(self.conv(x.unsqueeze(1))).squeeze(3)
        r = self.gru(c.permute(2, 0, 1))[1].squeeze(0)
        s = self.skip(c[:, :, ::2].permute(2, 0, 1))[1][0]
        z = F.pad(x, (0, 0, 2, 0))[:, -3:, :].permute(0, 2, 1)
        return self.fc(torch.cat([r, s], 1)) + self.highway(z.contiguous()).view(-1, E)


@network(features)
class NBeatsLike(nn.Module):
    """Differences, a running mean, a seasonal part by time."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(E, E, batch_first=True)

    def forward(self, x):
        trend = torch.cumsum(x, 1) / torch.arange(1, x.size(1) + 1).view(1, -1, 1)
        time = torch.linspace(0, 1, x.size(1))
        season = torch.stack([torch.sin(2 * math.pi * k * time) for k in range(1, 3)], -1)
        slope = torch.cat([torch.zeros_like(x[:, :1]), torch.diff(x, dim=1)], 1)
        return self.gru(x - trend)[0] + slope, season @ torch.ones(2, 1)


@network(lambda b, t: (floats(b, t, E), floats(b, t)))
class ClockworkSkip(nn.Module):
    """A gate by numbers decides how much of the new state is taken."""

    def __init__(self):
        super().__init__()
        self.cell = nn.RNNCell(E, H)

    def forward(self, x, skip):
        h, hs = torch.zeros(x.size(0), H), []
        for t in range(x.size(1)):
            g = torch.sigmoid(skip[:, t]).unsqueeze(-1)
            h = torch.lerp(h, self.cell(x[:, t], h), g)
            hs.append(h)
        return torch.stack(hs, dim=0)


@network(features)
class IndRNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.u = nn.Linear(E, H), nn.Parameter(floats(H))

    def forward(self, x):
        h, out = torch.zeros(x.size(0), H), []
        for step in self.fc(x).unbind(dim=1):
            h = F.relu(step + self.u * h)
            out.append(h)
        return torch.stack(out, 1), h


@network(features)
class SRULike(nn.Module):
    """A minimal gated unit whose input products are made at once, outputs in a preallocated tensor."""

    def __init__(self):
        super().__init__()
        self.w = nn.Linear(E, 3 * H)

    def forward(self, x):
        u, f, r = self.w(x).chunk(3, dim=-1)
        f, r = torch.sigmoid(f), torch.sigmoid(r)
        c, out = torch.zeros(x.size(0), H), torch.empty(x.size(0), x.size(1), H)
        for t in range(x.size(1)):
            c = f[:, t] * c + (1 - f[:, t]) * u[:, t]
            out[:, t] = r[:, t] * torch.tanh(c) + (1 - r[:, t]) * u[:, t]
        return out


@network(features)
class QRNN(nn.Module):
    """Quasi-recurrent: a causal convolution and fo-pooling."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(E, 3 * H, 2)

    def forward(self, x):
        gates = self.conv(F.pad(x.transpose(1, 2), (1, 0))).transpose(1, 2)
        z, f, o = gates.chunk(3, 2)
        z, f, o = z.tanh(), f.sigmoid(), o.sigmoid()
        c, cells = torch.zeros_like(z[:, 0]), []
        for i in range(z.size(1)):
            c = f[:, i] * c + (1 - f[:, i]) * z[:, i]
            cells.append(c)
        return o * torch.stack(cells, 1)


@network(features)
class LayerNormLSTM(nn.Module):
    """A cell with layer norms, by chunk, states in a tuple."""

    def __init__(self):
        super().__init__()
        self.i2h, self.h2h = nn.Linear(E, 4 * H, bias=False), nn.Linear(H, 4 * H)
        self.ln_i, self.ln_h, self.ln_c = nn.LayerNorm(4 * H), nn.LayerNorm(4 * H), nn.LayerNorm(H)

    def step(self, x, state):
        h, c = state
        i, f, g, o = (self.ln_i(self.i2h(x)) + self.ln_h(self.h2h(h))).chunk(4, dim=1)
        c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(self.ln_c(c))
        return h, c

    def forward(self, x):
        state = (torch.zeros(x.size(0), H), torch.zeros(x.size(0), H))
        outputs = []
        for t in range(x.size(1)):
            state = self.step(x[:, t, :], state)
            outputs.append(state[0])
        return torch.stack(outputs, dim=1), state


@network(features)
class PeepholeBoth(nn.Module):
    """Two directions by one function, the second over the flipped input."""

    def __init__(self):
        super().__init__()
        self.w = nn.ParameterList(nn.Parameter(floats(E + H, 3 * H) * 0.5 + i) for i in range(2))
        self.p = nn.ParameterList(nn.Parameter(floats(H) * 0.5 + i) for i in range(2))

    def run(self, x, w, p):
        h = c = torch.zeros(x.size(0), H)
        out = []
        for t in range(x.size(1)):
            f, o, g = (torch.cat([x[:, t], h], -1) @ w).split(H, -1)
            f = torch.sigmoid(f + p * c)
            c = f * c + (1 - f) * torch.tanh(g)
            h = torch.sigmoid(o + p * c) * torch.tanh(c)
            out.append(h.unsqueeze(1))
        return torch.cat(out, 1)

    def forward(self, x):
        return torch.cat([self.run(x, self.w[0], self.p[0]), self.run(x.flip(1), self.w[1], self.p[1]).flip(1)], 2)


# --- sound and images ------------------------------------------------------------------------------------------------


@network(signal)
class SpectrogramVAD(nn.Module):
    """Power spectrogram, mel, log, BiGRU, one probability for each frame."""

    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(16))
        self.register_buffer("mel", floats(9, 5).abs())
        self.gru, self.fc = nn.GRU(5, H, batch_first=True, bidirectional=True), nn.Linear(2 * H, 1)

    def forward(self, wave):
        spectrum = torch.stft(wave, 16, 8, window=self.window, return_complex=True)
        power = spectrum.abs().pow(2).transpose(1, 2)
        mel = torch.log(torch.clamp(power @ self.mel, min=1e-5))
        mel = (mel - mel.mean(1, keepdim=True)) / (mel.std(1, keepdim=True) + 1e-5)
        return torch.sigmoid(self.fc(self.gru(mel)[0])).squeeze(-1)


@network(signal)
class FramedEnergy(nn.Module):
    """Frames by unfold, preemphasis, windows and a transform."""

    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hamming_window(12, periodic=False))
        self.lstm = nn.LSTM(9, H, batch_first=True)

    def forward(self, wave):
        wave = torch.cat([wave[:, :1], wave[:, 1:] - 0.97 * wave[:, :-1]], 1)
        frames = wave.unfold(-1, 12, 6)
        frames = (frames - frames.mean(-1, keepdim=True)) * self.window
        power = torch.fft.rfft(F.pad(frames, (0, 4))).abs() ** 2
        return self.lstm(torch.log(power + 0.1))[0]


@network(lambda b, t: (floats(b, 1, 8, 4 * t),))
class CRNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(True), nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(True), nn.MaxPool2d((2, 2), (2, 1), (0, 1)),
        )  # fmt: skip
        self.rnn, self.fc = nn.LSTM(8, H, bidirectional=True), nn.Linear(2 * H, 5)
        randomize(self)

    def forward(self, image):
        conv = self.cnn(image)
        b, c, h, w = conv.size()
        conv = conv.reshape(b, c * h, w).permute(2, 0, 1)
        return self.fc(self.rnn(conv)[0]).log_softmax(2)


@network(features)
class SpeakerEncoder(nn.Module):
    """Projected LSTM, attentive pooling of mean and deviation, unit length."""

    def __init__(self):
        super().__init__()
        self.lstm, self.attention = nn.LSTM(E, H, 2, proj_size=4, batch_first=True), nn.Linear(4, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        h, _ = self.lstm(x)
        w = torch.softmax(self.attention(h), dim=1)
        mean = (w * h).sum(1)
        deviation = torch.sqrt(((w * h * h).sum(1) - mean**2).clamp(min=1e-4))
        return F.normalize(self.fc(torch.cat([mean, deviation], 1)), p=2, dim=1)


@network(features)
class SEBlockGRU(nn.Module):
    """Squeeze and excitation over time, then a GRU with layer norm."""

    def __init__(self):
        super().__init__()
        self.pool, self.fc1, self.fc2 = nn.AdaptiveAvgPool1d(1), nn.Linear(E, 2), nn.Linear(2, E)
        self.gru, self.norm = nn.GRU(E, H, batch_first=True), nn.LayerNorm(H)

    def forward(self, x):
        y = self.pool(x.transpose(1, 2)).squeeze(-1)
        y = torch.sigmoid(self.fc2(F.relu(self.fc1(y)))).unsqueeze(1)
        return self.norm(self.gru(x * y)[0])


@network(lambda b, t: (floats(b, t, 1, 6, 6),))
class CNNLSTM(nn.Module):
    """Each frame through a CNN in a loop, then an LSTM."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 3, stride=2), nn.Linear(8, E)
        self.lstm, self.out = nn.LSTM(E, H, batch_first=True), nn.Linear(H, 2)

    def forward(self, video):
        frames = []
        for t in range(video.size(1)):
            x = F.relu(self.conv(video[:, t]))
            frames.append(F.relu(self.fc(x.view(x.size(0), -1))))
        frames = torch.stack(frames, dim=0).transpose(0, 1)
        return self.out(self.lstm(frames)[0][:, -1])


@network(features)
class Conformerish(nn.Module):
    """Half feed-forward, attention, a convolution with GLU, and a GRU."""

    def __init__(self):
        super().__init__()
        self.up, self.norm = nn.Linear(E, H), nn.LayerNorm(H)
        self.ff = nn.Sequential(nn.Linear(H, 8), nn.SiLU(), nn.Dropout(0.1), nn.Linear(8, H))
        self.attention = nn.MultiheadAttention(H, 2, batch_first=True)
        self.pointwise, self.depthwise = nn.Conv1d(H, 2 * H, 1), nn.Conv1d(H, H, 3, padding=1, groups=H)
        self.batch, self.gru = nn.BatchNorm1d(H), nn.GRU(H, H, batch_first=True)

    def forward(self, x):
        x = self.up(x)
        x = x + 0.5 * self.ff(x)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        y = F.glu(self.pointwise(self.norm(x).transpose(1, 2)), dim=1)
        x = x + F.silu(self.batch(self.depthwise(y))).transpose(1, 2)
        return self.gru(x)[0]


@network(features)
class CausalSelfAttention(nn.Module):
    """GPT's attention by hand, before an RNN."""

    def __init__(self):
        super().__init__()
        self.up, self.qkv, self.proj = nn.Linear(E, H), nn.Linear(H, 3 * H), nn.Linear(H, H)
        self.register_buffer("bias", torch.tril(torch.ones(64, 64)).view(1, 1, 64, 64))
        self.rnn = nn.RNN(H, H, batch_first=True)

    def forward(self, x):
        x = self.up(x)
        B, T, C = x.size()
        q, k, v = self.qkv(x).split(C, dim=2)
        q, k, v = (one.view(B, T, 2, C // 2).transpose(1, 2) for one in (q, k, v))
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
        y = (F.softmax(att, dim=-1) @ v).transpose(1, 2).contiguous().view(B, T, C)
        return self.rnn(self.proj(y))[0]


@network(features)
class RelativeBias(nn.Module):
    """Attention with a distance penalty of computed size."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.gru = nn.Linear(E, 4), nn.Linear(E, 4), nn.GRU(E, H, batch_first=True)

    def forward(self, x):
        t = torch.arange(x.size(1))
        distance = (t[:, None] - t[None, :]).abs().float()
        scores = torch.einsum("bqd,bkd->bqk", self.q(x), self.k(x)) / self.q.out_features**0.5
        return self.gru(torch.softmax(scores - 0.1 * distance, -1) @ x)[0]


@network(features)
class Subsampled(nn.Module):
    """A pyramid: pairs of steps joined between layers, an odd one left out."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.LSTM(E, H, batch_first=True), nn.LSTM(2 * H, H, batch_first=True)

    def forward(self, x):
        y, _ = self.one(x)
        b, t, c = y.shape
        y = y[:, : t // 2 * 2].contiguous().view(b, t // 2, c * 2)
        return self.two(y)[0]


@network(lambda b, t: (floats(b, t, E), floats(b, E)))
class FiLMConditioned(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.film = nn.GRU(E, H, batch_first=True), nn.Linear(E, 2 * H)

    def forward(self, x, condition):
        gamma, beta = self.film(condition).unsqueeze(1).chunk(2, dim=-1)
        return (1 + gamma) * self.gru(x)[0] + beta


@network(lambda b, t: (floats(b, t, E), floats(b, t + 2, E)))
class CrossFusion(nn.Module):
    """Two streams of other lengths, each attends to the other."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.GRU(E, H, batch_first=True), nn.GRU(E, H, batch_first=True)
        self.fc = nn.Bilinear(H, H, 3)

    def forward(self, x, y):
        x, y = self.a(x)[0], self.b(y)[0]
        scores = torch.einsum("bid,bjd->bij", x, y)
        y = torch.einsum("bij,bjd->bid", scores.softmax(-1), y)
        return self.fc(x, y)


@network(lambda b, t: (floats(b, t, E), floats(b, 3, 4)))
class NeuralTuringLike(nn.Module):
    """An external memory that each step reads and writes by content."""

    def __init__(self):
        super().__init__()
        self.cell, self.key = nn.GRUCell(E + 4, H), nn.Linear(H, 4)
        self.erase, self.add = nn.Linear(H, 4), nn.Linear(H, 4)

    def forward(self, x, memory):
        h, read, out = torch.zeros(x.size(0), H), torch.zeros(x.size(0), 4), []
        for t in range(x.size(1)):
            h = self.cell(torch.cat([x[:, t], read], 1), h)
            w = F.softmax(F.cosine_similarity(memory, self.key(h).unsqueeze(1), dim=-1), dim=-1).unsqueeze(-1)
            read = (w * memory).sum(1)
            memory = memory * (1 - w * torch.sigmoid(self.erase(h)).unsqueeze(1)) + w * self.add(h).unsqueeze(1)
            out.append(torch.cat([h, read], -1))
        return torch.stack(out, 1), memory


@network(lambda b, t: (floats(b, t, E), floats(b, t)))
class ActorCritic(nn.Module):
    """States reset where an episode ends."""

    def __init__(self):
        super().__init__()
        self.cell, self.policy, self.value = nn.LSTMCell(E, H), nn.Linear(H, 3), nn.Linear(H, 1)

    def forward(self, obs, done):
        h = c = obs.new_zeros(obs.size(0), H)
        logits, values = [], []
        for o, d in zip(obs.unbind(1), done.unbind(1), strict=True):
            keep = (d <= 0).float().unsqueeze(1)
            h, c = self.cell(o, (h * keep, c * keep))
            logits.append(self.policy(h))
            values.append(self.value(h).squeeze(-1))
        return F.softmax(torch.stack(logits, 1), -1), torch.stack(values, 1)


@network(lambda b, t: (ids(b, t), ids(b, 3)))
class GreedyFixed(nn.Module):
    """Greedy decoding of as many steps as the target has, from argmax."""

    def __init__(self):
        super().__init__()
        self.embed, self.encoder = nn.Embedding(V, E), nn.GRU(E, H, batch_first=True)
        self.cell, self.out = nn.GRUCell(E, H), nn.Linear(H, V)

    def forward(self, source, target):
        h = self.encoder(self.embed(source))[1][-1]
        token, tokens = torch.full((source.size(0),), 1, dtype=torch.long), []
        for _ in range(target.size(1) * 2):
            h = self.cell(self.embed(token), h)
            token = self.out(h).argmax(-1)
            tokens.append(token)
        return torch.stack(tokens, 1)


@network(lambda b, t: (floats(b, t, E),))
class StackedByHand(nn.Module):
    """Layers of cells with dropout and residuals, hidden states in lists, reversed for the second direction."""

    def __init__(self):
        super().__init__()
        self.cells = nn.ModuleList([nn.GRUCell(E, H), nn.GRUCell(H, H), nn.GRUCell(H, H)])
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        hidden = [torch.zeros(x.size(0), H) for _ in self.cells]
        outputs = []
        for t in reversed(range(x.size(1))):
            inp = x[:, t]
            for layer, cell in enumerate(self.cells):
                hidden[layer] = cell(inp, hidden[layer])
                inp = self.drop(hidden[layer]) + (inp if layer > 0 else 0)
            outputs.insert(0, inp)
        return torch.stack(outputs, 1), torch.stack(hidden, 0)
