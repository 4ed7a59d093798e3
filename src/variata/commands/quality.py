"""`variata quality RUN`: FID and KID of reconstructions and samples, MS-SSIM and PSNR of reconstructions."""

from argparse import ArgumentParser, Namespace

from variata.commands.arguments import MANY, command, number, of_a_run, of_samples
from variata.commands.evaluate import judged

SAMPLERS = {"prior": ["prior"], "gmm": ["gmm"], "both": ["prior", "gmm"]}


def parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = command(__doc__, of_a_run(), of_samples())
    add = parser.add_argument
    images = "per set; all of the split, if it has fewer (%(default)s)"
    add("--images", type=number(2, MANY), default=10_000, metavar="N", help=images)
    add("--split", choices=("train", "val", "test"), default="test", help="of the images (%(default)s)")
    add("--sampler", choices=SAMPLERS, default="both", help="gmm: a Gaussian mixture fitted to codes (%(default)s)")
    return parser


def run(options: Namespace) -> None:
    """Judge: `variata evaluate RUN evaluate=[quality]`, with options of its own."""
    values = {name: getattr(options, name) for name in ("images", "split", "temperature", "seed")}
    judged(options, ["evaluate=[quality]"], {"quality": {**values, "samplers": SAMPLERS[options.sampler]}})
