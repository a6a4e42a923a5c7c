"""The spelling-to-phonemes model of g2p_en: as two models, and the package's own NumPy code."""

import ast

import numpy as np
from real_models import real_file

import rnncore
from rnncore import Input, Node, Recurrent, Spec
from rnncore.cells import GRU

NAMES = {
    f"{side}_{node}.{key}": f"{side}_{name}"
    for side in ("enc", "dec")
    for node, key, name in (
        ("emb", "weight", "emb"),
        ("gru", "weight_ih_l0", "w_ih"),
        ("gru", "weight_hh_l0", "w_hh"),
        ("gru", "bias_ih_l0", "b_ih"),
        ("gru", "bias_hh_l0", "b_hh"),
    )
}


def spelling_models():
    """(encoder, decoder): letters to a state; phoneme ids and a state to logits."""
    path = real_file("g2p_en==2.1.0", "g2p_en/checkpoint20.npz")

    def load(side, ids, *head):
        nodes = [
            Node(f"{side}_emb", "Embedding", "ids", {"input_size": ids, "output_size": 256}),
            Recurrent(f"{side}_gru", GRU(256, 256), f"{side}_emb"),
            *head,
        ]
        output = head[-1].name if head else f"{side}_gru.h"
        names = {key: value for key, value in NAMES.items() if key.startswith(side)}
        if head:
            names.update({"fc.weight": "fc_w", "fc.bias": "fc_b"})
        return rnncore.load(path, spec=Spec([Input("ids", "int64", ("B", "T"))], nodes, [output]), names=names)

    return load("enc", 29), load("dec", 74, Node("fc", "Linear", "dec_gru", {"input_size": 256, "output_size": 74}))


def package_code():
    """The package's own class, without its dependencies: only the methods that predict, and its checkpoint."""
    source = real_file("g2p_en==2.1.0", "g2p_en/g2p.py").read_text(encoding="utf-8")
    tree = ast.parse(source)
    owner = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "G2p")
    wanted = ("__init__", "sigmoid", "grucell", "gru", "encode", "predict")
    owner.body = [node for node in owner.body if isinstance(node, ast.FunctionDef) and node.name in wanted]
    init = next(node for node in owner.body if node.name == "__init__")
    init.body = [node for node in init.body if "cmu" not in ast.dump(node) and "homograph" not in ast.dump(node)
                 and "load_variables" not in ast.dump(node)]  # fmt: skip
    names = {"np": np, "os": __import__("os"), "dirname": ""}
    exec(compile(ast.Module([owner], []), "g2p.py", "exec"), names)
    reference = names["G2p"]()
    with np.load(real_file("g2p_en==2.1.0", "g2p_en/checkpoint20.npz")) as arrays:
        for name, array in arrays.items():
            setattr(reference, name, array)
    return reference
