"""What is imported is declared, and what few need is asked for by the name of its extra."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from conftest import ROOT
from variata import extras
from variata.errors import ConfigError
from variata.evaluation.inception import inception
from variata.sweeps.options import Options
from variata.sweeps.search import Search
from variata.sweeps.space import read

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = [*(ROOT / "src").rglob("*.py"), ROOT / "train.py"]


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", one)[0].lower().replace("_", "-") for one in requirements}


def imported(path: Path) -> set[str]:
    """Packages that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names) - {"variata", "hydra_plugins"}


def test_whatever_is_imported_is_declared():
    known, extra = packages_distributions(), PROJECT["optional-dependencies"]
    declared = names(PROJECT["dependencies"]) | names([one for name in EXTRAS for one in extra[name]])
    for path in PACKAGES:
        for package in imported(path):
            distributions = {name.lower().replace("_", "-") for name in known[package]}
            assert distributions & declared, f"{path} imports {package}, of {distributions}"


EXTRAS = set(extras.EXTRAS.values())


def test_every_extra_is_one_of_the_package_and_of_developers():
    known, optional = packages_distributions(), PROJECT["optional-dependencies"]
    assert optional.keys() == {*EXTRAS, "dev"}
    assert f"variata[{','.join(name for name in optional if name != 'dev')}]" in optional["dev"]
    for library, extra in extras.EXTRAS.items():
        assert {name.lower().replace("_", "-") for name in known[library]} & names(optional[extra])


@pytest.mark.parametrize("library", extras.EXTRAS)
def test_what_is_not_installed_is_named_with_its_extra(monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    install = re.escape(f"pip install 'variata[{extras.EXTRAS[library]}]'")
    with pytest.raises(ConfigError, match=rf"^Such a thing needs {library}, .*{install}"):
        extras.require(library, "Such a thing")


@pytest.mark.parametrize(("library", "sampler"), [("optuna", "tpe"), ("cmaes", "cmaes")])
def test_a_search_without_its_library_is_refused(monkeypatch, tmp_path, library, sampler):
    monkeypatch.setitem(sys.modules, library, None)
    options = Options({}, sampler, 3, ["val/elbo"], None, 1, None, False)
    with pytest.raises(ConfigError, match=rf"sweep.sampler={sampler} needs {library}, .*variata\[sweep\]"):
        Search(read({"x": "interval(0,1)"}, []), options, tmp_path, 1)
    assert not list(tmp_path.iterdir())


def test_slurm_without_its_library_is_refused(monkeypatch):
    from hydra_plugins.variata_plugins import SubmititSlurm

    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ConfigError, match=r"hydra/launcher=submitit_slurm needs submitit, .*variata\[slurm\]"):
        SubmititSlurm().setup(hydra_context=None, task_function=None, config=None)


def test_quality_goes_without_fid_where_its_library_is_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    network, told = inception(tmp_path)
    assert network is None and "variata[quality]" in told["quality/extractor"]


def test_hydra_finds_the_launchers_without_importing_a_library_of_an_extra():
    heavy = {*extras.EXTRAS, "torch", "lightning", "joblib"}
    code = f"import sys, hydra_plugins.variata_plugins; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).returncode == 0


def test_the_wheel_holds_whatever_a_package_reads(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling, which builds the wheel, is not installed")
    build = "from hatchling.builders.wheel import WheelBuilder; "
    build += f"print(next(WheelBuilder({str(ROOT)!r}).build(directory={str(tmp_path)!r}, versions=['standard'])))"
    wheel = subprocess.run([sys.executable, "-c", build], check=True, capture_output=True, text=True).stdout.strip()
    inside = set(zipfile.ZipFile(wheel).namelist())
    files = [path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {str(path.relative_to(ROOT / "src")) for path in files} <= inside
    assert {f"variata/conf/{path.relative_to(ROOT / 'conf')}" for path in (ROOT / "conf").rglob("*.yaml")} <= inside
