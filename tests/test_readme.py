"""What the README shows works."""

import re
import shlex

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from conftest import ROOT
from models import readme_prior, small
from variata.commands.train import run_dir

TEXT = (ROOT / "README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for line in TEXT.splitlines() if line.startswith("python train.py")]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_compose(command):
    left_out = ("--", "resume=", "sweep.resume=", "seed=1,")
    overrides = [word for word in shlex.split(command)[2:] if "=" in word and not word.startswith(left_out)]
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert OmegaConf.to_container(hydra.compose("config", overrides), resolve=True)["model"]["latent"] > 0


def test_every_option_is_listed():
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", TEXT, re.MULTILINE))
    for folder in (ROOT / "conf").iterdir():
        if folder.is_dir() and folder.name in rows:
            assert {path.stem for path in folder.glob("*.yaml")} == set(re.findall(r"`(\w+)`", rows[folder.name]))
    assert len(rows) >= 13


def test_the_example_of_a_new_prior_trains():
    trace = small(prior=readme_prior())(torch.rand(4, 1, 4, 4).round())
    (trace.kl.sum(0) - trace.log_px).mean().backward()
    assert trace.kl.isfinite().all() and trace.latents[0].kl_per_dim is None
