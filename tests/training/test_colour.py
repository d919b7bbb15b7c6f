"""The colour images made here: what a predictor can expect at best, by another way than that of the module."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from nmsat.algorithms.training import colour as task
from nmsat.algorithms.training.recipes import parse_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Outcome


def test_the_posterior_is_bayes_rule_written_out() -> None:
    x, _ = task.draw(3, np.random.default_rng(7))
    patterns = task.motifs().patterns
    places = range(task.SIDE - task.MOTIF_SIDE + 1)
    for image, found in zip(x.astype(np.float64), task.motifs().posterior(x), strict=True):
        empty = (image**2).sum()
        log_density = [[] for _ in range(task.CLASSES)]
        for number, pattern in enumerate(patterns):
            for row in places:
                for column in places:
                    for strength in task.STRENGTHS:
                        rest = image.copy()
                        rest[row : row + task.MOTIF_SIDE, column : column + task.MOTIF_SIDE] -= strength * pattern
                        log_density[number // task.MOTIFS].append((empty - (rest**2).sum()) / 2)
        most = max(map(max, log_density))
        density = [math.fsum(math.exp(one - most) for one in of_class) for of_class in log_density]
        assert np.allclose(found, np.array(density) / sum(density), rtol=1e-9)


def test_the_best_accuracy_is_what_is_said() -> None:
    x, y = task.draw(800, np.random.default_rng(99))
    found = task.motifs().posterior(x)
    best = found.max(axis=1)
    assert abs(best.mean() - task.BEST) < 3.5 * best.std() / math.sqrt(len(best))
    hits = found.argmax(axis=1) == y  # with labels, which the mean above does not look at
    assert abs(hits.mean() - task.BEST) < 3.5 * hits.std() / math.sqrt(len(hits))


def test_the_task_is_the_same_every_time() -> None:
    one, other = task.colour(), task.colour()
    assert np.array_equal(one.x_train, other.x_train)
    assert np.array_equal(one.y_test, other.y_test)
    assert (one.x_train.shape, one.x_test.shape) == ((task.TRAINING, 16, 16, 3), (task.TEST, 16, 16, 3))
    assert one.best == task.BEST
    assert np.bincount(one.y_train).min() > 1000
    assert np.allclose(np.linalg.norm(task.motifs().patterns.reshape(20, -1), axis=1), 1)


@pytest.mark.usefixtures("estimated")
def test_it_is_called_by_name(
    call: Callable[[str], Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NMSAT_DATA", "")
    line = "train --network vit-small --method bdwp --data colour --arithmetic fast --steps 1 --json --config tiny"
    found = json.loads(call(line).out)
    assert found["name"] == "vit-small-bdwp-2of8-seed0,arithmetic=fast,data=colour"
    assert parse_name(found["name"]).data == "colour"
