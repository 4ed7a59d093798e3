"""Judge a run that has ended."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from variata.config.compose import evaluations
from variata.errors import ConfigError
from variata.run import directory
from variata.run.guard import guarded

EXAMPLE = "variata evaluate RUN evaluate=[nll,quality] evaluate.nll.samples=5000"


def main() -> int:
    """`variata evaluate RUN evaluate=[...]`: prints what is found and adds it to RUN/results.json."""
    options = parser().parse_intermixed_args()
    return guarded(lambda: evaluate(options))


def parser() -> ArgumentParser:
    """The options of the command."""
    what = "Judge a run: what evaluate=[...] would have found at its end, in the same words; it goes into results.json."
    parser = ArgumentParser("variata evaluate", description=what, epilog=f"{EXAMPLE}; options are in conf/evaluate.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory, outputs/<data>-<model>/<run>")
    parser.add_argument("words", nargs="*", metavar="evaluate...=", help="which, and their options (evaluate=[nll])")
    parser.add_argument("--config-dir", type=Path, help="folder of evaluate/<name>.yaml of your own")
    add_places(parser)
    return parser


def add_places(parser: ArgumentParser) -> None:
    """Where to compute, and where the data are: options of all that judges runs."""
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(cuda where there is one)")
    parser.add_argument("--data-root", help="takes the place of data.root")
    parser.add_argument("--data-cache", help="folder of packed images, if it is not VARIATA_CACHE")


def evaluate(options: Namespace) -> None:
    """Compose, judge."""
    for word in options.words:
        key, sign, _ = word.partition("=")
        if not sign or key.lstrip("+~").split(".")[0] != "evaluate":
            raise ConfigError(f"{word} says nothing of an evaluation. Write {EXAMPLE}.")
    run(options, options.words, {}, folder=options.config_dir)


def run(
    options: Namespace, words: list[str], values: dict[str, dict], folder: Path | None = None, out: Path | None = None
) -> None:
    """Judge options.run as words say, the options of evaluations changed by values."""
    config = directory.read_config(options.run)
    if options.data_root:
        config["data"]["root"] = options.data_root
    nodes = evaluations(words, config, values, folder)
    if not nodes:
        raise ConfigError(f"There is nothing to judge. Name an evaluation: {EXAMPLE}.")
    from variata.run.judge import judge  # after what is quickly refused

    judge(options.run, nodes, options.device, options.data_root, options.data_cache, out)
