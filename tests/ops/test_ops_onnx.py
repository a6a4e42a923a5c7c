"""Every op under an ONNX name against ONNX's own tests of single nodes, and the graphs that ONNX expands them to.

What was inferred has to be what was run: dtype, rank, every size and element that was known. Each case is run in
the four ways in which parameters such as axes may come.
"""

from itertools import combinations

import pytest
from onnx_nodes import GENERIC, WAYS, Unsupported, node_tests, run_model

from rnncore.ops import FAMILIES, OPS

# Where the rank of the output would not be known before the run.
OPEN_RANK = ("they decide the", "expected a last dimension of known size", "decides the rank")

# What no value of a Spec has, by the name that NumPy, ml_dtypes, ONNX or Python gives it.
FOREIGN = {
    "object", "list", "NoneType", "bfloat16", "BFLOAT16", "float4_e2m1fn", "FLOAT4E2M1",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (2, 4)),
    *(f"{sign}INT{bits}" for sign in ("", "U") for bits in (2, 4)),
    *(f"float8_{kind}" for kind in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")),
    *(f"FLOAT8{kind}" for kind in ("E4M3FN", "E4M3FNUZ", "E5M2", "E5M2FNUZ", "E8M0")),
}  # fmt: skip

# Cases that ask for more than inference, or for what newer versions of the op have taken back.
REFUSED = {"Dropout": ("test_training_dropout", "training_mode=")}


def cases_of(op):
    found = []
    for name, case in node_tests().items():
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type == op and nodes[0].domain == "":
            found.append((name, case))
    return found


def run_case(name, case, way):
    """None, or the op or type that is not ours; a refusal has to be one that is expected."""
    op = case.model.graph.node[0].op_type
    prefix, says = REFUSED.get(op, ("no case", ""))
    for inputs, expected in case.data_sets:
        if name.startswith(prefix):
            with pytest.raises(ValueError, match=says):
                run_model(case.model, inputs, expected, "attributes")
            continue
        try:
            refusal = run_model(case.model, inputs, expected, way)
        except Unsupported as what:
            return str(what)
        except Exception as error:
            error.add_note(f"{name}, parameters as {way}")
            raise
        open_rank = way in ("names", "inputs") or isinstance(way, frozenset)
        assert refusal is None or (open_rank and any(why in str(refusal) for why in OPEN_RANK)), (
            f"{name}, parameters as {way}: {refusal}"
        )
    return None


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("op", GENERIC)
def test_nodes(op, way):
    left = [run_case(name, case, way) for name, case in cases_of(op)]
    assert None in left, f"no case of {op} was run"
    assert set(filter(None, left)) <= FOREIGN


@pytest.mark.parametrize("op", [name for name, op in GENERIC.items() if len(op.parameters) > 1])
def test_some_parameters_as_inputs(op):
    """Every choice of those that are inputs beside others that are attributes."""
    parameters = tuple(GENERIC[op].parameters)
    for count in range(1, len(parameters)):
        for chosen in combinations(parameters, count):
            left = [run_case(name, case, frozenset(chosen)) for name, case in cases_of(op)]
            assert None in left


@pytest.mark.parametrize("way", WAYS)
def test_graphs(way):
    """Ops that ONNX defines by others, written out in those: shapes are followed through Shape, Slice, Concat ..."""
    run = 0
    for name, case in node_tests().items():
        if len(case.model.graph.node) > 1:
            run += run_case(name, case, way) is None
    assert run > 200


def test_every_op_is_listed_once():
    names = [op.name for family in FAMILIES for op in family.OPS]
    assert sorted(names) == sorted(set(names)) == sorted(OPS)
