"""Proofs of deployed files, and files that give something else than what is proven of them."""

from typing import Any

import pytest
from ball_oracle import tiny_case
from plain_oracle import plain_case

from abscert_plugin.bounds.proof import plan
from abscert_plugin.bounds.proof.activations import Piecewise
from abscert_plugin.bounds.proof.arithmetic import HALF
from abscert_plugin.bounds.proof.building import View
from abscert_plugin.bounds.proof.nonlinear import Activation
from abscert_plugin.claim import Arithmetic
from abscert_plugin.errors import UnsupportedModelError
from abscert_plugin.graph.tail import Cut, Tail
from abscert_plugin.verification import proving
from abscert_plugin.verification.cell import open_cells
from abscert_plugin.verification.deployed import Deployed
from abscert_plugin.verification.proving import Prover


@pytest.mark.parametrize("case", [tiny_case(3), plain_case(1)], ids=["cells", "pixels"])
def test_nothing_is_proven_of_a_file_that_gives_other_logits(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Deployed(case.artifact).arithmetic is Arithmetic.ANY_ORDER

    def steeper(view: View) -> None:
        view.walk.append(Activation(view.output, view.name(), Piecewise((0.0,), (0.0, 1.001))))

    monkeypatch.setitem(plan.RULES, "Relu", steeper)
    deployed = Deployed(case.artifact)
    assert deployed.prover is None
    assert deployed.arithmetic is Arithmetic.THIS_RUNTIME
    assert "gives logits here that its graph does not give" in deployed.note
    with pytest.raises(UnsupportedModelError, match="nothing is proven"):
        Deployed(case.artifact, Arithmetic.ANY_ORDER)
    if case.artifact.grid is not None:
        assert open_cells(case.artifact, None)[0].prove is None


def test_a_tail_of_fewer_bits_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    case = plain_case(1)
    monkeypatch.setattr(Prover, "_need_agreement", lambda *_: None)
    monkeypatch.setattr(proving, "without_tail", lambda graph: Cut(graph, Tail.SOFTMAX))
    assert Prover(case.artifact).tail is Tail.SOFTMAX
    monkeypatch.setattr(plan, "NARROW", {None: HALF})  # None is float32's
    with pytest.raises(UnsupportedModelError, match="Softmax of float32, got one of fewer bits"):
        Prover(case.artifact)
