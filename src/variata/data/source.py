"""What a data set is. Shapes: B images, N images of a split, A labels, [C, H, W] image."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Generator, Tensor

from variata.core import Size
from variata.errors import DataError

Draw = Callable[[Tensor, Generator | None], Tensor]


@dataclass(frozen=True)
class Labels:
    """What is known of the images beside their pixels: which of A things each of them is or has.

    Args:
        names: Of the labels, A.
        values: Of each split, bool [N, A], in the order of its images.
    """

    names: tuple[str, ...]
    values: dict[str, Tensor]


class ImageSource(ABC):
    """A data set: its images, and what of them a model sees. A new one says this, and `ImageDataModule` does the rest.

    Attributes:
        kind: Of what `draw` returns: "binary", "8-bit" (dequantised to [0, 1)) or "real".
        shape: Of an image, [C, H, W].
        protocol: What results are to say of the data: which files, split, binarisation and seed. Counts are added.
        flip: Whether to mirror half of the training images, at random; they are uint8 then.
    """

    kind: str
    shape: Size
    protocol: str
    flip: bool = False

    @abstractmethod
    def load(self) -> Mapping[str, Tensor]:
        """Read `{"train", "val", "test"}`, each [N, C, H, W] as stored; called once."""

    @abstractmethod
    def draw(self, images: Tensor, generator: Generator | None = None) -> Tensor:
        """Stored images to what the likelihood sees, float32 [B, C, H, W], on their device: binarised, dequantised."""

    def labels(self) -> Labels:
        """What is known of the images that `load` returned beside their pixels; called after it.

        Raises:
            DataError: Nothing is, or its files are missing or damaged.
        """
        raise DataError(f"There are no attributes of {self.protocol}. data=celeba has some.")
