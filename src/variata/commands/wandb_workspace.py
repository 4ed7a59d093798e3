"""`variata wandb-workspace GROUP`: save a W&B workspace that compares the runs of a group, where you are logged in.

It shows curves, rate and distortion, settings and pictures; its address is printed.
"""

import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path

import yaml

from variata.commands.arguments import command
from variata.config.compose import CONF
from variata.errors import RunError

KEYS = "beta.value,optimizer.lr,model.latent,seed"


def parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = command(__doc__)
    add = parser.add_argument
    add("group", metavar="GROUP", help="a multirun's folder name, outputs/multirun/<GROUP>, or the id of a W&B sweep")
    add("--project", help="of the runs (that of conf/logger/wandb.yaml)")
    add("--entity", help="whose project (your own)")
    add("--keys", default=KEYS, help="of the configuration, compared with the best val/elbo (%(default)s)")
    return parser


def run(options: Namespace) -> None:
    """Build the workspace and save it, if the user is logged in.

    Raises:
        RunError: W&B cannot be reached as the user.
    """
    import wandb

    try:
        if not wandb.login(prompt=False):
            raise RunError(
                "A workspace is kept by W&B, and you are not logged in. Run `wandb login`, then `wandb sync` what "
                "is offline; or compare without an account: variata compare outputs/multirun/"
                f"{Path(options.group).name}"
            )
        from variata.sweeps.workspace import workspace

        project = options.project or yaml.safe_load((CONF / "logger" / "wandb.yaml").read_text())["project"]
        entity = options.entity or wandb.Api().default_entity or ""
        saved = workspace(Path(options.group).name, project, entity, options.keys.split(",")).save()
    except (wandb.Error, ValueError) as error:
        raise RunError(f"W&B refused the workspace: {error} Check --project, --entity and `wandb login`.") from error
    sys.stdout.write(f"{saved.url}\n")
