"""Deciding a query: points are tried, then each case is refuted, by bounds and by cutting what these leave open."""

import time
from dataclasses import dataclass, replace
from typing import Final, final

from abscert_plugin.bounds.bounder import BoundMethod, as_memory_error
from abscert_plugin.claim import QueryVerdict
from abscert_plugin.errors import UnsupportedModelError, VerifierError
from abscert_plugin.query.attack import Attack, Witness
from abscert_plugin.query.network import Network
from abscert_plugin.query.query import Query
from abscert_plugin.query.search import Group, QuerySearch, bounded
from abscert_plugin.query.tree import QueryNode
from abscert_plugin.telling import Tell, nobody

_POINTS: Final = 64  # of each case, at first
_MORE_POINTS: Final = 2048  # of each case, where nothing can be proven
_REAL_POINTS: Final = 256  # the same of real numbers, where each is checked in rationals
_SHARES: Final = (0.03, 0.2)  # of the time left, for following gradients: before bounds, and of what they leave open
_TRYING: Final = "cases in which points are tried"
_FOLLOWING: Final = "cases in which gradients are followed"
_BOUNDING: Final = "cases that are bounded"
_CUTTING: Final = "rounds of cutting"


@final
@dataclass(frozen=True)
class QueryOutcome:
    """What came out.

    Args:
        verdict: the verdict.
        answer: the input that satisfies the query, for `sat`.
        groups: what refutes the conjunctions of all cases, for `unsat`.
        reason: why nothing was decided; empty otherwise.
    """

    verdict: QueryVerdict
    answer: Witness | None = None
    groups: tuple[Group, ...] = ()
    reason: str = ""


def solve(query: Query, network: Network, seconds: float, tell: Tell = nobody) -> QueryOutcome:
    """Decide a query.

    Soundness: `sat` is an input that was run through the file and checked in exact arithmetic; `unsat` rests on
    `refuting`, for all evaluations of the file in float32 in any order. All else is `unknown` or `timed-out`.

    Args:
        query: the query.
        network: the file, which fits it.
        seconds: after which nothing new is begun.
        tell: told how far it is.
    """
    until = time.monotonic() + seconds
    try:
        return _solve(query, network, until, tell)
    except VerifierError as error:
        return QueryOutcome(QueryVerdict.UNKNOWN, reason=str(error))
    except (RuntimeError, MemoryError) as error:
        failure = as_memory_error(error, BoundMethod.CROWN, 1)
        if failure is None:
            raise
        return QueryOutcome(QueryVerdict.UNKNOWN, reason=str(failure))


def _solve(query: Query, network: Network, until: float, tell: Tell) -> QueryOutcome:
    attack, count = Attack(network, query), len(query.cases)
    for number, case in enumerate(query.cases):
        tell(_TRYING, number, count)
        answer = attack.sample(case, _POINTS, until)
        if answer is not None:
            return QueryOutcome(QueryVerdict.SAT, answer)
    try:
        proof = network.proof
    except UnsupportedModelError as error:
        return _attacked(query, attack, until, str(error), tell)
    groups: list[Group] = []
    searches: list[QuerySearch] = []
    is_quick = network.module is not None  # gradients of a proof take longer than bounds of a whole box
    for number, case in enumerate(query.cases if is_quick else ()):
        tell(_FOLLOWING, number, count)
        answer = attack.descend(case, _part_of(until, _SHARES[0] / count))
        if answer is not None:
            return QueryOutcome(QueryVerdict.SAT, answer)
    for number, case in enumerate(query.cases):
        tell(_BOUNDING, number, count)
        if time.monotonic() > until:
            return _late()
        found, values = bounded(proof, number, case, query.is_real)
        groups += found
        closed = {place for group in found for place in group.conjunctions}
        left = [place for place in range(len(case.outputs)) if place not in closed]
        if left:
            still = replace(case, outputs=tuple(case.outputs[place] for place in left))
            answer = attack.descend(still, _part_of(until, _SHARES[1] / count))
            if answer is not None:
                return QueryOutcome(QueryVerdict.SAT, answer)
        for place in left:
            conjunction = case.outputs[place]
            alone = replace(case, outputs=(conjunction,))
            searches.append(
                QuerySearch(proof, Group(number, (place,), QueryNode()), alone, query.is_real, attack, values)
            )
            groups.append(searches[-1].group)
            answer = searches[-1].start(until)
            if answer is not None:
                return QueryOutcome(QueryVerdict.SAT, answer)
    rounds = 0
    while still_open := sum(search.is_open for search in searches):
        tell(_CUTTING, rounds, None, f"{still_open} of {len(groups)} conjunctions open")
        rounds += 1
        for search in searches:
            if time.monotonic() > until:
                return _late(f", with {sum(search.share for search in searches) / len(searches):.2g} of the tree open")
            answer = search.step(until) if search.is_open else None
            if answer is not None:
                return QueryOutcome(QueryVerdict.SAT, answer)
    reason = next((search.reason for search in searches if search.reason), "")
    if reason:
        return QueryOutcome(QueryVerdict.UNKNOWN, reason=reason)
    return QueryOutcome(QueryVerdict.UNSAT, groups=tuple(groups))


def _part_of(until: float, share: float) -> float:
    """Return when a share of the time left will be over."""
    return time.monotonic() + share * max(0.0, until - time.monotonic())


def _attacked(query: Query, attack: Attack, until: float, reason: str, tell: Tell) -> QueryOutcome:
    """Look for an answer where nothing can be proven."""
    for number, case in enumerate(query.cases):
        tell(_TRYING, number, len(query.cases))
        count = _REAL_POINTS if query.is_real else _MORE_POINTS
        answer = attack.sample(case, count, until) or attack.descend(case, until)
        if answer is not None:
            return QueryOutcome(QueryVerdict.SAT, answer)
        if time.monotonic() > until:
            return _late()
    return QueryOutcome(QueryVerdict.UNKNOWN, reason=reason)


def _late(note: str = "") -> QueryOutcome:
    return QueryOutcome(QueryVerdict.TIMED_OUT, reason=f"the time was up before it was decided{note}")
