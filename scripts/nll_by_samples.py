"""How much lower an importance-weighted NLL becomes with more samples, on the test images of a finished run.

    python scripts/nll_by_samples.py RUN --samples 1000 --times 5 --images 1000

estimates each image `times` times with k samples. Together these are one estimate with times * k samples, so both
figures are of the same images and draws, and the standard error of their difference is that of a paired one.
"""

import argparse
import math
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from variata.evaluation.nll import Estimate, importance_weighted
from variata.run.loading import load, open_data

BATCH = 200  # images at once, as in a test


def together(parts: list[Estimate]) -> Estimate:
    """Estimates of the same images as one of all their samples."""
    log_p = torch.stack([part.log_p for part in parts])  # [times, B]
    log_squares = torch.stack([2 * part.log_p - part.ess.log() for part in parts])
    total = log_p.logsumexp(0)
    return Estimate(total - math.log(len(parts)), (2 * total - log_squares.logsumexp(0)).exp())


def line(samples: int, each: Estimate) -> str:
    """NLL with its standard error, effective sample sizes."""
    nll, ess = -each.log_p, each.ess
    return (
        f"k = {samples:,}: NLL at most {nll.mean():.2f} ± {nll.std() / len(nll) ** 0.5:.2f}, effective samples "
        f"{ess.median():.1f} in the median image, {ess.quantile(0.05):.2f} or fewer in 5%"
    )


def main() -> None:
    """Estimate, and print three lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--samples", type=int, default=1000, help="k (%(default)s)")
    parser.add_argument("--times", type=int, default=5, help="estimates of each image (%(default)s)")
    parser.add_argument("--images", type=int, default=10_000, help="the first ones of the test split (%(default)s)")
    parser.add_argument("--data-root")
    options = parser.parse_args()
    vae, data = load(options.run), open_data(options.run, options.data_root)
    torch.manual_seed(data.eval_seed)
    batches = data.images["test"][: options.images].split(BATCH)
    few, many = [], []
    with torch.no_grad():
        for batch in track(batches, "test images"):
            x: Tensor = data.prepare(batch, "test")
            parts = [importance_weighted(vae, x, options.samples) for _ in range(options.times)]
            few.append(parts[0])
            many.append(together(parts))
    one, all_of_them = (Estimate(*map(torch.cat, zip(*parts, strict=True))) for parts in (few, many))
    lower = all_of_them.log_p - one.log_p
    show = Console(soft_wrap=True, highlight=False).print
    show(f"{options.run}, the first {len(lower):,} test images")
    show(line(options.samples, one))
    show(line(options.samples * options.times, all_of_them))
    show(f"lower by {lower.mean():.3f} ± {lower.std() / len(lower) ** 0.5:.3f} nats")


if __name__ == "__main__":
    main()
