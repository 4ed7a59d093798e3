import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

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
