"""Messages through a pipe between two processes of ours: their length in 8 bytes, then the message."""

from collections.abc import Iterator
from typing import IO, Final

import msgspec

_LENGTH: Final = 8
_encode: Final = msgspec.msgpack.Encoder().encode


def send(pipe: IO[bytes], message: msgspec.Struct) -> None:
    """Write a message.

    Raises:
        OSError: if nobody reads any more.
    """
    content = _encode(message)
    pipe.write(len(content).to_bytes(_LENGTH, "big"))
    pipe.write(content)
    pipe.flush()


def messages(pipe: IO[bytes]) -> Iterator[bytes]:
    """Yield messages until the other end is closed; one that is cut short is left out."""
    while len(head := pipe.read(_LENGTH)) == _LENGTH:
        size = int.from_bytes(head, "big")
        content = pipe.read(size)
        if len(content) < size:
            return
        yield content
