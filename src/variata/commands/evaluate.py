"""`variata evaluate RUN evaluate=[...]`: judge a run by any evaluation; what is found goes into its results.json."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from variata.commands.arguments import command, of_a_run
from variata.errors import ConfigError

EXAMPLE = "variata evaluate RUN evaluate=[nll,quality] evaluate.nll.samples=5000"


def parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = command(__doc__, of_a_run(seed=False), epilog=f"{EXAMPLE}; options are in conf/evaluate.")
    add = parser.add_argument
    add("words", nargs="*", metavar="evaluate...=", help="which evaluations, and their options (evaluate=[nll])")
    add("--config-dir", type=Path, metavar="FOLDER", help="of evaluate/<name>.yaml of your own")
    return parser


def run(options: Namespace) -> None:
    """Compose the evaluations, judge."""
    for word in options.words:
        key, sign, _ = word.partition("=")
        if not sign or key.lstrip("+~").split(".")[0] != "evaluate":
            raise ConfigError(f"{word} says nothing of an evaluation. Write {EXAMPLE}.")
    judged(options, options.words, {}, folder=options.config_dir)


def judged(
    options: Namespace, words: list[str], values: dict[str, dict], folder: Path | None = None, out: Path | None = None
) -> None:
    """Judge options.run as words say, the options of evaluations changed by values."""
    from variata.config.compose import evaluations
    from variata.run import directory

    config = directory.read_config(options.run)
    if options.data_root:
        config["data"]["root"] = options.data_root
    nodes = evaluations(words, config, values, folder)
    if not nodes:
        raise ConfigError(f"There is nothing to judge. Name an evaluation: {EXAMPLE}.")
    from variata.run.judge import judge  # after what is quickly refused

    judge(options.run, nodes, options.device, options.data_root, options.data_cache, out)
