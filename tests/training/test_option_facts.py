"""What is told of the methods' options: each has a meaning, a default and a range, and the range is what is taken."""

import pytest

from abscert_plugin.claim import Radius
from abscert_plugin.errors import ConfigError
from abscert_plugin.training.method import MethodEntry
from abscert_plugin.training.methods import METHODS
from abscert_plugin.training.options import OptionFacts

OPTIONS = [(entry, facts) for entry in METHODS.values() for facts in entry.option_facts]
OUTSIDE = {
    "0 to 1": ("-0.01", "1.01"),
    "above 0 and at most 1": ("0", "1.01"),
    "at least 1": ("0",),
    "at least 0": ("-0.01",),
    "true, false": ("maybe",),
}


@pytest.mark.parametrize(("entry", "facts"), OPTIONS, ids=lambda value: value.name)
def test_every_option_has_a_meaning_a_default_and_the_range_that_it_is_held_to(
    entry: MethodEntry, facts: OptionFacts
) -> None:
    assert facts.meaning
    radius = Radius.parse("0.1")
    entry.create(radius, {facts.name: facts.default})
    outside = OUTSIDE.get(facts.range) or ("nothing of the kind",)
    for text in outside:
        with pytest.raises(ConfigError):
            entry.create(radius, {facts.name: text})
    if facts.range not in OUTSIDE:
        assert facts.default in facts.range.split(", ")
