"""What examples/serve takes for an image, and the one line that it answers to all else."""

import json
import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_request import BYTES, JSON, BadRequestError, byte_limit, read_image

SHAPE = (1, 2, 2)
PIXELS = [[[0, 0.1], [0.5, 1]]]


def told(image: Any) -> bytes:
    return json.dumps({"image": image}).encode()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (told(PIXELS), JSON),
        (told(PIXELS), ""),
        (told(PIXELS), "Application/JSON; charset=utf-8"),
        (struct.pack("<4f", 0, 0.1, 0.5, 1), BYTES),
    ],
)
def test_an_image_is_read(body: bytes, kind: str) -> None:
    image = read_image(body, kind, SHAPE)
    assert image.dtype == np.float32
    assert np.array_equal(image, np.array(PIXELS, dtype=np.float32))


@pytest.mark.parametrize(
    ("body", "kind", "status", "expected"),
    [
        (told([PIXELS]), JSON, 400, r"shape \(1, 2, 2\), got \(1, 1, 2, 2\)"),
        (told([[[0, 1], [0]]]), JSON, 400, r"shape \(1, 2, 2\)"),
        (told([[["0", "1"], ["0", "1"]]]), JSON, 400, "no numbers"),
        (told([[[True, False], [True, False]]]), JSON, 400, "no numbers"),
        (told([[[10**400, 0], [0, 0]]]), JSON, 400, "no numbers"),
        (told([[[float("nan"), 0], [0, 0]]]), JSON, 400, "from 0 to 1"),
        (told([[[float("inf"), 0], [0, 0]]]), JSON, 400, "from 0 to 1"),
        (told([[[1.00000001, 0], [0, 0]]]), JSON, 400, "from 0 to 1"),
        (told([[[255, 0], [0, 0]]]), JSON, 400, "from 0 to 1"),
        (told(None), JSON, 400, r"got \(\)"),
        (b"[]", JSON, 400, "the key"),
        (b'{"image": 1, "label": 2}', JSON, 400, "the key"),
        (b"{", JSON, 400, "JSON"),
        (b"\xff", JSON, 400, "JSON"),
        (b"[" * 4000, JSON, 400, "JSON"),
        (struct.pack("<4f", 0, float("nan"), 0, 0), BYTES, 400, "from 0 to 1"),
        (struct.pack("<4f", 0, -0.1, 0, 0), BYTES, 400, "from 0 to 1"),
        (b"\0" * 15, BYTES, 400, "16 bytes"),
        (told(PIXELS), "text/plain", 415, "content type"),
        (b" " * (byte_limit(SHAPE) + 1), JSON, 413, "at most"),
    ],
)
def test_all_else_is_refused_in_one_line(body: bytes, kind: str, status: int, expected: str) -> None:
    with pytest.raises(BadRequestError, match=expected) as caught:
        read_image(body, kind, SHAPE)
    assert caught.value.status == status
    assert "\n" not in str(caught.value)


@given(st.one_of(st.binary(max_size=40), st.recursive(st.floats() | st.integers(), st.lists).map(told)))
@settings(max_examples=60, deadline=None)
def test_whatever_is_sent_is_an_image_or_refused(body: bytes) -> None:
    for kind in (JSON, BYTES):
        with suppress(BadRequestError):
            image = read_image(body, kind, SHAPE)
            assert image.shape == SHAPE
            assert image.dtype == np.float32
            assert 0 <= image.min() <= image.max() <= 1
