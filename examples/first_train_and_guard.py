"""Train a network on arrays and deploy it with a guard; python examples/first_train_and_guard.py runs it."""

from sklearn.datasets import load_digits
from torch.nn import Flatten, Linear, ReLU, Sequential

import abscert_plugin as abscert

digits = load_digits()
images, labels = digits.images[:, None] / 16, digits.target  # [count, channels, height, width], pixels in [0, 1]
build = lambda channels: Sequential(Flatten(), Linear(channels * 64, 100), ReLU(), Linear(100, 10))  # noqa: E731
trained = abscert.train(build, (images[:1500], labels[:1500]), method="reachable", radius=0.05, cells=2, epochs=20)
answers = trained.guard(radius=0.05, out="guard.onnx")(images[1500:])
print(f"{answers.certified.mean():.0%} certified, {(answers.label == labels[1500:]).mean():.0%} right")
