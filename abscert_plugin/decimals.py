"""Numbers as exact decimals, as VNN-LIB has them."""

from decimal import Decimal


def decimal(value: float) -> str:
    """Return a number exactly, with a point and without an exponent: who compares decimals compares the very number.

    >>> decimal(0.1)
    '0.1000000000000000055511151231257827021181583404541015625'
    """
    text = format(Decimal(value), "f")
    return text if "." in text else f"{text}.0"
