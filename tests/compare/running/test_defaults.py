"""What a run means to training and verification: which networks are opened to decide the claim `ball`."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from abscert_plugin.verification.opening import NetworkChoice
from compare.plans.planned_run import Run
from compare.running.defaults import ball_search


@pytest.mark.parametrize(
    ("shape", "is_opened"),
    [((1, 28, 28), True), ((3, 32, 32), True), ((3, 64, 64), True), ((3, 65, 65), False), ((3, 224, 224), False)],
)
def test_networks_of_large_images_are_run_and_never_opened(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], is_opened: bool
) -> None:
    def decider(*given: Any) -> tuple[Any, str]:
        return given, ""

    monkeypatch.setattr("compare.running.defaults.open_verifier", decider)
    run = Run(data="folder", network="alexnet", method="abstrain", radius="0.1", cells=2)
    artifact: Any = SimpleNamespace(path=Path("training/deploy.onnx"))
    images: Any = SimpleNamespace(shape=shape)
    given: Any = ball_search(run, artifact, images, "0.1")
    assert given[-1] == (NetworkChoice(False, Path("training")) if is_opened else NetworkChoice(True, None))
