"""scikit-learn's handwritten digits, enlarged to 28x28: 1,797 images that need no download."""

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from variata.core import Size
from variata.data.mnist import check_shape, grey
from variata.data.module import ImageDataModule
from variata.data.source import ImageSource


def digits(
    shape: Size = (1, 28, 28),
    binarize: str = "dynamic",
    batch_size: int = 64,
    eval_batch_size: int = 200,
    eval_seed: int = 777,
) -> ImageDataModule:
    """1,397 training, 200 validation and 200 test digits (Alpaydin & Kaynak 1998, UCI optical recognition).

    The originals are 8x8 counts from 0 to 16, enlarged bilinearly. It stands in for MNIST in demonstrations only.

    Args:
        binarize: "dynamic", "threshold" or "none", as for `binary_mnist`.
    """
    return ImageDataModule(Digits(shape, binarize, eval_seed), batch_size, eval_batch_size, eval_seed)


class Digits(ImageSource):
    """The digits, binarised or not.

    Args:
        binarize: As for `digits`.
        eval_seed: Of the order in which they are split.
    """

    def __init__(self, shape: Size, binarize: str, eval_seed: int) -> None:
        check_shape("digits", shape, (1, 28, 28))
        self.shape, self.eval_seed = shape, eval_seed
        self.pixels, self.kind = grey(binarize, [])
        self.protocol = f"digits {binarize}, eval_seed={eval_seed}"

    def load(self) -> dict[str, Tensor]:
        return load_digits(self.eval_seed)

    def draw(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        return self.pixels(images, generator)


def load_digits(seed: int) -> dict[str, Tensor]:
    """The digits as uint8 [N, 1, 28, 28], in a fixed random order."""
    from sklearn.datasets import load_digits as load

    small = torch.from_numpy(load().images).float()[:, None] / 16  # [1797, 1, 8, 8]
    images = (interpolate(small, size=(28, 28), mode="bilinear") * 255).round().to(torch.uint8)
    order = torch.randperm(len(images), generator=Generator().manual_seed(seed))
    train, val, test = images[order].split([1397, 200, 200])
    return {"train": train.clone(), "val": val.clone(), "test": test.clone()}
