"""Default options of a run: which networks are opened to decide the claim `ball`."""

from pathlib import Path

import pytest

from abscert_plugin.verification.opening import NetworkChoice
from compare.running.defaults import network_choice


@pytest.mark.parametrize(
    ("shape", "is_opened"),
    [((1, 28, 28), True), ((3, 32, 32), True), ((3, 64, 64), True), ((3, 65, 65), False), ((3, 224, 224), False)],
)
def test_networks_of_large_images_are_run_and_never_opened(shape: tuple[int, int, int], is_opened: bool) -> None:
    chosen = network_choice(shape, Path("training"))
    assert chosen == (NetworkChoice(False, Path("training")) if is_opened else NetworkChoice(True, None))
