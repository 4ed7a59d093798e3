"""MNIST as binary images: Larochelle's static files, or the grey originals drawn dynamically or cut at a threshold."""

from collections.abc import Callable
from pathlib import Path

from torch import Generator, Tensor

from variata.core import Size
from variata.data.files import amat_images, idx_images, require
from variata.data.module import ImageDataModule
from variata.data.pixels import as_real, binarise, dequantise, threshold
from variata.data.source import Draw, ImageSource
from variata.errors import ConfigError, DataError

# SHA-256 of the unzipped content; the zipped originals have the MD5 sums torchvision checks
IDX = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
}
# as pinned by TensorFlow Datasets, datasets/binarized_mnist/checksums.tsv
AMAT = {
    "binarized_mnist_train.amat": "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d",
    "binarized_mnist_valid.amat": "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2",
    "binarized_mnist_test.amat": "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c",
}
AMAT_URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"

GREY: dict[str, tuple[Draw, str]] = {
    "dynamic": (binarise, "binary"),
    "threshold": (threshold, "binary"),
    "none": (dequantise, "8-bit"),
}


def binary_mnist(
    root: str,
    shape: Size = (1, 28, 28),
    binarize: str = "dynamic",
    download: bool = True,
    verify: bool = True,
    batch_size: int = 128,
    eval_batch_size: int = 200,
    eval_seed: int = 777,
) -> ImageDataModule:
    """Binary MNIST, 50,000 training, 10,000 validation and 10,000 test images.

    Args:
        root: Folder of the files; they are looked for where torchvision or the originals put them.
        shape: (1, 28, 28).
        binarize: "dynamic": x ~ Bernoulli(g / 255) anew at each use (Salakhutdinov & Murray 2008), the last 10,000
            training images for validation. "static": one such draw, published by Larochelle, with its own split.
            "threshold": x = 1 where g >= 128. "none": 8-bit grey values, dequantised.
        download: Fetch missing files.
        verify: Compare the files with their published checksums.
    """
    source = BinaryMNIST(Path(root), shape, binarize, download, verify, eval_seed)
    return ImageDataModule(source, batch_size, eval_batch_size, eval_seed)


class BinaryMNIST(ImageSource):
    """MNIST, as `binary_mnist` says."""

    def __init__(self, root: Path, shape: Size, binarize: str, download: bool, verify: bool, eval_seed: int) -> None:
        check_shape("binary_mnist", shape, (1, 28, 28))
        self.shape = shape
        self.pixels: Draw
        if binarize == "static":
            self.reader, self.pixels, self.kind = load_static, as_real, "binary"
            self.protocol = "binary_mnist static (Larochelle)"
        else:
            self.reader, (self.pixels, self.kind) = load_grey, grey(binarize, ["static"])
            self.protocol = f"binary_mnist {binarize}, eval_seed={eval_seed}"
        self.files = (root, download, verify)

    def load(self) -> dict[str, Tensor]:
        return self.reader(*self.files)

    def draw(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        return self.pixels(images, generator)


def load_grey(root: Path, download: bool, verify: bool) -> dict[str, Tensor]:
    """The grey originals, uint8: the first 50,000 training images, the last 10,000, the test images."""
    paths = require(root, ["mnist", "MNIST/raw", ""], list(IDX), fetch_idx if download else None)
    images, test = read(idx_images, paths, IDX, verify)
    for path, found, least in zip(paths, (images, test), (10_001, 1), strict=True):
        if len(found) < least or found.shape[1:] != (1, 28, 28):
            raise DataError(
                f"{path} holds {len(found)} images of {found.shape[2]}x{found.shape[3]}; expected are 28x28, and "
                "more than 10,000 for training, of which the last 10,000 are for validation."
            )
    return {"train": images[:-10_000].clone(), "val": images[-10_000:].clone(), "test": test}


def load_static(root: Path, download: bool, verify: bool) -> dict[str, Tensor]:
    """Larochelle's files, uint8 {0, 1}."""
    folders = ["binarized_mnist", "BinarizedMNIST", ""]
    paths = require(root, folders, list(AMAT), fetch_amat if download else None)
    return dict(zip(("train", "val", "test"), read(amat_images, paths, AMAT, verify), strict=True))


def read(reader: Callable, paths: list[Path], sums: dict[str, str], verify: bool) -> list[Tensor]:
    """Each file through the reader, checked against its sum."""
    return [reader(path, sha256 if verify else None) for path, sha256 in zip(paths, sums.values(), strict=True)]


def fetch_idx(root: Path) -> None:
    """MNIST through torchvision, to root/MNIST/raw."""
    from torchvision.datasets import MNIST

    MNIST(str(root), download=True)


def fetch_amat(root: Path) -> None:
    """Larochelle's files, to root/binarized_mnist."""
    from torchvision.datasets.utils import download_url

    for name in AMAT:
        download_url(AMAT_URL + name, str(root / "binarized_mnist"))


def grey(binarize: str, more: list[str]) -> tuple[Draw, str]:
    """How grey values become x, and the kind of data x is."""
    if binarize not in GREY:
        raise ConfigError(f"data.binarize={binarize} is unknown. Use one of {', '.join([*GREY, *more])}.")
    return GREY[binarize]


def check_shape(name: str, shape: Size, expected: Size) -> None:
    """Refuse a shape the data does not have."""
    if tuple(shape) != tuple(expected):
        raise ConfigError(f"Images of data={name} have shape {list(expected)}, got data.shape={list(shape)}.")
