"""Proofs that nothing satisfies a query, in a file; and proving again what they say, without a search."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, final

import msgspec
import numpy as np
import torch

import abscert_plugin
from abscert_plugin.bounds.bounder import BoundMethod
from abscert_plugin.bounds.part_lines import PartLines
from abscert_plugin.bounds.proof import Proof
from abscert_plugin.bounds.proof.enclosure import Enclosure
from abscert_plugin.bounds.waiting import nodes_of
from abscert_plugin.claim import Arithmetic
from abscert_plugin.errors import RecordError, UnsupportedModelError, VerifierError
from abscert_plugin.files import converted, read_json, write_json
from abscert_plugin.query.by_hidden import bounds_of, ends_of_cuts
from abscert_plugin.query.network import Network
from abscert_plugin.query.query import Case
from abscert_plugin.query.reading import QueryFile
from abscert_plugin.query.refuting import Refuter
from abscert_plugin.query.search import Group
from abscert_plugin.query.tree import COMBINED, INPUTS, MOST_NODES, OPTIMISED, Region, closed_parts, listed
from abscert_plugin.records import digest_of

KIND: Final = "abscert unsat proof"
SCHEMA: Final = 1
SAYS: Final = (
    "Nothing satisfies the query: whatever input of its boxes the network is run on, in every evaluation of the file "
    "in float32, in any order of its sums, each disjunct has a constraint that is not satisfied. The same holds of the "
    "network as a function of real numbers, at all inputs of the query's type."
)
_LIMIT: Final = 2**28  # bytes
_AT_ONCE: Final = 128  # parts


@final
class StoredGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What refutes some conjunctions of a case.

    Args:
        case: the place of the case, a box, among those of the query.
        conjunctions: their places in the case.
        tree: what refutes them.
        lines: those that close parts of it as `optimised`; their rows are the conjunction's linear constraints.
    """

    case: int
    conjunctions: list[int]
    tree: list[Any]
    lines: PartLines | None = None


@final
class UnsatProof(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What refutes a query.

    Args:
        kind, schema: what this file is.
        says: its claim in words.
        arithmetic: `any-order`.
        query: name, version and sha256 of the text.
        model: name and sha256 of the ONNX file.
        groups: what refutes the conjunctions of constraints on outputs, of all boxes of the query: each its tree, a
            node before its lower and its upper half; `["cut", input, value]`, `["sign", activation]`,
            `["value", activation, value]`, or what closes a part:
            a method, or `["combined", weights]` of a conjunction's linear constraints.
        versions: of this package and of libraries.
        digest: sha256 of all else. It finds accidents; proving the parts again is what finds all else.
    """

    kind: str
    schema: int
    says: str
    arithmetic: str
    query: dict[str, str]
    model: dict[str, str]
    groups: list[StoredGroup]
    versions: dict[str, str]
    digest: str


def write_unsat_proof(path: Path, query: QueryFile, network: Network, groups: Sequence[Group]) -> None:
    """Write what refutes a query.

    Raises:
        RecordError: if the file cannot be written, or would be too long to be read.
    """
    content = {
        "kind": KIND,
        "schema": SCHEMA,
        "says": SAYS,
        "arithmetic": Arithmetic.ANY_ORDER.value,
        "query": {"name": query.path.name, "version": query.query.version, "sha256": query.sha256},
        "model": {"name": network.file.path.name, "sha256": network.file.sha256},
        "groups": [msgspec.to_builtins(_stored(group)) for group in groups],
        "versions": {
            "abscert-plugin": abscert_plugin.__version__,
            **{name: version(name) for name in ("torch", "numpy")},
        },
    }
    write_json(path, {**content, "digest": digest_of(content)}, option="--unsat-proofs")


def _stored(group: Group) -> StoredGroup:
    closed = [node for node in nodes_of(group.root) if node.kind == OPTIMISED]
    parts = [node.lines for node in closed if node.lines is not None]
    lines = None
    if closed:
        if len(parts) == len(closed):
            lines = PartLines.of(parts, np.arange(len(parts[0].slopes)), group.bent)
        if lines is None:
            raise RecordError(f"the proof has the lines of {len(closed):,} parts, more than a file of it can keep")
    return StoredGroup(group.case, list(group.conjunctions), listed(group.root), lines)


def read_unsat_proof(path: Path) -> UnsatProof:
    """Return the proof in a file.

    Raises:
        RecordError: if it cannot be read, is no such proof or of another schema, or its digest is that of another.
    """
    value = read_json(path, _LIMIT)
    if value.get("kind") != KIND or value.get("schema") != SCHEMA:
        raise RecordError(f"expected an unsat proof of schema {SCHEMA} in {path}")
    proof = converted(value, UnsatProof, f"{path} is no unsat proof")
    if proof.digest != digest_of({key: item for key, item in value.items() if key != "digest"}):
        raise RecordError(f"{path}: its digest is not that of its content; it was changed after it was written")
    return proof


def fault_of(
    stored: UnsatProof, query: QueryFile, network: Network, advance: Callable[[int], object] = lambda _: None
) -> str:
    """Return why a proof does not hold for a query and a network; empty where it does.

    Args:
        stored: the proof.
        query: the query that it is to be about.
        network: the file that it is to be about.
        advance: takes how many parts were proven.
    """
    if stored.arithmetic != Arithmetic.ANY_ORDER or stored.says != SAYS:
        return "it claims something else than an unsat proof does"
    if stored.query.get("sha256") != query.sha256:
        return "it is about another query: the sha256 of the text differs"
    if stored.model.get("sha256") != network.file.sha256:
        return "it is about another file: the sha256 of the model differs"
    cases = query.query.cases
    asked = {(number, place) for number, case in enumerate(cases) for place in range(len(case.outputs))}
    refuted = [(group.case, place) for group in stored.groups for place in group.conjunctions]
    if set(refuted) != asked or len(refuted) != len(asked) or not all(group.conjunctions for group in stored.groups):
        return f"it refutes other conjunctions than the {len(asked)} of the query"
    if sum(len(group.tree) for group in stored.groups) > MOST_NODES:
        return f"its trees have more than {MOST_NODES:,} nodes"
    try:
        proof = network.proof
        for group in stored.groups:
            case = cases[group.case]
            alone = replace(case, outputs=tuple(case.outputs[place] for place in group.conjunctions))
            fault = _fault_of_case(proof, group, alone, query.query.is_real, advance)
            if fault:
                return f"box {group.case}: {fault}"
    except (RecordError, UnsupportedModelError, VerifierError) as error:
        return str(error)
    return ""


def _fault_of_case(
    proof: Proof, stored: StoredGroup, case: Case, is_real: bool, advance: Callable[[int], object]
) -> str:
    refuter = Refuter(proof, case, is_real)
    activations = sum(int(np.prod(proof.shapes[name])) for name in proof.free)
    whole = Region(case.lower, case.upper)
    closed = closed_parts(stored.tree, whole, not is_real, activations)
    optimised = closed.pop(OPTIMISED, [])
    if optimised and not _refutes_by_lines(proof, refuter, stored.lines, optimised, activations, advance):
        return f"a part of its tree is not refuted by {OPTIMISED}"
    for kind, parts in closed.items():
        parts = sorted(parts, key=lambda part: bool(part.cuts))
        boxes: dict[bytes, dict[str, Enclosure]] = {}
        for start in range(0, len(parts), _AT_ONCE):
            some = parts[start : start + _AT_ONCE]
            for is_hidden in (False, True):
                same = [part for part in some if bool(part.cuts) == is_hidden]
                if same and not _refutes(proof, refuter, kind, same, whole, boxes):
                    return f"a part of its tree is not refuted by {kind}"
            advance(len(some))
    return ""


def _refutes_by_lines(
    proof: Proof,
    refuter: Refuter,
    lines: PartLines | None,
    parts: Sequence[Region],
    activations: int,
    advance: Callable[[int], object],
) -> bool:
    """Return whether the lines that are kept refute parts of one box, in the tree's order."""
    box = {(part.lower.tobytes(), part.upper.tobytes()) for part in parts}
    if lines is None or len(box) != 1 or not proof.free or refuter.conjunctions != 1:
        return False
    rows, bent = lines.of_margins(refuter.limits, activations)
    if not len(rows):
        return False
    lower, upper = (torch.from_numpy(end).unsqueeze(0) for end in (parts[0].lower, parts[0].upper))
    bounds = bounds_of(proof, refuter, refuter.intervals(lower, upper, refined=True), bent, rows)
    kept = lines.parts([part.cuts for part in parts], len(rows), len(bent))
    for start in range(0, len(kept), _AT_ONCE):
        some = kept[start : start + _AT_ONCE]
        if not (bounds.proven(some).max(axis=1) > 0).all():
            return False
        advance(len(some))
    return True


def _refutes(
    proof: Proof,
    refuter: Refuter,
    kind: str,
    parts: Sequence[Region],
    whole: Region,
    boxes: dict[bytes, dict[str, Enclosure]],
) -> bool:
    """Return whether a method refutes parts, cut at hidden values or not; `boxes` keeps enclosures of those boxes.

    How many hidden values are bounded by backward passes is that of the box of the batch in which most are open. So
    the whole box goes along: then no part is bounded less closely than it was in the batch in which it was refuted.
    """
    lower, upper = (torch.from_numpy(np.stack([getattr(part, end) for part in parts])) for end in ("lower", "upper"))
    if kind == INPUTS:
        return bool(refuter.refuted_inputs(lower, upper).all())
    if kind == COMBINED and (not refuter.combinable or {len(part.weights) for part in parts} != {refuter.combinable}):
        return False
    weights = torch.tensor([part.weights for part in parts], dtype=torch.float64)
    if not parts[0].cuts:
        least, most = (torch.from_numpy(end).unsqueeze(0) for end in (whole.lower, whole.upper))
        is_refined = kind in (BoundMethod.CROWN, COMBINED)
        together = refuter.intervals(torch.cat([lower, least]), torch.cat([upper, most]), is_refined)
        values = {name: value.take(torch.arange(len(parts))) for name, value in together.items()}
        if kind == COMBINED:
            return bool(refuter.combined(values, weights).all())
        return bool(refuter.refuted(values, refuter.bounds(values, BoundMethod(kind))).all())
    if kind not in (BoundMethod.CROWN, COMBINED) or not refuter.is_linear:
        return False
    keys = [part.lower.tobytes() + part.upper.tobytes() for part in parts]
    for row, key in enumerate(keys):
        if key not in boxes:
            boxes[key] = refuter.intervals(lower[row : row + 1], upper[row : row + 1], refined=True)
    names = boxes[keys[0]]
    values = {name: Enclosure.joined([boxes[key][name] for key in keys]) for name in names}
    ends = ends_of_cuts(proof, [part.cuts for part in parts])
    if kind == COMBINED:
        return bool(refuter.combined(values, weights, ends).all())
    linear, _ = refuter.explained(values, ends)
    bounds = torch.maximum(refuter.bounds(values, BoundMethod.IBP), linear)
    return bool(refuter.refuted(values, bounds).all())
