"""Attack a deployed file by foolbox: two gradients stand for that of phi, which is zero. Needs `pip install foolbox`.

    python examples/attack_by_foolbox.py 0.05

The radius is on the pixel scale. No certified image is fooled, whatever the attack.
"""

import sys

import foolbox
import torch
from sklearn.datasets import load_digits

import abscert_plugin as abscert


def main(radius: float) -> None:
    digits = load_digits()
    images, labels = (digits.images[:, None] / 16).astype("float32"), digits.target
    trained = abscert.train("fc-3", (images[:1500], labels[:1500]), method="reachable", radius=0.02, cells=4, epochs=5)
    images, labels = images[1500:], labels[1500:]
    certified = abscert.verify(trained.deploy, images, labels, radius=radius).certified
    print(f"{certified.sum()} of {len(labels)} images certified")
    for gradient in ("straight-through", "cells"):
        module = abscert.torch_module(trained.deploy, gradient=gradient, radius=radius)
        model = foolbox.PyTorchModel(module, bounds=(0, 1))
        attack = foolbox.attacks.LinfPGD(rel_stepsize=0.1, steps=20)
        _, _, fooled = attack(model, torch.from_numpy(images), torch.from_numpy(labels), epsilons=radius)
        print(f"{gradient}: {fooled.sum()} fooled, {(fooled.numpy() & certified).sum()} of them certified")


if __name__ == "__main__":
    main(float(sys.argv[1]))
