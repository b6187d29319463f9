"""Changes of files that no program of ours would make: what a reader of files must refuse in one line, or take."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

_DEEP: list[Any] = []
for _ in range(300):
    _DEEP = [_DEEP]

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 1.5, -0.0, 1e308, -1e308, 1e-320, 2**31, 2**53, 2**63, 2**64, -(2**63), 10**400),
    *(float("nan"), float("inf"), float("-inf")),
    *("", " ", "a", "0", "-1", "nan", "1e999", "1/0", "9" * 5000, "x" * 5000, "a\nb", "\x1b[31mred", "\u202e"),
    *("\0", "a\0b", "\ud800", "\udc80", "..", "../../etc/passwd", "/dev/null", "/", "~", "{0}", "[bold]"),
    *([], {}, [None], [[]], [1, "a"], [0.5] * 300, {"": None}, {"a": {"b": []}}, _DEEP),
)
"""Values of every type of JSON, and those that Python's types cannot hold or turn into something else."""
_ODD = st.sampled_from(ODD_VALUES).map(copy.deepcopy)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from _places(item, (*path, key))


@st.composite
def json_values(draw: st.DrawFn, value: Any) -> Any:
    """Return a JSON value with one to three of its parts replaced, removed, wrapped, doubled or added."""
    changed = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(list(_places(changed))))
        holder: Any = None
        item = changed
        for key in path:
            holder, item = item, item[key]
        what = draw(st.sampled_from(("replace", "replace", "replace", "remove", "wrap", "as text", "double", "add")))
        if what == "remove" and holder is not None:
            del holder[path[-1]]
            continue
        if what == "add" and isinstance(item, dict):
            item[draw(st.sampled_from(("", "schema", "odd", "\ud800")))] = copy.deepcopy(
                draw(st.sampled_from(ODD_VALUES))
            )
            continue
        new = draw(_ODD)
        if what == "wrap":
            new = [item]
        elif what == "as text":
            new = str(item)
        elif what == "double" and isinstance(item, list | str | int):
            new = item * 2
        if holder is None:
            changed = new
        else:
            holder[path[-1]] = new
    return changed


def json_files(content: bytes) -> st.SearchStrategy[bytes]:
    """Return changes of a JSON file: of its values, and of its bytes."""
    values = json_values(json.loads(content)).map(lambda value: json.dumps(value).encode())
    return st.one_of(values, values, values, byte_files(content))


@st.composite
def json_line_files(draw: st.DrawFn, content: bytes) -> bytes:
    """Return changes of a file of JSON lines: of one line, of their order and number, and of its bytes."""
    if draw(st.integers(0, 3)) == 0:
        return draw(byte_files(content))
    lines = content.splitlines()
    place = draw(st.integers(0, len(lines) - 1))
    what = draw(st.sampled_from(("change", "change", "change", "double", "remove", "none")))
    if what == "change":
        lines[place] = json.dumps(draw(json_values(json.loads(lines[place])))).encode()
    elif what == "double":
        lines.append(lines[place])
    elif what == "remove":
        del lines[place]
    else:
        lines = []
    return b"".join(line + b"\n" for line in lines)


@st.composite
def toml_files(draw: st.DrawFn, content: bytes) -> bytes:
    """Return changes of a TOML file: of a line's value, of its lines, and of its bytes."""
    if draw(st.integers(0, 3)) == 0:
        return draw(byte_files(content))
    lines = content.decode().splitlines()
    place = draw(st.sampled_from([number for number, line in enumerate(lines) if "=" in line]))
    what = draw(st.sampled_from(("change", "change", "change", "change", "double", "remove")))
    if what == "change":
        literals = st.one_of(
            st.sampled_from(ODD_VALUES).map(_as_toml),
            st.sampled_from(
                ("nan", "inf", "1979-05-27", "{}", "[[]]", "'''x'''", "[" * 3000, "0x1", "1_0", '["a", "a"]')
            ),
        )
        lines[place] = f"{lines[place].split('=')[0]}= {draw(literals)}"
    elif what == "double":
        lines.insert(place, lines[place])
    else:
        del lines[place]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _as_toml(value: Any) -> str:
    return (
        json.dumps(value, ensure_ascii=False).replace("null", '"null"').replace("NaN", "nan").replace("Infinity", "inf")
    )


@st.composite
def byte_files(draw: st.DrawFn, content: bytes) -> bytes:
    """Return changes of a file's bytes: cut short, longer, a part replaced, removed or doubled; or none of it left."""
    change: Callable[[bytes, bytes, bytes], bytes] = draw(st.sampled_from(_BYTE_CHANGES))
    first, second = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    if draw(st.booleans()):  # headers decide more than the rest
        first = first % 200
        second = min(max(first, second), first + 8)
    return change(content[:first], content[first:second], content[second:])


_BYTE_CHANGES: tuple[Callable[[bytes, bytes, bytes], bytes], ...] = (
    lambda before, middle, after: b"",
    lambda before, middle, after: before,
    lambda before, middle, after: before + after,
    lambda before, middle, after: before + 2 * middle + after,
    lambda before, middle, after: before + b"\0" * len(middle) + after,
    lambda before, middle, after: before + b"\xff" * len(middle) + after,
    lambda before, middle, after: before + b"\0" + middle + after,
    lambda before, middle, after: before + b"\xff\xfe" + middle + after,
    lambda before, middle, after: before + bytes(byte ^ 1 for byte in middle) + after,
    lambda before, middle, after: before + b"9" * 30 + after,
    lambda before, middle, after: b"\xef\xbb\xbf" + before + middle + after,
    lambda before, middle, after: before + middle + after + after,
)
