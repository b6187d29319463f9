"""Random sums of functions of one value, node by node."""

import random
from typing import Final

import numpy as np
from sampled_graphs import Net

WIDTH: Final = 3


def number(chance: random.Random) -> float:
    return chance.choice([0.0, 1.0, -1.0, 0.5, chance.gauss(0, 1), chance.gauss(0, 100), chance.gauss(0, 1e-6)])


def bent(net: Net, chance: random.Random) -> str:
    """Append a random sum of functions of what there is, and return its name."""
    source, terms = net.last, []
    for _ in range(chance.randint(2, 4)):
        net.last = source
        for _ in range(chance.randint(0, 3)):
            link(net, chance, chance.choice(("Add", "Mul", "Neg", "Sub")))
        if chance.random() < 0.7:
            link(net, chance, chance.choice(("Clip", "LeakyRelu", "Relu")))
        if chance.random() < 0.5:
            link(net, chance, "Mul")
        terms.append(net.last)
    while len(terms) > 1:
        chance.shuffle(terms)
        terms.append(net.add(chance.choice(("Add", "Sub")), terms.pop(), terms.pop()))
        if chance.random() < 0.3:
            link(net, chance, chance.choice(("Mul", "Sub")))
            terms[-1] = net.last
    return net.last


def link(net: Net, chance: random.Random, operator: str) -> None:
    constants = net.constant([[number(chance) for _ in range(WIDTH)]], np.float32)
    if operator == "Sub" and chance.random() < 0.5:
        net.add("Sub", constants, net.last)
    elif operator in ("Add", "Mul", "Sub"):
        net.add(operator, net.last, constants)
    elif operator == "Clip":
        low = number(chance)
        net.add("Clip", net.last, net.constant(low, np.float32), net.constant(low + 1 + chance.random(), np.float32))
    elif operator == "LeakyRelu":
        net.add("LeakyRelu", alpha=chance.choice([0.0, 0.1, -0.5, 2.0]))
    else:
        net.add(operator)


def rising(net: Net, chance: random.Random) -> str:
    """Append a random sum of functions of what there is that rises, and return its name."""
    source, terms = net.last, []
    for _ in range(chance.randint(1, 3)):
        net.last = source
        low = chance.choice((0.0, chance.gauss(0, 1)))
        between = [_relu_behind(net, source, shift) for shift in (low, low + chance.random() * 2)]
        net.add("Sub", *between)
        net.add("Mul", net.last, net.constant([[chance.random() * 2 for _ in range(WIDTH)]], np.float32))
        terms.append(net.last)
    eta = chance.choice((0.0, 0.1, chance.random()))
    terms.append(net.add("Mul", source, net.constant(eta, np.float32)))
    if chance.random() < 0.3:
        net.add("LeakyRelu", source, alpha=0.1)
        terms.append(net.add("Clip", net.last, net.constant(-0.5, np.float32), net.constant(0.7, np.float32)))
    if chance.random() < 0.3:
        terms.append(net.add("LeakyRelu", source, alpha=0.2))
    while len(terms) > 1:
        chance.shuffle(terms)
        terms.append(net.add("Add", terms.pop(), terms.pop()))
    return net.last


def _relu_behind(net: Net, source: str, shift: float) -> str:
    return net.add("Relu", net.add("Sub", source, net.constant([[shift] * WIDTH], np.float32)))
