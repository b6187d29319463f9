"""Verify a torch module on arrays; python examples/first_verify.py runs it."""

from sklearn.datasets import load_digits
from torch.nn import Flatten, Linear, ReLU, Sequential

import abscert_plugin as abscert

digits = load_digits()
images, labels = digits.images[:50, None] / 16, digits.target[:50]  # [count, channels, height, width] in [0, 1]
network = Sequential(Flatten(), Linear(64, 32), ReLU(), Linear(32, 10))  # load your weights here
verdicts = abscert.verify(network, images, labels, radius=0.01)
print(verdicts, verdicts.certified, sep="\n")
