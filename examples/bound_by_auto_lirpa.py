"""Bound a classifier behind phi over balls of images, by auto_LiRPA's own methods.

    python examples/bound_by_auto_lirpa.py 0.1

The radius is on the pixel scale. phi is an operator for auto_LiRPA, so that its plain code bounds the deployed
classifier. The extra `lirpa` installs it.
"""

import sys

import numpy as np
import torch

from abscert_plugin.data import Split, load_data
from abscert_plugin.grid import Grid
from abscert_plugin.lirpa.compat import load_lirpa
from abscert_plugin.lirpa.operator import DeployedClassifier
from abscert_plugin.networks import Activation, NetworkConfig


def main(radius: float) -> None:
    network = NetworkConfig("fc-3", Activation.RELU, (1, 8, 8), 10).build(seed=0)
    digits = load_data("digits", Split.TEST)
    images = torch.from_numpy(digits.take(np.arange(5)).images / np.float32(digits.levels))  # pixel scale
    lirpa = load_lirpa()  # auto_LiRPA, made to run on current releases
    deployed = DeployedClassifier(network, Grid(10))
    bounded = lirpa.BoundedModule(deployed, images, bound_opts={"conv_mode": "patches"})
    low, high = (images - radius).clamp(min=0), (images + radius).clamp(max=1)
    ball = lirpa.PerturbationLpNorm(norm=float("inf"), x_L=low, x_U=high)
    for method in ("IBP", "CROWN-IBP", "CROWN"):
        lower, upper = bounded.compute_bounds(x=(lirpa.BoundedTensor(images, ball),), method=method)
        print(f"{method}: logits lie within {(upper - lower).max().item():.3f}")


if __name__ == "__main__":
    main(float(sys.argv[1]))
