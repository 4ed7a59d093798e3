import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("VARIATA_DATA", ROOT / "data")).resolve()

needs_mnist = pytest.mark.skipif(
    not any((DATA / place / "t10k-images-idx3-ubyte.gz").is_file() for place in ("mnist", "MNIST/raw", "")),
    reason="MNIST is not below VARIATA_DATA",
)
needs_static = pytest.mark.skipif(
    not (DATA / "binarized_mnist" / "binarized_mnist_test.amat.gz").is_file(),
    reason="static binarised MNIST is not below VARIATA_DATA",
)


needs_celeba = pytest.mark.skipif(
    not (DATA / "celeba" / "list_eval_partition.txt").is_file(), reason="CelebA is not below VARIATA_DATA"
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@dataclass
class Answer:
    """What a user sees of a command."""

    code: int
    out: str
    err: str
    outputs: Path

    @property
    def said(self) -> str:
        """The message on stderr, unwrapped."""
        return " ".join(self.err.split())

    @property
    def run(self) -> Path:
        (config,) = self.outputs.rglob("config.yaml")
        return config.parent


def environment() -> dict[str, str]:
    unreachable = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return {**kept, **unreachable, "OMP_NUM_THREADS": "1", "VARIATA_DATA": str(DATA), "WANDB_MODE": "offline"}


def train_command(outputs: Path, *overrides: str) -> list[str]:
    return [sys.executable, str(ROOT / "train.py"), *overrides, f"outputs={outputs}"]


@pytest.fixture
def train(tmp_path):
    """train.py as a user runs it."""

    def run(*overrides: str, outputs: Path = tmp_path / "outputs") -> Answer:
        done = subprocess.run(
            train_command(outputs, *overrides), capture_output=True, text=True, env=environment(), cwd=tmp_path
        )
        return Answer(done.returncode, done.stdout, done.stderr, outputs)

    return run


SPLITS = {"train": 8, "val": 3, "test": 2}  # of the made-up photographs


@pytest.fixture
def faces(tmp_path):
    """13 photographs of 178x218 and their partition list, below tmp_path/celeba."""
    folder = tmp_path / "celeba" / "img_align_celeba"
    folder.mkdir(parents=True)
    rng, rows = np.random.default_rng(0), []
    for i, split in enumerate(split for split, n in enumerate(SPLITS.values()) for _ in range(n)):
        coarse = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
        coarse.resize((178, 218), Image.Resampling.BICUBIC).save(folder / f"{i + 1:06}.jpg", quality=90)
        rows.append(f"{i + 1:06}.jpg {split}\r\n")
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("".join(rows))
    write_attributes(tmp_path, range(1, 14))
    return tmp_path


def write_attributes(root, numbers):
    """Of image number i: whether it is odd, whether it is above 6."""
    rows = [f"{i:06}.jpg {i % 2 * 2 - 1:2} {(i > 6) * 2 - 1:2}\r\n" for i in numbers]
    (root / "celeba" / "list_attr_celeba.txt").write_text(f"{len(rows)}\r\nOdd Late \r\n" + "".join(rows))
