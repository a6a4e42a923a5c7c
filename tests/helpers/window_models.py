"""Networks of convolutions and pooling over time, with the number of steps that their outputs lag."""

from stream_models import I, X, linear

from rnncore import Input, Node, Recurrent, Spec
from rnncore.cells import GRU, LSTM


def conv(name, read, channels, outputs, kernel, **attributes):
    return Node(name, "Conv", read, {
        "input_size": channels, "output_size": outputs, "kernel_shape": (kernel,),
        **{key: (value,) if key in ("strides", "dilations") else value for key, value in attributes.items()},
    })  # fmt: skip


TURNED = Node("turned", "Transpose", "x", {"perm": (0, 2, 1)})


def back(read, name="back"):
    return Node(name, "Transpose", read, {"perm": (0, 2, 1)})


def recurrent(read, size):
    return Recurrent("r", GRU(size, 6), read)


def after(*nodes, size=4):
    """Nodes from "turned" (B, C, T) to "w", and a recurrent layer over them."""
    return Spec([X], [TURNED, *nodes, back("w"), recurrent("back", size)], ["r"])


# The steps that outputs lag behind are in each entry.
WINDOWS = {
    "causal": (after(conv("w", "turned", I, 4, 3, pads=(2, 0))), 0),
    "centred": (after(conv("w", "turned", I, 4, 3, pads=(1, 1))), 1),
    "valid": (after(conv("w", "turned", I, 4, 3)), 2),
    "same upper": (after(conv("w", "turned", I, 4, 4, auto_pad="SAME_UPPER")), 2),
    "same lower": (after(conv("w", "turned", I, 4, 4, auto_pad="SAME_LOWER")), 1),
    "dilated": (after(conv("w", "turned", I, 4, 3, dilations=4, pads=(8, 0))), 0),
    "strided": (after(conv("w", "turned", I, 4, 5, strides=2, pads=(2, 2))), 2),
    "stride beyond the kernel": (after(conv("w", "turned", I, 4, 2, strides=5)), 1),
    "a kernel of one, strided": (after(conv("w", "turned", I, 4, 1, strides=3)), 0),
    "much padding at the end": (after(conv("w", "turned", I, 4, 3, pads=(0, 5))), 2),
    "two in a row": (
        after(conv("v", "turned", I, 8, 5, strides=2, pads=(2, 2)), conv("w", "v", 8, 4, 3, strides=2, pads=(1, 1))), 4
    ),
    "groups": (after(conv("v", "turned", I, 10, 3, pads=(2, 0)), conv("w", "v", 10, 4, 2, group=2, pads=(1, 0))), 0),
    "residual": (
        after(conv("v", "turned", I, I, 3, pads=(1, 1)), Node("w", "Add", ("v", "turned")), size=I), 1
    ),
    "two branches of different delays": (
        after(
            conv("a", "turned", I, 4, 7, pads=(3, 3)), conv("b", "turned", I, 4, 3, pads=(2, 0)),
            Node("w", "Concat", ("a", "b"), {"axis": 1}), size=8,
        ), 3,
    ),
    "two branches that halve the rate": (
        after(
            conv("v", "turned", I, 4, 5, strides=2, pads=(2, 2)), conv("a", "v", 4, 4, 3, pads=(1, 1)),
            conv("b", "turned", I, 4, 2, strides=2, pads=(0, 1)), Node("w", "Add", ("a", "b")),
        ), 4,
    ),
    "max pooling": (after(conv("v", "turned", I, 4, 3, pads=(1, 1)), Node("w", "MaxPool", "v", {
        "kernel_shape": (3,), "strides": (2,), "pads": (1, 1)})), 2),
    "average pooling": (after(Node("w", "AveragePool", "turned", {"kernel_shape": (4,), "strides": (4,)}), size=I), 3),
    "average pooling with padding": (after(Node("w", "AveragePool", "turned", {
        "kernel_shape": (3,), "pads": (2, 0), "count_include_pad": 1}), size=I), 0),
    "spectrogram": (
        Spec(
            [Input("x", "float", ("B", "T", 8))],
            [
                Node("image", "Unsqueeze", "x", {"axes": (1,)}),
                Node("w", "Conv", "image", {"input_size": 1, "output_size": 3, "kernel_shape": (3, 3),
                                            "strides": (1, 2), "pads": (2, 1, 0, 1)}),
                Node("relu", "Relu", "w"),
                Node("steps", "Transpose", "relu", {"perm": (0, 2, 1, 3)}),
                Node("flat", "Reshape", "steps", {"shape": (0, 0, -1)}),
                Recurrent("r", LSTM(12, 6), "flat"),
                linear("head", "r.last", 6, 2),
            ],
            ["r", "head"],
        ), 0,
    ),
    "no recurrent layer": (
        Spec([X], [TURNED, conv("v", "turned", I, 8, 3, pads=(2, 0)), Node("relu", "Relu", "v"),
                   conv("w", "relu", 8, 2, 3, dilations=2, pads=(4, 0))], ["w"]), 0,
    ),
    "between recurrent layers": (
        Spec([X], [Recurrent("q", LSTM(I, 4), "x"), back("q", "t"), conv("w", "t", 4, 4, 3, pads=(1, 1)), back("w"),
                   recurrent("back", 4), Node("sum", "Concat", ("r", "q"), {"axis": 2})], ["sum", "q.c"]), 1,
    ),
}  # fmt: skip
