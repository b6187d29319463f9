"""YAML of our own against PyYAML, which reads version 1.1."""

import math
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from abscert_plugin.report.yaml_text import yaml_text

KEYS = st.from_regex(r"[a-z][a-z_0-9-]{0,6}", fullmatch=True).filter(lambda key: yaml.safe_load(key) == key)
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(
        ["no", "Null", "1e5", "~", "- a", "a: b", "a #b", "---", "8", "1_0", "2026-01-01", "a\u2028b", "="]
    ),
)
SCALARS = st.one_of(TEXTS, st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_what_is_written_is_read_back(value: dict[str, Any]) -> None:
    text = yaml_text(value)
    assert yaml.safe_load(text) == value
    assert repr(yaml.safe_load(text)) == repr(value)  # a text is no number, 1 no True
    assert not any(line.startswith("---") for line in text.splitlines())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        yaml_text({"value": value})
