"""Verify a torch module on arrays: python examples/first_verify.py [images]."""

import sys

from sklearn.datasets import load_digits
from torch import nn

import abscert_plugin as abscert

digits, count = load_digits(), int(sys.argv[1]) if len(sys.argv) > 1 else 20
network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
verdicts = abscert.verify(network, digits.images[:count, None] / 16, digits.target[:count], radius=0.01)
print(verdicts)
