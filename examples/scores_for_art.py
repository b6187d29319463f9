"""Verdicts as the scores of a certified classifier of IBM's ART, beside its own attack on the same deployed file.

    python examples/scores_for_art.py 0.05

The radius is on the pixel scale. Needs `pip install adversarial-robustness-toolbox`.
"""

import sys

import numpy as np
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from sklearn.datasets import load_digits
from torch.nn import CrossEntropyLoss

import abscert_plugin as abscert


class CertifiedClassifier(PyTorchClassifier):
    """ART's classifier of a deployed file, with `certify` in the way of its smoothed ones."""

    def __init__(self, file: str, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(abscert.torch_module(file), CrossEntropyLoss(), shape, classes, clip_values=(0, 1))
        self._file = file

    def certify(self, x: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the class of each image, and the radius that is certified of it: -1 and 0 where none is."""
        labels = self.predict(x).argmax(1)
        certified = abscert.verify(self._file, x, labels, radius=radius).certified
        return np.where(certified, labels, -1), radius * certified


def main(radius: float) -> None:
    digits = load_digits()
    images, labels = (digits.images[:, None] / 16).astype("float32"), digits.target
    trained = abscert.train("fc-3", (images[:1500], labels[:1500]), method="reachable", radius=0.02, cells=4, epochs=5)
    images, labels = images[1500:], labels[1500:]
    classifier = CertifiedClassifier(str(trained.deploy), (1, 8, 8), 10)
    attacked = ProjectedGradientDescent(classifier, eps=radius, eps_step=radius / 4, max_iter=20, verbose=False)
    found = classifier.predict(attacked.generate(images, labels)).argmax(1)
    classes, _ = classifier.certify(images, radius)
    print(f"clean accuracy {np.mean(classifier.predict(images).argmax(1) == labels):.1%}")
    print(f"accuracy under PGD {np.mean(found == labels):.1%}")
    print(f"certified accuracy {np.mean(classes == labels):.1%}")


if __name__ == "__main__":
    main(float(sys.argv[1]))
