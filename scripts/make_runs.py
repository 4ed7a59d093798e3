r"""Write run directories of made-up but believable figures, to try `variata compare` and `variata ls` on.

    python scripts/make_runs.py FOLDER --runs 100

Rates and distortions follow \(D(R) = D_0 + A e^{-R/s}\), on which training with beta stops where the slope is -beta.
"""

import argparse
import csv
import functools
import itertools
import math
import sys
from pathlib import Path

import hydra
import numpy as np
from omegaconf import DictConfig
from PIL import Image, ImageFilter
from sklearn.datasets import load_digits

from variata import __version__
from variata.config.plain import plain as values_of
from variata.run import directory

CONF = Path(__file__).parents[1] / "conf"
BETAS, LATENTS = (0.25, 0.5, 1, 2, 4), (4, 8, 16, 32)
VALIDATIONS, EVERY, LOGGED = 60, 390, 50  # how many, updates between them, updates between rows of training
FLOOR, HEIGHT, SCALE = 48.5, 83.5, 14.0  # D_0, A, s in nats


def main() -> int:
    """Write the runs; those that failed come last."""
    options = parser().parse_args()
    configs = configurations()
    seeds = math.ceil(options.runs / len(configs))
    jobs = list(itertools.product(configs, range(1, seeds + 1)))[: options.runs]
    for i, (overrides, seed) in enumerate(jobs):
        write_run(options.folder / str(i), {**composed(overrides), "seed": seed}, [*overrides, f"seed={seed}"])
    for i in range(options.failed):
        overrides, seed = ("beta.value=1", "optimizer.lr=0.1"), i + 1
        folder = options.folder / str(len(jobs) + i)
        write_failed(folder, {**composed(overrides), "seed": seed}, [*overrides, f"seed={seed}"])
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=100, help="that finished (%(default)s)")
    parser.add_argument("--failed", type=int, default=0, help="that did not (%(default)s)")
    return parser


def configurations() -> list[tuple[str, ...]]:
    """Overrides of every configuration."""
    return [(f"model.latent={latent}", f"beta.value={beta}") for latent in LATENTS for beta in BETAS]


@functools.cache
def composed(overrides: tuple[str, ...]) -> dict:
    """The configuration a command line means."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config: DictConfig = hydra.compose("config", ["logger=none", *overrides])
    return values_of(config)


def write_run(folder: Path, config: dict, overrides: list[str]) -> None:
    """One finished run."""
    beta, latent, seed = config["beta"]["value"], config["model"]["latent"], config["seed"]
    rng = np.random.default_rng([seed, latent, int(100 * beta)])
    rate, distortion = trade_off(beta, latent, rng)
    rows = list(curve(rate, distortion, latent, rng))
    start(folder, config, overrides)
    write_csv(folder / "metrics.csv", rows)
    directory.write_results(folder, figures(config, rate, distortion, rows, rng))
    write_pictures(folder / "images", rng, blur=0.25 * beta + 2 / latent)


def write_failed(folder: Path, config: dict, overrides: list[str]) -> None:
    """One run that diverged."""
    start(folder, config, overrides)
    error = "The loss is nan at update 812. A smaller optimizer.lr usually helps."
    directory.write_results(folder, {**directory.provenance(config, None), "status": "failed", "error": error})


def start(folder: Path, config: dict, overrides: list[str]) -> None:
    """What a run writes first."""
    (folder / "images").mkdir(parents=True)
    directory.write_config(folder, config, overrides)


def trade_off(beta: float, latent: int, rng: np.random.Generator) -> tuple[float, float]:
    """Rate and distortion at the end of training: dD/dR = -beta, and what few latents cost."""
    lost = 12 * math.exp(-latent / 8)
    rate = SCALE * math.log(HEIGHT / (SCALE * beta)) * (1 - 0.3 * math.exp(-latent / 8)) + rng.normal(0, 0.2)
    return rate, FLOOR + lost + HEIGHT * math.exp(-rate / SCALE) + rng.normal(0, 0.25)


def curve(rate: float, distortion: float, latent: int, rng: np.random.Generator):
    """Rows of metrics.csv."""
    for step in range(LOGGED, VALIDATIONS * EVERY + 1, LOGGED):
        yield {"step": step, **split("train", rate, distortion, step, rng)}
    shares = rng.dirichlet(np.full(latent, 0.7))
    for step in range(EVERY, VALIDATIONS * EVERY + 1, EVERY):
        terms = split("val", rate, distortion, step, rng)
        dims = {f"val/kl_dim/0.{d}": share * terms["val/rate"] for d, share in enumerate(shares)}
        yield {"step": step, **terms, **dims, "epoch": step // EVERY}


def split(name: str, rate: float, distortion: float, step: int, rng: np.random.Generator) -> dict[str, float]:
    """Terms that approach the final ones as 1 / sqrt(step)."""
    left = math.sqrt(EVERY / step) - math.sqrt(1 / VALIDATIONS)
    r, d = rate * (1 - 0.4 * left) + rng.normal(0, 0.05), distortion + 60 * left + rng.normal(0, 0.15)
    return {f"{name}/elbo": -r - d, f"{name}/rate": r, f"{name}/distortion": d}


def write_csv(path: Path, rows: list[dict]) -> None:
    """Rows by step, empty where a row has no such value."""
    names = dict.fromkeys(name for row in sorted(rows, key=len) for name in row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(names))
        writer.writeheader()
        for row in sorted(rows, key=lambda row: row["step"]):
            writer.writerow({name: f"{value:.8g}" for name, value in row.items()})


def figures(config: dict, rate: float, distortion: float, rows: list[dict], rng: np.random.Generator) -> dict:
    """results.json; the bound's gap grows with the rate."""
    best = max((row for row in rows if "val/elbo" in row), key=lambda row: row["val/elbo"])
    nll = rate + distortion - 2.0 - 0.05 * rate + rng.normal(0, 0.05)
    seconds = 550 + rng.normal(0, 15)
    return {
        **directory.provenance(config, "binary_mnist dynamic, eval_seed=777, 50000/10000/10000"),
        **{"git_sha": "0" * 40, "version": __version__, "status": "finished"},
        **{name: best[name] for name in ("val/elbo", "val/rate", "val/distortion")},
        **{"test/elbo": -rate - distortion, "test/rate": rate, "test/distortion": distortion},
        **{"test/nll": nll, "test/nll_stderr": 0.21, "test/nll_samples": 100, "test/images": 10_000},
        **{"test/nll_ess": 100 * math.exp(-rate / 12), "test/nll_ess_5": 30 * math.exp(-rate / 12)},
        **{"test/elbo_stderr": 0.22, "train/batch_size": 128},
        **{"test/bits_per_dim": nll / 784 / math.log(2), "test/active_units": min(config["model"]["latent"], 24)},
        **{"train/steps": VALIDATIONS * EVERY, "train/seconds": seconds},
        "train/images_per_second": VALIDATIONS * EVERY * 128 / seconds,
    }


def write_pictures(folder: Path, rng: np.random.Generator, blur: float) -> None:
    """Digits, the blurrier the less a model of this kind would tell of them."""
    digits = load_digits().images / 16 * 255
    for name, columns, rows in (("samples", 8, 8), ("reconstructions", 16, 8), ("traversal", 11, 8)):
        sheet = Image.new("L", (30 * columns, 30 * rows))
        for i, digit in enumerate(digits[rng.integers(0, len(digits), columns * rows)]):
            tile = Image.fromarray(digit.astype(np.uint8)).resize((28, 28), Image.Resampling.BICUBIC)
            plain = name == "reconstructions" and i % 2 == 0
            tile = tile if plain else tile.filter(ImageFilter.GaussianBlur(blur))
            sheet.paste(tile, (30 * (i % columns) + 1, 30 * (i // columns) + 1))
        sheet.save(folder / f"{name}.png")


if __name__ == "__main__":
    sys.exit(main())
