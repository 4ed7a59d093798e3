"""Judge the pictures of a run."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from variata.errors import ConfigError
from variata.run import directory
from variata.run.guard import guarded

if TYPE_CHECKING:
    pass

SAMPLERS = {"prior": ("prior",), "gmm": ("gmm",), "both": ("prior", "gmm")}


def main() -> int:
    """`variata quality RUN`: prints a table and writes RUN/quality.json anew."""
    options = parser().parse_args()
    return guarded(lambda: quality(options))


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    what = "FID and KID of reconstructions and samples, MS-SSIM and PSNR of reconstructions."
    parser = argparse.ArgumentParser("variata quality", description=what)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run directory, outputs/<data>-<model>/<run>")
    add("--images", type=int, default=10_000, help="per set; all of the split, if it has fewer (%(default)s)")
    add("--split", choices=("train", "val", "test"), default="test", help="of the real images (%(default)s)")
    add("--sampler", choices=SAMPLERS, default="both", help="gmm: a Gaussian mixture fitted to codes (%(default)s)")
    scaled = "factor of the standard deviations of the prior or of a mixture's components (%(default)s)"
    add("--temperature", type=float, default=1.0, help=scaled)
    add("--seed", type=int, default=0, help="of everything drawn (%(default)s)")
    add("--device", choices=("cpu", "cuda"), help="(cuda where there is one)")
    add("--data-root", help="takes the place of data.root")
    add("--data-cache", help="folder of packed images, if it is not VARIATA_CACHE")
    return parser


def quality(options: argparse.Namespace) -> None:
    """Load, measure, print, write."""
    if options.images < 2 or not 0 <= options.temperature <= 100 or not 0 <= options.seed < 2**32:
        raise ConfigError(
            "--images is at least 2, --temperature a number from 0 to 100 and --seed one from 0 to 2^32 - 1, "
            f"got {options.images}, {options.temperature} and {options.seed}."
        )
    from variata import loading  # after what is quickly refused
    from variata.evaluation.quality import judge, require_pictures
    from variata.run.loading import device
    from variata.run.report import quality_rows, show

    directory.require_own(options.run, ["quality.json"])
    place = device(options.device)
    config, vae = directory.read_config(options.run), loading.load(options.run)
    data = loading.open_data(options.run, options.data_root, options.data_cache)
    require_pictures(data)
    vae = vae.to(place)
    figures = judge(
        vae,
        data,
        config,
        root=options.data_root,
        samplers=SAMPLERS[options.sampler],
        **{name: getattr(options, name) for name in ("temperature", "split", "images", "seed")},
    )
    directory.write_results(options.run, {**figures, **directory.provenance(config, data.protocol)}, "quality.json")
    show("quality", quality_rows(figures), [options.run / "quality.json"])
