"""What the documents show works, and what they name is there."""

import re
import shlex
import tomllib
from importlib import import_module

import hydra
import pytest
import torch
from omegaconf import OmegaConf

from conftest import ROOT
from models import documented_prior, small
from variata.commands.arguments import read
from variata.commands.train import run_dir
from variata.config.compose import arranged

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def commands(program):
    """What the pages show of a program, in blocks and within sentences, without what a shell makes of the rest."""
    found = []
    for page in PAGES:
        text = page.read_text()
        shown = "\n".join(FENCE.findall(text)).replace("\\\n", " ").splitlines()
        for line in [*shown, *re.findall("`([^`]+)`", FENCE.sub("", text))]:
            for part in re.split(r" && | > |\s#", line):
                if part.strip().startswith(f"{program} "):
                    words = shlex.split(part)[len(program.split()) :]
                    found.append(pytest.param([w for w in words if w != "..."], id=f"{page.stem}: {part.strip()}"))
    return found


@pytest.mark.parametrize("words", commands("python train.py"))
def test_training_composes(words):
    overrides = [word for word in arranged(words) if "=" in word and not word.startswith(("-", "resume="))]
    single = [word for word in overrides if not word.startswith(("sweep.resume=", "seed=1,"))]
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert OmegaConf.to_container(hydra.compose("config", single), resolve=True)["model"]["latent"] > 0


@pytest.mark.parametrize("words", commands("variata"))
def test_commands_take_their_words(words):
    name, *rest = words
    if name == "--help" or words == ["COMMAND", "--help"]:
        return
    module = import_module(f"variata.commands.{name.replace('-', '_')}")
    if rest:  # else the command is only named
        assert vars(read(module.parser(), rest))


def test_commands_are_found():
    trained, others = (commands(program) for program in ("python train.py", "variata"))
    assert len(trained) >= 25 and len({command.values[0][0] for command in others}) >= 11


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        name, _, heading = target.partition("#")
        place = page.parent / name if name else page
        assert place.is_file(), target
        if heading:
            titles = re.findall(r"^#+ (.+)", place.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, target


def test_every_page_is_in_the_list_of_pages():
    listed = re.findall(r"^\| \[.+?\]\((.+?)\)", PAGES[0].read_text(), re.MULTILINE)
    assert sorted(listed) == [f"docs/{page.name}" for page in PAGES[1:]]


ARCHITECTURE = ROOT / "docs" / "architecture.md"


def test_the_architecture_names_every_module_once_and_no_other():
    src = ROOT / "src" / "variata"
    there = {path.relative_to(src).as_posix() for path in src.rglob("*.py") if path.name != "__init__.py"}
    rows = re.findall(r"^\| `([\w/]+\.py)` \|", ARCHITECTURE.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(there)


def test_the_architecture_draws_files_that_are_there():
    text = ARCHITECTURE.read_text()
    for name in re.findall(r"[\w/]+\.py\b", text):
        assert any((folder / name).is_file() for folder in (ROOT, ROOT / "src", ROOT / "src" / "variata")), name
    assert text.count("```mermaid") == 3


def test_the_architecture_has_the_layers_that_are_held():
    held = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    assert "\n".join(["```", *held, "```"]) in ARCHITECTURE.read_text()


def test_every_option_is_listed():
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", text, re.MULTILINE))
    for folder in (ROOT / "conf").iterdir():
        if folder.is_dir() and folder.name in rows:
            assert {path.stem for path in folder.glob("*.yaml")} == set(re.findall(r"`(\w+)`", rows[folder.name]))
    assert len(rows) >= 13


def test_the_example_of_a_new_prior_trains():
    trace = small(prior=documented_prior())(torch.rand(4, 1, 4, 4).round())
    (trace.kl.sum(0) - trace.log_px).mean().backward()
    assert trace.kl.isfinite().all() and trace.latents[0].kl_per_dim is None


def test_tests_lie_as_the_code_does():
    def rooms(folder):
        return {path.name for path in folder.iterdir() if path.is_dir() and list(path.glob("*.py"))}

    assert rooms(ROOT / "tests") <= rooms(ROOT / "src" / "variata")
