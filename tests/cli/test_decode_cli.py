"""rnncore generate, and what the vocabulary adds to a file: text in, text out, one line where something is wrong."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from language_models import LETTERS, float32_model
from safetensors import safe_open
from safetensors.numpy import save_file

import rnncore
from rnncore import Input, Model, Node, Recurrent, Spec
from rnncore.cells import GRU
from rnncore.cli.application import application
from rnncore.errors import FormatError, SpecError


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    model = float32_model()
    model = Model(model.spec, model.weights, vocabulary={"tokens": LETTERS, "out": LETTERS})
    return rnncore.save(tmp_path_factory.mktemp("models") / "letters.safetensors", model)


def cli(*words):
    return CliRunner().invoke(application, [str(word) for word in words], prog_name="rnncore")


def texts(path, prompts, *arguments, **options):
    return [
        prompt + one.text
        for prompt, first in zip(prompts, rnncore.load(path).generate(prompts, *arguments, **options), strict=True)
        for one in (first, *first.alternatives)
    ]


@pytest.mark.parametrize(
    "words, options",
    [
        ([], {}),
        (["--temperature", 0.9, "--top-k", 5, "--seed", 3], {"temperature": 0.9, "top_k": 5, "seed": 3}),
        (["--top-p", 0.8, "--seed", 3], {"top_p": 0.8, "seed": 3}),
        (["--seed", 4, "--samples", 3], {"seed": 4, "samples": 3}),
        (["--beam", 4, "--n-best", 3, "--length-penalty", 0.5], {"beams": 4, "n_best": 3, "length_penalty": 0.5}),
        (["--stop", "k", "--stop", "</s>"], {"stop": ["k", "</s>"]}),
    ],
)
def test_generate_prints_what_the_model_generates(letters, words, options):
    done = cli("generate", letters, "--prompt", "abc", "-p", "hat", "--max-length", 12, *words)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == texts(letters, ["abc", "hat"], 12, **options)


def test_scores_and_tokens(letters):
    done = cli("generate", letters, "-p", "<s> a b", "--tokens", "--max-length", 3, "--scores")
    (found,) = rnncore.load(letters).generate([["<s>", "a", "b"]], 3)
    score, text = done.stdout.splitlines()
    assert text == f"<s> a b {' '.join(found.symbols)}"
    assert score == f"log-probability {found.log_prob:.3f}, score {found.score:.3f}, 3 tokens, max-length"


@pytest.mark.parametrize(
    "words, message",
    [
        (["--top-k", 0], "top_k=0, expected a number of tokens from 1 to 23"),
        (["--temperature", -1], "temperature=-1.0, expected 0 (greedy) or a positive number"),
        (["--beam", 24], "beams=24, expected at most the 23 tokens of output 'out'"),
        (["--stop", "zz"], "stop token 'zz' is not in the vocabulary of 23 tokens"),
        (["--beam", 2, "--seed", 1], "expected either beam search or draws"),
    ],
)
def test_one_line_where_something_is_wrong(letters, words, message):
    done = cli("generate", letters, "-p", "a", *words)
    assert done.exit_code == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1


def test_an_encoder_s_input_by_text(tmp_path):
    """An encoder and a decoder in one graph, each with a vocabulary of its own."""
    nodes = [
        Node("look", "Embedding", "letters", {"input_size": 4, "output_size": 3}),
        Recurrent("encoder", GRU(3, 5), "look"),
        Node("embed", "Embedding", "sounds", {"input_size": 6, "output_size": 3}),
        Recurrent("decoder", GRU(3, 5), "embed", initial=("encoder.h",), lengths=None),
        Node("out", "Linear", "decoder", {"input_size": 5, "output_size": 6}),
    ]
    inputs = [Input("letters", "int64", ("B", "S")), Input("sounds", "int64", ("B", "T"))]
    spec, rng = Spec(inputs, nodes, ["out"]), np.random.default_rng(6)
    model = Model(spec, {name: rng.standard_normal(shape) * 3 for name, shape in spec.weight_shapes().items()})
    sounds = ["<s>", "</s>", "AH", "B", "K", "T"]
    vocabulary = {"letters": list("abct"), "out": sounds, "sounds": sounds}
    path = rnncore.save(tmp_path / "spell.safetensors", model, vocabulary=vocabulary)
    different = set()
    for word, ids in (("cab", [2, 0, 1]), ("tat", [3, 0, 3]), ("bbbb", [1] * 4)):
        done = cli("generate", path, "-i", f"letters={word}", "-p", "<s>", "--tokens", "--max-length", 5)
        (found,) = model.generate([[0]], 5, inputs={"letters": [ids]})
        assert done.stdout == f"<s> {' '.join(sounds[i] for i in found.tokens)}\n", done.output
        different.add(done.stdout)
    assert len(different) > 1
    for wrong in ("letters", "words=cab"):
        done = cli("generate", path, "-i", wrong, "-p", "<s>", "--tokens")
        assert done.exit_code == 1 and "expected NAME=TEXT with an input that has a vocabulary" in done.stderr


def test_convert_adds_a_vocabulary(letters, tmp_path):
    plain = rnncore.save(tmp_path / "plain.safetensors", float32_model())
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({"tokens": LETTERS, "out": LETTERS}))
    done = cli("convert", plain, tmp_path / "made.safetensors", "--vocabulary", tokens)
    assert done.exit_code == 0 and "vocabulary of out: 23 tokens" in done.stdout
    assert (tmp_path / "made.safetensors").read_bytes() == letters.read_bytes()
    for content, message in (
        ("[]", 'tokens.json: expected an object like {"ids": ["<s>", "a", "b"]}'),
        ("{", "tokens.json: not JSON"),
        ('{"words": ["a"]}', "'words' is no input or output"),
    ):
        tokens.write_text(content)
        done = cli("convert", plain, tmp_path / "other.safetensors", "--vocabulary", tokens)
        assert done.exit_code == 1 and message in done.stderr and not (tmp_path / "other.safetensors").exists()


def test_models_without_a_vocabulary():
    done = cli("generate", "zoo:sunspots", "-p", "a")
    assert (
        done.exit_code == 1 and "zoo:sunspots: no vocabulary, expected a model that was saved with one" in done.stderr
    )
    assert cli("generate", "zoo:sunspots").exit_code == 2  # no prompt


def test_inspect_shows_the_vocabulary(letters):
    assert "vocabulary of tokens: 23 tokens, <s> </s> <unk> a b c d e ..." in cli("inspect", letters).stdout
    assert json.loads(cli("inspect", letters, "--json").stdout)["vocabulary"]["out"] == LETTERS


# --- the file ------------------------------------------------------------------------------------------------------


def rewritten(source, target, change):
    """The file with its metadata changed."""
    with safe_open(source, "np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found = json.loads(file.metadata()["rnncore"])
    change(found)
    save_file(tensors, target, {"rnncore": json.dumps(found, sort_keys=True, separators=(",", ":"))})
    return target


def test_a_file_without_a_vocabulary_is_as_it_always_was(letters, tmp_path):
    plain = rnncore.save(tmp_path / "plain.safetensors", float32_model())
    stripped = rewritten(letters, tmp_path / "stripped.safetensors", lambda found: found.pop("vocabulary"))
    assert stripped.read_bytes() == plain.read_bytes()
    assert rnncore.load(plain).vocabulary == {}
    copied, _, _ = rnncore.convert(letters, tmp_path / "copy.safetensors")
    assert copied.read_bytes() == letters.read_bytes()
    given = rnncore.save(
        tmp_path / "given.safetensors", float32_model(), vocabulary={"tokens": LETTERS, "out": LETTERS}
    )
    assert given.read_bytes() == letters.read_bytes()
    np.testing.assert_array_equal(rnncore.load(given)([[1, 2]]), rnncore.load(plain)([[1, 2]]))


@pytest.mark.parametrize(
    "vocabulary, error, message",
    [
        ([], FormatError, "vocabulary: list, expected an object"),
        ({"out": 3}, SpecError, "vocabulary 'out': int, expected a list of tokens"),
        ({"out": [1] * 23}, SpecError, "token 1, expected strings"),
        ({"out": []}, SpecError, "no tokens, expected strings"),
        ({"other": ["a"]}, SpecError, "'other' is no input or output"),
    ],
)
def test_damaged_vocabularies(letters, tmp_path, vocabulary, error, message):
    path = rewritten(letters, tmp_path / "damaged.safetensors", lambda found: found.update(vocabulary=vocabulary))
    with pytest.raises(error, match=f"damaged.safetensors: .*{message}"):
        rnncore.load(path)
