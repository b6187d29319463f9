"""Small torch classifiers in the styles that foreign files come in: residual, separable, squeezed, transposed."""

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

SHAPE: Final = (3, 16, 16)
CLASSES: Final = 5


class Of(nn.Module):
    """A module of layers and a function of them."""

    def __init__(self, function: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.function = function

    def forward(self, values: Tensor) -> Tensor:
        return self.function(values, **self.layers)


def head(channels: int, size: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size * size, CLASSES))


def unit(before: int, after: int, stride: int = 1, groups: int = 1, kernel: int = 3) -> nn.Sequential:
    made = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(made, nn.BatchNorm2d(after), nn.ReLU())


def block(main: nn.Module, short: nn.Module) -> nn.Module:
    return Of(lambda x, main, short: functional.relu(main(x) + short(x)), main=main, short=short)


def residual() -> nn.Module:
    main = nn.Sequential(unit(8, 8, 2), nn.Conv2d(8, 8, 3, 1, 1), nn.BatchNorm2d(8))
    short = nn.Sequential(nn.Conv2d(8, 8, 1, 2), nn.BatchNorm2d(8))
    return nn.Sequential(unit(3, 8), block(main, short), nn.AdaptiveAvgPool2d(1), head(8, 1))


def separable() -> nn.Module:
    def relu6(x: nn.Module) -> nn.Module:
        return nn.Sequential(x, nn.BatchNorm2d(12), nn.ReLU6())

    inner = nn.Sequential(
        relu6(nn.Conv2d(6, 12, 1, bias=False)),
        relu6(nn.Conv2d(12, 12, 3, 1, 1, groups=12, bias=False)),
        nn.Conv2d(12, 6, 1),
    )
    return nn.Sequential(
        unit(3, 6, 2), Of(lambda x, inner: x + inner(x), inner=inner), nn.AdaptiveAvgPool2d(1), head(6, 1)
    )


def squeezed() -> nn.Module:
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 2, 1), nn.ReLU(), nn.Conv2d(2, 6, 1), nn.Sigmoid())
    return nn.Sequential(unit(3, 6, 2), Of(lambda x, gate: x * gate(x), gate=gate), head(6, 8))


def dense() -> nn.Module:
    def joined(inner: nn.Module) -> nn.Module:
        return Of(lambda x, inner: torch.cat([x, inner(x)], 1), inner=inner)

    return nn.Sequential(unit(3, 4, 2), joined(unit(4, 4)), joined(unit(8, 4)), nn.AvgPool2d(2), head(12, 4))


def shuffled() -> nn.Module:
    def shuffle(x: Tensor) -> Tensor:
        images, channels, height, width = x.shape
        return (
            x.reshape(images, 2, channels // 2, height, width).transpose(1, 2).reshape(images, channels, height, width)
        )

    return nn.Sequential(unit(3, 8, 2), Of(shuffle), unit(8, 8, groups=2), head(8, 8))


def inception() -> nn.Module:
    def joined(x: Tensor, one: nn.Module, three: nn.Module, pool: nn.Module) -> Tensor:
        return torch.cat([one(x), three(x), pool(x)], dim=1)

    pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(4, 2, 1))
    return nn.Sequential(unit(3, 4, 2), Of(joined, one=unit(4, 2, kernel=1), three=unit(4, 2), pool=pool), head(6, 8))


def fire() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(8, CLASSES, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def ghost() -> nn.Module:
    def joined(x: Tensor, cheap: nn.Module) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return torch.cat([cheap(first), second - first], dim=1)

    return nn.Sequential(unit(3, 8, 2), Of(joined, cheap=nn.Conv2d(4, 4, 3, 1, 1, groups=4)), nn.ReLU(), head(8, 8))


def mixer() -> nn.Module:
    def tokens(x: Tensor, patch: nn.Module) -> Tensor:
        return patch(x).flatten(2).transpose(1, 2)

    def mixed(x: Tensor, over: nn.Module, along: nn.Module) -> Tensor:
        x = x + over(x.transpose(1, 2)).transpose(1, 2)
        return x + along(x)

    def mlp(size: int) -> nn.Module:
        return nn.Sequential(nn.Linear(size, 2 * size), nn.ReLU(), nn.Linear(2 * size, size))

    return nn.Sequential(
        Of(tokens, patch=nn.Conv2d(3, 8, 4, 4)),
        Of(mixed, over=mlp(16), along=mlp(8)),
        Of(lambda x: x.mean(1)),
        nn.Linear(8, CLASSES),
    )


class Tokens(nn.Module):
    """Patches behind a class token, with places added, and the logits of the token."""

    def __init__(self, attends: bool) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.places = nn.Parameter(torch.randn(1, 17, 8))
        self.mix = nn.Linear(17, 17)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True) if attends else None
        self.last = nn.Linear(8, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        if self.attention is not None:
            x = x + self.attention(x, x, x, need_weights=False)[0]
        else:
            x = x + self.mix(x.transpose(1, 2)).transpose(1, 2).relu()
        return torch.as_tensor(self.last(x[:, 0]))


def through(module: nn.Module, channels: int, size: int, before: int = 4) -> Callable[[], nn.Module]:
    """Return a builder of a net that has a module between a convolution of stride 2 and its head."""
    return lambda: nn.Sequential(unit(3, before, 2), module, head(channels, size))


def padded(mode: str) -> nn.Module:
    return nn.Conv2d(4, 4, 3, 1, 1, padding_mode=mode)


def lines() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(2),
        nn.Conv1d(3, 4, 5, 3),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.AvgPool1d(2),
        head(4 * 21, 1),
    )


def volumes() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 3)),
        nn.Conv3d(1, 4, (2, 3, 3), 2),
        nn.BatchNorm3d(4),
        nn.ReLU(),
        nn.MaxPool3d((1, 2, 2)),
        head(4 * 9, 1),
    )


def normalised() -> nn.Module:
    mean, std = torch.tensor([0.5, 0.4, 0.3]).reshape(1, 3, 1, 1), torch.tensor([0.2, 0.3, 0.25]).reshape(1, 3, 1, 1)
    return nn.Sequential(Of(lambda x: (x - mean) / std), unit(3, 4, 2), head(4, 8))


def mlp(activation: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 16), activation, nn.Linear(16, CLASSES))


def masked(x: Tensor) -> Tensor:
    return torch.tril(x) + torch.triu(x, 1) * 0.5


NETS: Final[Mapping[str, Callable[[], nn.Module]]] = {
    "mlp relu": mlp(nn.ReLU()),
    "mlp leaky": mlp(nn.LeakyReLU(0.1)),
    "mlp prelu": mlp(nn.PReLU()),
    "mlp hardtanh": mlp(nn.Hardtanh()),
    "mlp tanh": mlp(nn.Tanh()),
    "mlp elu": mlp(nn.ELU()),
    "mlp gelu": mlp(nn.GELU()),
    "mlp silu": mlp(nn.SiLU()),
    "mlp norm": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(768, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, CLASSES)
    ),
    "normalised": normalised,
    "residual": residual,
    "separable": separable,
    "squeeze and excite": squeezed,
    "dense block": dense,
    "channel shuffle": shuffled,
    "inception": inception,
    "fire, ceil": fire,
    "ghost": ghost,
    "mixer": mixer,
    "token": lambda: Tokens(False),
    "attention": lambda: Tokens(True),
    "lines": lines,
    "volumes": volumes,
    "dilated": through(nn.Conv2d(4, 4, 3, 1, 2, dilation=2), 4, 8),
    "reflected": through(padded("reflect"), 4, 8),
    "circular": through(padded("circular"), 4, 8),
    "replicated": through(padded("replicate"), 4, 8),
    "padded by a constant": through(nn.ConstantPad2d((1, 2, -1, 4), 0.5), 4, 11),
    "transposed": lambda: nn.Sequential(
        unit(3, 4, 2), nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1), nn.ReLU(), head(3, 16)
    ),
    "pixel shuffle": through(nn.PixelShuffle(2), 1, 16),
    "pixel unshuffle": through(nn.PixelUnshuffle(2), 16, 4),
    "nearest": through(nn.Upsample(scale_factor=2), 4, 16),
    "bilinear": through(nn.Upsample(scale_factor=2, mode="bilinear"), 4, 16),
    "bilinear, corners": through(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), 4, 16),
    "bilinear, size": through(nn.Upsample(size=(5, 5), mode="bilinear"), 4, 5),
    "bicubic": through(nn.Upsample(scale_factor=2, mode="bicubic"), 4, 16),
    "bicubic, size": through(nn.Upsample(size=(5, 5), mode="bicubic", align_corners=True), 4, 5),
    "local response": through(nn.LocalResponseNorm(3), 4, 8),
    "root mean square": through(nn.RMSNorm(8), 4, 8),
    "root pool": through(nn.LPPool2d(2, 2), 4, 4),
    "adaptive": through(nn.AdaptiveAvgPool2d(2), 4, 2),
    "average, padded": through(nn.AvgPool2d(3, 2, 1, count_include_pad=False), 4, 4),
    "average, ceil": through(nn.AvgPool2d(3, 2, ceil_mode=True, count_include_pad=False), 4, 4),
    "global max": through(nn.AdaptiveMaxPool2d(1), 4, 1),
    "einsum": lambda: nn.Sequential(
        unit(3, 4, 2), Of(lambda x, w: torch.einsum("bchw,cd->bdhw", x, w.weight), w=nn.Linear(4, 4)), head(4, 8)
    ),
    "running sum": through(Of(lambda x: x.cumsum(2)), 4, 8),
    "flipped, rolled": through(Of(lambda x: x.flip(3).roll(2, 2)), 4, 8),
    "triangles": through(Of(masked), 4, 8),
    "picked": through(Of(lambda x: x[:, [3, 0, 1], 1:-1, 1:7]), 3, 6),
    "sums of axes": through(Of(lambda x: x.sum((-1, -2), keepdim=True) - x.mean(1, keepdim=True)), 4, 8),
    "in place": through(Of(lambda x: torch.cat([x[:, :2] * 2, x[:, 2:].clamp(0.1, 0.7)], 1)), 4, 8),
}
"""Builders by name; each net takes images of SHAPE and gives CLASSES logits."""
