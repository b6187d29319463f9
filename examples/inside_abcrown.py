"""Verify a network with cells by alpha-beta-CROWN's own `ABCrownSolver`, which needs no registration for phi.

    PYTHONPATH=/path/to/alpha-beta-CROWN python examples/inside_abcrown.py 0.05

The radius is on the pixel scale. Its release of December 2025 is named by its folder.
"""

import sys

import abcrown  # before auto_LiRPA is looked for: it brings its own
import torch
from sklearn.datasets import load_digits

import abscert_plugin as abscert
from abscert_plugin.lirpa.operator import DeployedClassifier


def main(radius: float) -> None:
    digits = load_digits()
    images, labels = torch.from_numpy(digits.images[:, None] / 16).float(), digits.target
    trained = abscert.train(
        "fc-3", (images[:1500].numpy(), labels[:1500]), method="reachable", radius=0.02, cells=4, epochs=5
    )
    module = abscert.torch_module(trained.deploy)
    assert module.grid is not None  # a plain deploy.onnx is given to the solver as it is
    deployed = DeployedClassifier(module.network, module.grid)
    config = abcrown.ConfigBuilder.from_defaults().set(
        general__device="cpu", general__complete_verifier="bab", bab__timeout=10
    )
    for image, label in zip(images[1500:1510], labels[1500:1510].tolist(), strict=True):
        low, high = (image[None] - radius).clamp(min=0), (image[None] + radius).clamp(max=1)
        # any of nine clauses is a counterexample: the label's logit - another's <= 0
        rows = torch.eye(10)[label] - torch.eye(10)
        clauses = [(rows[other : other + 1], torch.zeros(1)) for other in range(10) if other != label]
        spec = abcrown.VerificationSpec.build_spec(lower=low, upper=high, clauses=[clauses])
        result = abcrown.ABCrownSolver(spec, deployed, config=config()).solve()
        (ours,) = abscert.verify(trained.deploy, image[None].numpy(), [label], radius=radius)
        print(f"label {label}: ABCrownSolver says {result.status}, we say {ours.verdict}")


if __name__ == "__main__":
    main(float(sys.argv[1]))
