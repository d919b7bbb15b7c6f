"""Methods of one's own, patterns by layer and data of one's own, as the page on training shows them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.core.arithmetic import CONTRACT
from nmsat.algorithms.core.nm import mask
from nmsat.algorithms.core.tape import Pattern, Stage, Tape
from nmsat.algorithms.core.vocabulary import METHODS, MethodFacts
from nmsat.algorithms.layers.base import Context, prepare
from nmsat.algorithms.layers.products import Conv2d
from nmsat.algorithms.methods import files, make_method, register, unregister
from nmsat.algorithms.methods.chosen import best_of_groups
from nmsat.algorithms.methods.patterns import parse_patterns, write_patterns
from nmsat.algorithms.training.config import TrainConfig
from nmsat.algorithms.training.recipes import RECIPES, parse_name, recipe, run_name
from nmsat.algorithms.training.train import Trainer
from nmsat.sim.api import training_step

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Outcome

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "training.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
P28 = Pattern(2, 8)


def block(words: str) -> str:
    (found,) = (text for text in BLOCKS if words in text)
    return found


@pytest.fixture
def relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the file of the page, and take its method away at the end."""
    path = tmp_path / "mine.py"
    path.write_text(block("register("), encoding="utf-8")
    monkeypatch.setenv("NMSAT_METHODS", str(path))
    monkeypatch.setattr(files, "_READ", set())
    yield path
    if "relative" in METHODS:
        unregister("relative")


@pytest.mark.usefixtures("relative", "estimated")
def test_the_method_of_the_page_trains_and_is_scheduled(call: Callable[[str], Outcome]) -> None:
    line = "train --network vgg19-small --method relative --pattern 2:8 --steps 2 --json --config tiny"
    found = json.loads(call(line).out)
    assert found["name"] == "vgg19-small-relative-2of8-seed0"
    assert found["config"]["method"] == "relative"
    assert parse_name(found["name"]).method == "relative"
    like_bdwp = json.loads(call(line.replace("relative", "bdwp")).out)
    assert found["sat"] == like_bdwp["sat"]  # the same products are sparse
    assert found["weights_sha256"] != like_bdwp["weights_sha256"]  # by other weights
    step = training_step("resnet9", "relative", P28, batch=1)
    same = training_step("resnet9", "bdwp", P28, batch=1)
    assert [product.pattern for product in step.products] == [product.pattern for product in same.products]


@pytest.mark.usefixtures("relative")
def test_what_stays_is_what_the_function_scores_best() -> None:
    files.read_method_files()
    layer = Conv2d("c", 16, 32, 3, np.random.default_rng(3), padding=1)
    prepare(layer, Context(CONTRACT, make_method("relative", P28), Tape()))
    w = layer.weight.half.astype(np.float64)
    assert layer.weight.masks is not None
    scores = np.abs(w) / np.sqrt(np.mean(w**2, axis=1, keepdims=True))
    for keep, groups, values in (
        (layer.weight.masks.ff, scores.T.reshape(32, -1, 8), lambda kept: kept.T.reshape(32, -1, 8)),
        (layer.weight.masks.bp, scores.reshape(144, -1, 8), lambda kept: kept.reshape(144, -1, 8)),
    ):
        assert keep is not None
        kept = values(keep)
        assert (kept.sum(axis=2) == 2).all()
        assert (np.where(kept, groups, np.inf).min(axis=2) >= np.where(kept, -np.inf, groups).max(axis=2) - 1e-6).all()


def test_files_that_cannot_be_run_are_refused_in_one_line(
    call: Callable[[str], Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bad.py"
    path.write_text("import nmsat\nraise RuntimeError('no\\nluck')\n", encoding="utf-8")
    leaving, empty = tmp_path / "leaving.py", tmp_path / "empty.py"
    leaving.write_text("import sys\nsys.exit(0)\n", encoding="utf-8")
    empty.write_text(block("register(").replace("facts, relative)", "facts, None)"), encoding="utf-8")
    for name, words in (
        (str(path), "cannot be run: no luck"),
        (str(tmp_path / "none.py"), "No such file"),
        (str(leaving), "cannot be run: it exits with 0"),
        (str(empty), "choose of method 'relative' is None; it must be a function"),
    ):
        monkeypatch.setenv("NMSAT_METHODS", name)
        outcome = call("train --network mlp --steps 1")
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert words in outcome.err


def test_what_a_file_of_methods_prints_is_no_output_of_a_command(
    relative: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = relative.read_text(encoding="utf-8").replace("    size =", "    print('scored')\n    size =")
    relative.write_text(f"{text}\nprint('read')\n", encoding="utf-8")
    files.read_method_files()
    make_method("relative", P28).mask(np.ones((8, 8), np.float16), 0)  # type: ignore[attr-defined] # is a Chosen
    found = capsys.readouterr()
    assert (found.out, found.err) == ("", "read\nscored\n")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("w[0] = 0\n    return w", "cannot be run: assignment destination is read-only"),
        ("return w.missing", "cannot be run: 'numpy.ndarray' object has no attribute 'missing'"),
        ("return [[1], [1, 2]]", "cannot be run: setting an array element"),
        ("raise SystemExit(3)", "cannot be run: it exits with 3"),
        ("return w[:1]", "gave scores of shape (1, 16)"),
    ],
)
def test_a_function_that_cannot_be_run_is_refused_in_one_line(
    call: Callable[[str], Outcome], relative: Path, body: str, words: str
) -> None:
    text = relative.read_text(encoding="utf-8")
    start = text.index("    size =")
    end = text.index("\n\n\nfacts")
    relative.write_text(f"{text[:start]}    {body}{text[end:]}", encoding="utf-8")
    outcome = call("train --network mlp --method relative --pattern 2:8 --steps 1 --config tiny")
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert "method 'relative'" in outcome.err
    if "w[:1]" not in body:
        assert words in outcome.err


@pytest.mark.usefixtures("estimated")
def test_a_changed_file_of_methods_is_noticed(
    call: Callable[[str], Outcome], relative: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the checkpoint of a run that was stopped, and by the record of one that is complete."""

    def changed(old: str, new: str) -> None:
        relative.write_text(relative.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        unregister("relative")
        monkeypatch.setattr(files, "_READ", set())

    name = "mlp-relative-2of8-seed0,epochs=1,batch=7000"
    line = f"train --cell {name} --out {tmp_path / 'out'} --config tiny --json"
    files.read_method_files()
    stopped = call(f"{line} --steps 1")
    assert json.loads(stopped.out)["complete"] is False
    changed("return size", "return -size")
    for _ in range(2):
        refused = call(line)
        assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
        assert "another text of the file that registers method 'relative'" in refused.err
    changed("return -size", "return size")
    whole = call(line)
    assert json.loads(whole.out)["complete"] is True
    assert call(line).out == whole.out  # it is read
    changed("return size", "return -size")
    for command in (line, f"study --networks mlp --methods relative --patterns 2:8 --seeds 0 --out {tmp_path}"):
        if command is not line:
            runs = tmp_path / "runs"
            (tmp_path / "out").rename(runs)
            monkeypatch.setitem(RECIPES, "mlp", RECIPES["mlp"].replace(epochs=1, batch=7000))
            (runs / f"{name}.jsonl").rename(runs / "mlp-relative-2of8-seed0.jsonl")
        refused = call(command)
        assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
        assert "another text of the file that registers method 'relative'" in refused.err


@pytest.mark.parametrize(
    ("name", "facts", "words"),
    [
        ("bdwp", MethodFacts(ff_weights=True), "is there already"),
        ("Mine", MethodFacts(ff_weights=True), "lower-case"),
        ("mine", MethodFacts(), "must prune weights"),
        ("mine", MethodFacts(ff_weights=True, wu_gradient=True), "no gradient"),
    ],
)
def test_registrations_that_do_not_fit(name: str, facts: MethodFacts, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        register(name, facts, lambda w, n, m, axis: w)
    assert ("mine" in METHODS, "Mine" in METHODS) == (False, False)
    with pytest.raises(ValueError, match="was not registered"):
        unregister("bdwp")


def test_scores_that_are_none_are_refused() -> None:
    register("mine", MethodFacts(ff_weights=True), lambda w, n, m, axis: w[:1])
    try:
        layer = Conv2d("c", 16, 32, 3, np.random.default_rng(3), padding=1)
        with pytest.raises(ValueError, match=r"scores of shape \(1, 32\)"):
            prepare(layer, Context(CONTRACT, make_method("mine", P28), Tape()))
        with pytest.raises(ValueError, match="cannot have patterns of single layers"):
            TrainConfig(network="mlp", method="mine", patterns="fc2@2:4")
    finally:
        unregister("mine")


@pytest.mark.parametrize("axis", [0, 1])
def test_best_of_groups_by_magnitude_is_the_mask(axis: int) -> None:
    w = np.random.default_rng(5).standard_normal((37, 22)).astype(np.float16)
    w[::3] = np.float16(0.5)  # ties: the first stays
    for n, m in ((2, 8), (1, 4), (3, 16)):
        found = best_of_groups(np.abs(w), n, m, axis)
        assert np.array_equal(found, mask(w, n, m, axis=axis))


def test_layers_have_the_patterns_that_they_were_given() -> None:
    patterns = "conv2@2:4+conv3@2:16~2:8+conv4@dense+conv5@dense~2:4"
    config = recipe("vgg19-small").replace(method="bdwp", patterns=patterns, batch=4)
    assert parse_name(run_name(config)) == config
    assert not set(run_name(config)) & set('/\\*?"<>| ')  # it is also the name of a file
    tape = Tape()
    Trainer(config).run_step(tape)
    found = {(p.name, p.stage): str(p.pattern or "dense") for p in tape.products if p.stage is not Stage.WU}
    assert found["conv2", Stage.FF] == found["conv2", Stage.BP] == "2:4"
    assert (found["conv3", Stage.FF], found["conv3", Stage.BP]) == ("2:16", "2:8")
    assert found["conv4", Stage.FF] == found["conv4", Stage.BP] == "dense"
    assert (found["conv5", Stage.FF], found["conv5", Stage.BP]) == ("dense", "2:4")
    assert found["fc", Stage.FF] == "dense"  # the classifier may not be pruned
    rest = recipe("vgg19-small").replace(method="bdwp", patterns="rest@2:8~2:4", batch=4)
    whole = Tape()
    Trainer(rest).run_step(whole)
    assert {str(p.pattern) for p in whole.products if p.stage is Stage.BP and p.name != "fc"} == {"2:4"}
    same = recipe("vgg19-small").replace(method="bdwp", patterns="rest@2:8", batch=4)
    plain = same.replace(patterns="")
    one, other = Trainer(same), Trainer(plain)
    for trainer in (one, other):
        trainer.run_step()
    assert one.weights_sha256() == other.weights_sha256()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"patterns": "conv2"}, "has the part 'conv2'"),
        ({"patterns": "conv2@2:7"}, "2:7"),
        ({"patterns": "conv2@2:4+conv2@2:8"}, "layer 'conv2' twice"),
        ({"patterns": "conv2@2:4", "method": "bi-mask"}, "method 'bi-mask' cannot have patterns"),
        ({"patterns": "conv2@2:4", "method": "dense"}, "method 'dense' cannot have patterns"),
    ],
)
def test_patterns_that_cannot_be_are_refused(fields: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        recipe("vgg19-small").replace(**fields)


def test_unknown_layers_are_refused_before_the_first_step() -> None:
    config = recipe("vgg19-small").replace(method="bdwp", patterns="conv9@2:4")
    with pytest.raises(ValueError, match="names layer 'conv9'; layers that may be pruned: conv2, conv3"):
        Trainer(config)


def test_patterns_are_written_as_they_are_read() -> None:
    text = "conv2@2:4+res1a@2:16~2:8+fc@dense+rest@2:8~dense"
    assert write_patterns(parse_patterns(text)) == text
    assert parse_patterns("") == {}


def test_data_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block("dots = Dataset("), str(PAGE), "exec"), {})  # the page's own words
    accuracy, bound = re.fullmatch(r"(\d+)%, bound ([\d.]+)\n", capsys.readouterr().out).groups()  # type: ignore[union-attr]
    assert int(accuracy) > 50  # ten classes: 10 % by chance
    assert 1.2 < float(bound) < 2
