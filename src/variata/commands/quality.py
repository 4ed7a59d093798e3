"""Judge the pictures of a run."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from variata.commands import evaluate
from variata.errors import ConfigError
from variata.run.guard import guarded

SAMPLERS = {"prior": ["prior"], "gmm": ["gmm"], "both": ["prior", "gmm"]}


def main() -> int:
    """`variata quality RUN`: the same as `variata evaluate RUN evaluate=[quality]`, with options of its own."""
    options = parser().parse_args()
    return guarded(lambda: quality(options))


def parser() -> ArgumentParser:
    """The options of the command."""
    what = "FID and KID of reconstructions and samples, MS-SSIM and PSNR of reconstructions."
    parser = ArgumentParser("variata quality", description=what)
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="run directory, outputs/<data>-<model>/<run>")
    add("--images", type=int, default=10_000, help="per set; all of the split, if it has fewer (%(default)s)")
    add("--split", choices=("train", "val", "test"), default="test", help="of the real images (%(default)s)")
    add("--sampler", choices=SAMPLERS, default="both", help="gmm: a Gaussian mixture fitted to codes (%(default)s)")
    scaled = "factor of the standard deviations of the prior or of a mixture's components (%(default)s)"
    add("--temperature", type=float, default=1.0, help=scaled)
    add("--seed", type=int, default=0, help="of everything drawn (%(default)s)")
    evaluate.add_places(parser)
    return parser


def quality(options: Namespace) -> None:
    """Refuse what is out of range, judge."""
    if options.images < 2 or not 0 <= options.temperature <= 100 or not 0 <= options.seed < 2**32:
        raise ConfigError(
            "--images is at least 2, --temperature a number from 0 to 100 and --seed one from 0 to 2^32 - 1, "
            f"got {options.images}, {options.temperature} and {options.seed}."
        )
    values = {name: getattr(options, name) for name in ("images", "split", "temperature", "seed")}
    evaluate.run(options, ["evaluate=[quality]"], {"quality": {**values, "samplers": SAMPLERS[options.sampler]}})
