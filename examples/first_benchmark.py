"""Benchmark a training method of one's own against IBP; python examples/first_benchmark.py runs it."""

from torch.nn.functional import cross_entropy

import abscert_plugin as abscert


def smoothed(network, images, labels):
    return cross_entropy(network(images), labels, label_smoothing=0.1)


test = abscert.load_data("digits", "test", limit=40)
for method in ("ibp", smoothed):
    trained = abscert.train("fc-3", "digits", method=method, radius=0.02, epochs=10)
    print(trained.method, trained.verify(test, radius=0.02, timeout=1))
