"""PyTorch, eager, in inference mode; batch first is what its LSTM prefers least, so it gets time first."""

import torch


def version() -> str:
    return torch.__version__


def module(shape):
    """The shape's weights in torch.nn, and its input (T, B, I)."""
    weights, x = shape.arrays()
    net = getattr(torch.nn, shape.cell)(shape.I, shape.H, shape.layers, bidirectional=shape.bidirectional).eval()
    net.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return net, torch.from_numpy(x.transpose(1, 0, 2).copy())


def prepare(shape, threads):
    torch.set_num_threads(threads)
    net, x = module(shape)

    def run():
        with torch.inference_mode():
            return net(x)[0].numpy().transpose(1, 0, 2)

    def run_packed():
        with torch.inference_mode():
            packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
            y, _ = torch.nn.utils.rnn.pad_packed_sequence(net(packed)[0], total_length=shape.T)
            return y.numpy().transpose(1, 0, 2)

    lengths = torch.from_numpy(shape.lengths)
    if shape.ragged:
        return run_packed

    return run
