"""The one LightningDataModule. Shapes: B images, [C, H, W] image; a split is one tensor [N, C, H, W]."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from variata.core import Size
from variata.data.pixels import mirror
from variata.errors import ConfigError, DataError

Draw = Callable[[Tensor, Generator | None], Tensor]


@dataclass(frozen=True)
class Attributes:
    """What is known of the images beside their pixels, for evaluation only. Shapes: N images of a split, A attributes.

    Args:
        names: Of the attributes, A.
        values: Of each split, bool [N, A], in the order of its images.
    """

    names: tuple[str, ...]
    values: dict[str, Tensor]


class ImageDataModule(pl.LightningDataModule):
    """A data set held as one tensor per split, on the training device, indexed a whole batch at a time.

    Training images are stored as they are and drawn anew at each use (`draw`); validation and test images are drawn
    once with a fixed seed, so that every model is judged on the same ones.

    Args:
        load: Reads `{"train", "val", "test"}`, each [N, C, H, W]; called once, in `setup`.
        draw: Stored images to what the likelihood sees, on the device: binarisation, dequantisation, augmentation.
        kind: Of what `draw` returns: "binary", "8-bit" (dequantised to [0, 1)) or "real".
        shape: Of an image, [C, H, W].
        protocol: What results are to say of the data: which files, split, binarisation and seed. Counts are added.
        batch_size: Images per optimizer update, over all devices.
        eval_batch_size: Images per batch of validation and test, which devices take in turn.
        eval_seed: Of the one draw of validation and test images.
        flip: Whether to mirror half of the training images, at random.
        attributes: Reads the attributes of the loaded images, where there are any.
    """

    def __init__(
        self,
        load: Callable[[], Mapping[str, Tensor]],
        draw: Draw,
        kind: str,
        shape: Size,
        protocol: str,
        batch_size: int = 128,
        eval_batch_size: int = 200,
        eval_seed: int = 777,
        flip: bool = False,
        attributes: Callable[[], Attributes] | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise ConfigError(f"Batches hold at least one image, got {batch_size=} and {eval_batch_size=}.")
        if not 0 <= eval_seed < 2**63 - 1:
            raise ConfigError(f"data.eval_seed={eval_seed} is not between 0 and 2^63 - 2.")
        self.load, self.draw, self.kind, self.shape, self.source = load, draw, kind, tuple(shape), protocol
        self.batch_size, self.eval_batch_size, self.eval_seed = batch_size, eval_batch_size, eval_seed
        self.flip, self.attributes = flip, cache(attributes) if attributes else None  # a long list, read once
        self.images: dict[str, Tensor] = {}
        self.seed, self.updates_per_call = 0, 1
        self.epoch, self.position = 0, 0  # where training goes on: images of this epoch already used, over all devices
        self.limits: dict[str, int] = {}  # batches of validation and test to use, over all devices; without, all

    def setup(self, stage: str | None = None) -> None:
        """Read all splits and fix the draws of validation and test. Done once."""
        if self.images:
            return
        self.images = dict(self.load())
        for i, split in enumerate(("val", "test")):
            drawn = self.draw(self.images[split], Generator().manual_seed(self.eval_seed + i))
            self.images[split] = drawn.to(torch.uint8) if self.kind == "binary" else drawn
        if self.batch_size > len(self.images["train"]):
            raise ConfigError(
                f"data.batch_size={self.batch_size} is more than the {len(self.images['train'])} training images."
            )
        if self.trainer is not None and self._fits(device := self.trainer.strategy.root_device):
            self.images = {split: images.to(device) for split, images in self.images.items()}

    @property
    def protocol(self) -> str:
        """One line for results; once the images are read it says how many there are of each split."""
        counts = "/".join(str(len(self.images[split])) for split in ("train", "val", "test") if self.images)
        return f"{self.source}, {counts}" if counts else self.source

    def read_attributes(self) -> Attributes:
        """What is known of the images of each split beside their pixels.

        Raises:
            DataError: Nothing is, or its files are missing or damaged.
        """
        if self.attributes is None:
            raise DataError(f"There are no attributes of {self.source}. data=celeba has some.")
        self.setup()
        return self.attributes()

    def mean(self) -> Tensor:
        """The mean training image as the likelihood sees it, of at most about 50,000, float32 [C, H, W]."""
        images, generator = self.images["train"], None
        images = images[:: max(1, len(images) // 50_000)]
        if images.device.type == "cpu":
            generator = Generator().manual_seed(self.eval_seed)
        total = torch.zeros(self.shape, dtype=torch.float64)
        for batch in images.split(1000):
            total += self.draw(batch, generator).sum(0, dtype=torch.float64).cpu()
        return (total / len(images)).float()

    def prepare(self, batch: Tensor, stage: str) -> Tensor:
        """A stored batch to what the likelihood sees, float32 [B, C, H, W]."""
        if stage != "train":
            return batch.float()
        return self.draw(mirror(batch) if self.flip else batch, None)  # bytes are flipped sooner than floats

    @property
    def batch_per_device(self) -> int:
        """Images per update on each device."""
        devices = self.trainer.world_size if self.trainer is not None else 1
        if self.batch_size % devices:
            raise ConfigError(
                f"data.batch_size={self.batch_size} cannot be shared evenly by {devices} devices. Use a multiple of "
                f"{devices}, or data.batch_size_per_device."
            )
        return self.batch_size // devices

    @property
    def updates_per_epoch(self) -> int:
        """Whole batches in the training set; the images left over differ from epoch to epoch."""
        return len(self.images["train"]) // self.batch_size

    def batches(self, split: str) -> int:
        """Batches of a validation or test split, over all devices."""
        return -(-len(self.images[split]) // self.eval_batch_size)

    def train_dataloader(self) -> DataLoader:
        images = Images(self.images["train"])
        sampler = Shuffled(len(images), self.updates_per_epoch * self.batch_size, self, *self.place)
        return self._loader(images, batch_size=self.batch_per_device * self.updates_per_call, sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        return self._turns("val")

    def test_dataloader(self) -> DataLoader:
        return self._turns("test")

    def _turns(self, split: str) -> DataLoader:
        """Devices take whole batches in turn; the last turn is empty for those that find none left."""
        (rank, devices), images, size = self.place, Images(self.images[split]), self.eval_batch_size
        starts = range(0, len(images), size)[: self.limits.get(split)]
        batches = [range(start, min(start + size, len(images))) for start in starts]
        batches += [range(0)] * (-len(batches) % devices)  # all take the same number of steps: steps may synchronise
        return self._loader(images, batch_sampler=batches[rank::devices])

    def _loader(self, images: "Images", **sampling: Any) -> DataLoader:
        # a generator of its own: a DataLoader otherwise draws from the one the model's noise comes from
        return DataLoader(images, collate_fn=as_is, generator=Generator(), **sampling)

    @property
    def place(self) -> tuple[int, int]:
        """This device, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _fits(self, device: torch.device) -> bool:
        size = sum(images.nbytes for images in self.images.values())
        return device.type != "cuda" or size < torch.cuda.mem_get_info(device)[0] / 2


class Images(Dataset):
    """A tensor [N, C, H, W] indexed a whole batch at a time."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        # copies whole images, where indexing by a tensor goes by the byte
        return self.images.index_select(0, torch.tensor(indices, dtype=torch.long, device=self.images.device))


class Shuffled(Sampler[int]):
    """A new order each epoch, a pure function of seed and epoch, that can go on from the middle.

    Devices take turns, so that an update sees the same images however many devices share it.

    Args:
        n: Images in the set.
        used: Images used per epoch, over all devices.
        where: Holds `seed`, `epoch` and `position`, the images of this epoch already used.
    """

    def __init__(self, n: int, used: int, where: ImageDataModule, rank: int = 0, devices: int = 1) -> None:
        self.n, self.used, self.where, self.rank, self.devices = n, used, where, rank, devices

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch; the place to go on from holds for one epoch only."""
        if epoch != self.where.epoch:
            self.where.epoch, self.where.position = epoch, 0

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(
            self.n, generator=Generator().manual_seed(self.where.seed * 1_000_003 + self.where.epoch)
        )
        return iter(order[self.where.position + self.rank : self.used : self.devices].tolist())

    def __len__(self) -> int:
        return self.used // self.devices


def as_is(batch: Any) -> Any:
    """The collate function of a data set that returns whole batches."""
    return batch
