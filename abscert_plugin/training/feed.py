"""Batches for the training loop: from the device's memory where the data fit, else read ahead in a thread."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import final

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from abscert_plugin.data.dataset import DataSet


@final
class Feed:
    """The images and labels of a split, in any order, on a device.

    Args:
        data: the split.
        device: where the batches go.
    """

    def __init__(self, data: DataSet, device: torch.device) -> None:
        self._data = data
        self._device = device
        self._images: UInt8[Tensor, "n channels height width"] | None = None
        self._labels: Int64[Tensor, "n"] | None = None
        if data.is_resident and _fits(data, device):
            everything = data.take(np.arange(len(data)))
            self._images = torch.from_numpy(np.ascontiguousarray(everything.images)).to(device)
            self._labels = torch.from_numpy(everything.labels).to(device)

    def __len__(self) -> int:
        return len(self._data)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image: channels, height, width."""
        return self._data.shape

    def batches(self, order: Int64[Tensor, "n"], size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (stored images, labels) in this order, `size` at a time; the last batch may be smaller."""
        if self._images is None or self._labels is None:
            yield from self._streamed(order, size)
            return
        for chosen in order.to(self._device).split(size):
            yield self._images[chosen], self._labels[chosen]

    def _streamed(self, order: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        pieces = [piece.numpy() for piece in order.split(size)]
        with ThreadPoolExecutor(max_workers=1) as reader:  # reads the next batch while this one is trained on
            ahead = reader.submit(self._data.take, pieces[0])
            for following in [*pieces[1:], None]:
                batch = ahead.result()
                if following is not None:
                    ahead = reader.submit(self._data.take, following)
                yield torch.from_numpy(batch.images).to(self._device), torch.from_numpy(batch.labels).to(self._device)


def _fits(data: DataSet, device: torch.device) -> bool:
    if device.type != "cuda":
        return True
    channels, height, width = data.shape
    free, _ = torch.cuda.mem_get_info(device)
    return len(data) * channels * height * width < free // 2
