"""The one LightningDataModule. Shapes: B images, [C, H, W] image; a split is one tensor [N, C, H, W]."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from variata.core import Batch, Population
from variata.data.pixels import mirror
from variata.data.source import ImageSource, Labels
from variata.errors import ConfigError


class ImageDataModule(pl.LightningDataModule):
    """A data set held as one tensor per split, on the training device, indexed a whole batch at a time.

    Training images are stored as they are and drawn anew at each use (`draw`); validation and test images are drawn
    once with a fixed seed, so that every model is judged on the same ones.

    Args:
        source: What the data set is.
        batch_size: Images per optimizer update, over all devices.
        eval_batch_size: Images per batch of validation and test, which devices take in turn.
        eval_seed: Of the one draw of validation and test images.
        labelled: Whether batches hold the labels of their images.
    """

    def __init__(
        self,
        source: ImageSource,
        batch_size: int = 128,
        eval_batch_size: int = 200,
        eval_seed: int = 777,
        labelled: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 1 or eval_batch_size < 1:
            raise ConfigError(f"Batches hold at least one image, got {batch_size=} and {eval_batch_size=}.")
        if not 0 <= eval_seed < 2**63 - 1:
            raise ConfigError(f"data.eval_seed={eval_seed} is not between 0 and 2^63 - 2.")
        self.source, self.draw, self.kind, self.shape = source, source.draw, source.kind, tuple(source.shape)
        self.batch_size, self.eval_batch_size, self.eval_seed = batch_size, eval_batch_size, eval_seed
        self.labelled, self._labels = labelled, cache(source.labels)  # a long list, read once
        self.images: dict[str, Tensor] = {}
        self.seed, self.updates_per_call = 0, 1
        self.epoch, self.position = 0, 0  # where training goes on: images of this epoch already used, over all devices
        self.limits: dict[str, int] = {}  # batches of validation and test to use, over all devices; without, all

    def setup(self, stage: str | None = None) -> None:
        """Read all splits and fix the draws of validation and test. Done once."""
        if self.images:
            return
        self.images = dict(self.source.load())
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
        return f"{self.source.protocol}, {counts}" if counts else self.source.protocol

    def read_attributes(self) -> Labels:
        """What is known of the images of each split beside their pixels.

        Raises:
            DataError: Nothing is, or its files are missing or damaged.
        """
        self.setup()
        return self._labels()

    def blank(self, device: torch.device, n: int = 1) -> Batch:
        """The first n images of a split, were they black and had no label: to see the shapes a model makes of them."""
        labels = torch.zeros(n, len(self._classes), dtype=torch.bool, device=device) if self.labelled else None
        return Batch(torch.zeros(n, *self.shape, device=device), torch.arange(n, device=device), labels)

    def population(self) -> Population:
        """What is known of the training set: takes a look at all of it."""
        return Population(len(self.images["train"]), self.mean(), self._classes)

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

    def prepare(self, images: Tensor, stage: str) -> Tensor:
        """Stored images to what the likelihood sees, float32 [B, C, H, W]."""
        if stage != "train":
            return images.float()
        return self.draw(mirror(images) if self.source.flip else images, None)  # bytes are flipped sooner than floats

    def prepared(self, batch: Batch, stage: str) -> Batch:
        """A batch of stored images as the likelihood sees them."""
        return replace(batch, x=self.prepare(batch.x, stage))

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
        images = self._split("train")
        sampler = Shuffled(len(images), self.updates_per_epoch * self.batch_size, self, *self.place)
        return self._loader(images, batch_size=self.batch_per_device * self.updates_per_call, sampler=sampler)

    def val_dataloader(self) -> DataLoader:
        return self._turns("val")

    def test_dataloader(self) -> DataLoader:
        return self._turns("test")

    def _split(self, split: str) -> "Images":
        images = self.images[split]
        return Images(images, self.read_attributes().values[split].to(images.device) if self.labelled else None)

    @property
    def _classes(self) -> tuple[str, ...]:
        return self.read_attributes().names if self.labelled else ()

    def _turns(self, split: str) -> DataLoader:
        """Devices take whole batches in turn; the last turn is empty for those that find none left."""
        (rank, devices), images, size = self.place, self._split(split), self.eval_batch_size
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
    """A split, indexed a whole batch at a time.

    Args:
        images: [N, C, H, W].
        labels: [N, A], on the same device, or None.
    """

    def __init__(self, images: Tensor, labels: Tensor | None = None) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.tensor(indices, dtype=torch.long, device=self.images.device)
        labels = None if self.labels is None else self.labels.index_select(0, index)
        # copies whole images, where indexing by a tensor goes by the byte
        return Batch(self.images.index_select(0, index), index, labels)


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
