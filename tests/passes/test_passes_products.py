"""Products by constants as Linear: equal values, one weight for products by one constant, and what stays."""

import numpy as np
import pytest

from rnncore import Input, Model, Node, Spec
from rnncore.passes import compiled


def network(nodes, x, constant, outputs=("y",)):
    matrix = Node("a", "Constant", (), {"dtype": "float", "shape": constant.shape})
    spec = Spec([Input("x", "float", x)], [matrix, *nodes], outputs)
    return spec, {"a.value": constant.astype(np.float32)}


def drawn(seed):
    """A product of x and a constant, as np.einsum says it, and the shape of x."""
    rng = np.random.default_rng(seed)
    sizes = dict(zip("btcdhe", (int(size) for size in rng.integers(1, 6, 6)), strict=True))
    if rng.random() < 0.4:
        terms = [("btc", "cd", "btd"), ("bct", "dc", "bdt"), ("tc", "cd", "td")][rng.integers(0, 3)]
        node = Node("y", "MatMul", ("x", "a") if terms[1] == "cd" else ("a", "x"))
        return node, terms, sizes
    x = rng.permutation(list("btc" if rng.random() < 0.5 else "btch"))
    summed = [letter for letter in "ch" if letter in x]
    new = [["d"], ["d", "e"], []][rng.integers(0, 3)]
    matrix, result = rng.permutation(summed + new), rng.permutation([*(set(x) - set(summed)), *new])
    terms = tuple("".join(term) for term in (x, matrix, result))
    swapped = rng.random() < 0.5
    left = f"{terms[1]},{terms[0]}" if swapped else f"{terms[0]},{terms[1]}"
    node = Node("y", "Einsum", ("a", "x") if swapped else ("x", "a"), {"equation": f"{left}->{terms[2]}"})
    return node, terms, sizes


@pytest.mark.parametrize("seed", range(60))
def test_equal_to_the_product(seed):
    node, (x_term, a_term, result), sizes = drawn(seed)
    rng = np.random.default_rng(seed)
    x, a = (rng.standard_normal([sizes[letter] for letter in term]).astype(np.float32) for term in (x_term, a_term))
    shape = [letter.upper() if letter in "bt" else sizes[letter] for letter in x_term]
    spec, weights = network([node], shape, a)
    model = Model(spec, weights)
    expected = np.einsum(f"{x_term},{a_term}->{result}", x.astype(np.float64), a)
    assert model(x).shape == expected.shape
    assert np.abs(model(x) - expected).max(initial=0) < 1e-5
    assert "Linear" in [other.op for other in model.spec.nodes]
    assert not {"MatMul", "Einsum", "Constant"} & {other.op for other in model.spec.nodes}


@pytest.mark.parametrize(
    ("equation", "x", "a"),
    [
        ("bhtc,hcd->bhtd", ("B", 2, "T", 3), (2, 3, 4)),  # a matrix for each head
        ("btc,cd->bt", ("B", "T", 3), (3, 4)),  # sums over a letter of the constant alone
        ("btc,tc->bt", ("B", 7, 3), (7, 3)),
        ("btt,tc->bc", ("B", 3, 3), (3, 4)),
        ("bt...,...d->btd", ("B", "T", 3), (3, 4)),
    ],
)
def test_others_stay(equation, x, a):
    spec, weights = network([Node("y", "Einsum", ("x", "a"), {"equation": equation})], x, np.ones(a))
    assert compiled(spec, weights)[0] is spec


def test_an_unknown_size_stays():
    """A size that is only known when the model runs might be 1, and be spread over the constant's."""
    node = Node("y", "Einsum", ("x", "a"), {"equation": "btc,cd->btd"})
    spec, weights = network([node], ("B", "T", "C"), np.ones((3, 4)))
    assert compiled(spec, weights)[0] is spec


def test_products_by_one_constant_share_its_weight():
    nodes = [Node("u", "MatMul", ("x", "a")), Node("v", "MatMul", ("u", "a")), Node("y", "MatMul", ("v", "a"))]
    spec, weights = network(nodes, ("B", "T", 3), np.eye(3))
    found = compiled(spec, weights)[1]
    assert len({id(array) for array in found.values()}) == 1 and len(found) == 3
