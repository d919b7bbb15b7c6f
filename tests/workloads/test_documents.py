"""Documents in the registry: surveys, benchmarks and data sets say their kind and claim nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from nmsat.algorithms.workloads.engine import registry
from nmsat.algorithms.workloads.engine.registry import Document, register, workload, workloads

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Outcome

DOCUMENT = Document(kind="benchmark", protocol="asks", models="those of others", metrics="accuracy")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered here, forgotten afterwards."""
    workloads()
    monkeypatch.setattr(registry, "_KNOWN", dict(registry._KNOWN))


@pytest.mark.usefixtures("known")
def test_the_list_says_kind_protocol_models_and_metrics(call: Callable[[str], Outcome]) -> None:
    variants = {"faithful": "dense", "nm": "ours: 2:4 along k"}
    register(replace(workload("sora"), name="a-document", document=DOCUMENT, variants=variants))
    text = call("workload list").out
    entry = text[text.index("a-document") :].split("\n\n")[0]
    for line in ("kind: benchmark", "protocol: asks", "models: those of others", "metrics: accuracy"):
        assert f"  {line}\n" in entry
    assert text.count("kind: method") == sum(item.document is None for item in workloads().values())


@pytest.mark.usefixtures("known")
def test_the_nm_form_of_a_document_is_said_to_be_ours() -> None:
    with pytest.raises(ValueError, match="begin with 'ours'"):
        register(
            replace(workload("sora"), name="a-document", document=DOCUMENT, variants={"faithful": "", "nm": "2:4"})
        )
