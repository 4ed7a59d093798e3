"""Only what a configuration may be made of is made of it, also where somebody else wrote it.

Canaries tell whether an attack did anything, whatever it was answered with.
"""

import copy
import itertools
import sys
from pathlib import Path

import hydra
import pytest
import torch
import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf

import variata
import variata.priors
from attacks import ELSEWHERE, METHOD, NESTED, ODD, PAYLOADS, PLAIN
from conftest import ROOT
from models import documented_prior
from variata.commands.main import run as run_command
from variata.commands.pictures import COMMANDS
from variata.commands.train import run_dir
from variata.config.plain import plain
from variata.config.schema import checked
from variata.config.targets import SLOTS, build, check, check_values, locate, matches
from variata.errors import ConfigError, DataError, RunError, UserError
from variata.evaluation.findings import Findings
from variata.evaluation.quality import Quality
from variata.run import directory, loading
from variata.run.job import resumed

CONFIG = OmegaConf.to_container(OmegaConf.load(ROOT / "tests" / "run.yaml"))  # as a run writes it
CONFIG["logger"] = {"_target_": "variata.run.wandb.wandb", "_partial_": True, "project": "x"}
ADMITTED = {  # in each slot
    **{"data": "variata.data.digits.digits", "model": "variata.build.flat", "logger": "variata.run.wandb.wandb"},
    **{
        "model.encoder": "variata.networks.mlp.MLPEncoder",
        "model.decoder": "variata.networks.mlp.MLPDecoder",
    },
    **dict.fromkeys(("posterior", "model.posterior"), "variata.posteriors.Gaussian"),
    **dict.fromkeys(("prior", "model.prior"), "variata.priors.Mixture"),
    **dict.fromkeys(("likelihood", "model.likelihood"), "variata.likelihoods.Bernoulli"),
    **{"objective": "variata.objectives.ELBO", "optimizer": "torch.optim.SGD", "trainer": "lightning.pytorch.Trainer"},
    **{"beta": "variata.schedules.Cosine", "scheduler": "variata.schedules.CosineDecay"},
    "evaluate.*": "variata.evaluation.nll.NLL",
    "callbacks.*": "variata.training.callbacks.EMA",
}


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A function from an attack with <places> to one with paths; afterwards nothing has happened to any of them."""
    places = {name: tmp_path / name for name in ("pickle", "precious", "elsewhere")}
    torch.save(Trap(tmp_path / "touched"), places["pickle"])
    places["precious"].write_text("mine")
    (tmp_path / "marked.py").write_text("class Thing: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MY_TOKEN", "sesame-open")

    def plant(value):
        if isinstance(value, dict):
            return {plant(name): plant(item) for name, item in value.items()}
        if isinstance(value, list):
            return [plant(item) for item in value]
        for name, path in places.items() if isinstance(value, str) else ():
            value = value.replace(f"<{name}>", str(path))
        return value

    plant.unharmed = lambda: (
        places["precious"].is_file()
        and not places["elsewhere"].exists()
        and not (tmp_path / "touched").exists()
        and "marked" not in sys.modules
    )
    yield plant
    assert plant.unharmed()


def changed(config, key, value):
    """A configuration with another value at a dotted key."""
    config = copy.deepcopy(config)
    node, *names = config, *key.split(".")
    for name in names[:-1]:
        node = node.setdefault(name, {})
    node[names[-1]] = copy.deepcopy(value)
    return config


def written(folder, config):
    """A run directory with a configuration in it."""
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def resume(run, *words):
    """What resume=RUN does before it builds anything, in a run that seems to have something to go on from."""
    (run / "checkpoints").mkdir(exist_ok=True)
    (run / "checkpoints" / "last.ckpt").touch()
    return checked(resumed(run, list(words)))


# --- what may not -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_attacks_would_work(planted, tmp_path, name):
    instantiate(planted(PAYLOADS[name]))
    assert not planted.unharmed()
    (tmp_path / "touched").unlink(missing_ok=True)
    (tmp_path / "precious").write_text("mine")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere.rmdir if elsewhere.is_dir() else lambda: elsewhere.unlink(missing_ok=True))()


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("slot", SLOTS)
def test_code_of_others_is_built_in_no_slot(planted, slot, name):
    node = {**PAYLOADS[name], **({"_partial_": True} if SLOTS[slot].partial else {})}
    with pytest.raises(ConfigError, match=r"may not be (built|used)"):
        checked(changed(CONFIG, slot.replace("*", "x"), planted(node)))


@pytest.mark.parametrize("nested", NESTED)
@pytest.mark.parametrize("key", PLAIN)
def test_where_a_value_belongs_nothing_is_built(planted, key, nested):
    config = changed(CONFIG, key, planted(NESTED[nested](METHOD)))
    with pytest.raises(ConfigError, match=f"{key.split('.')[-1]}.*(may not|is no|has the wrong type|is none)"):
        checked(config)


@pytest.mark.parametrize(("key", "value"), ODD.values(), ids=ODD)
def test_what_is_odd_is_refused(planted, tmp_path, key, value):
    run = written(tmp_path / "run", changed(CONFIG, key, planted(value)))
    before = (run / "config.yaml").read_bytes()
    with pytest.raises(UserError):
        resume(run)
    assert {path.name for path in run.iterdir()} == {"checkpoints", "config.yaml"}
    assert (run / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("path", ELSEWHERE, ids=str)
def test_what_is_no_part_is_located_in_no_slot(planted, path):
    for slot, kind in SLOTS.items():
        with pytest.raises(ConfigError, match=r"may not be built|does not exist"):
            locate(path, slot, kind)


def test_a_part_is_admitted_where_its_kind_is():
    assert ADMITTED.keys() == SLOTS.keys()
    for (slot, kind), (other, path) in itertools.product(SLOTS.items(), ADMITTED.items()):
        if SLOTS[other].base is kind.base or {slot, other} == {"beta", "scheduler"}:  # a schedule is both
            assert locate(path, slot, kind).__name__ == path.rpartition(".")[2]
        else:
            with pytest.raises(ConfigError, match=f"{slot.replace('*', '.')}.*may not be built"):
                locate(path, slot, kind)


def test_no_function_of_ours_confuses_the_gate():
    for module in [name for name in sys.modules if name.startswith("variata.")]:
        for name in vars(sys.modules[module]):
            for slot, kind in SLOTS.items():
                try:
                    found = locate(f"{module}.{name}", slot, kind)
                except ConfigError:
                    continue
                assert found.__module__.startswith("variata.") and not found.__module__.startswith("variata.commands.")


# --- who reads a run --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A run directory with the weights of a small model."""
    config = copy.deepcopy(CONFIG)
    config["model"]["latent"] = 2
    for part, name in (("encoder", "MLPEncoder"), ("decoder", "MLPDecoder")):
        config["model"][part] = {"_target_": f"variata.networks.mlp.{name}", "_partial_": True, "widths": [8]}
    run = written(tmp_path_factory.mktemp("runs") / "run", config)
    vae = build(config["model"], "model")
    (run / "checkpoints").mkdir()
    torch.save(
        {"variata": {}, "state_dict": {f"vae.{name}": value for name, value in vae.state_dict().items()}},
        run / "checkpoints" / "best.ckpt",
    )
    return run


def read(command, run, out, monkeypatch):
    """A command that reads a run; what `variata quality` finds is made up."""
    figures = {"quality/images": 4, "quality/split": "test", "quality/psnr": 9}
    monkeypatch.setattr(Quality, "__call__", lambda *args: Findings(figures))
    if command == "load":
        variata.load(run)
    else:
        words = MORE.get(command, ["--images", "2", "--out", str(out)])
        run_command(command, [str(run), "--device", "cpu", *(word.format(out=out) for word in words)])


MORE = {  # words of readers
    "quality": [],
    "evaluate": ["evaluate=[nll]", "evaluate.nll.samples=1"],
    "attributes": ["--attribute", "x", "--out", "{out}"],
    "sample": ["--sampler", "gmm", "--images", "2", "--out", "{out}"],
}
READERS = ["load", "quality", "evaluate", "attributes", *COMMANDS]
POISON = {
    "model": ("model", METHOD),
    "encoder": ("model.encoder", {**METHOD, "_partial_": True}),
    "latent": ("model.latent", METHOD),
    "data": ("data", METHOD),
    "seed of the data": ("data.eval_seed", METHOD),
    "environment": ("remote.note", "${oc.env:MY_TOKEN}"),
}


@pytest.mark.parametrize("place", POISON)
@pytest.mark.parametrize("command", READERS)
def test_a_reader_builds_nothing_else(planted, tmp_path, small_run, monkeypatch, capsys, command, place):
    key, value = POISON[place]
    if command == "load" and key.startswith("data"):
        pytest.skip("it reads no data")
    run = written(tmp_path / "run", changed(directory.read_config(small_run), key, planted(value)))
    (run / "checkpoints").symlink_to(small_run / "checkpoints")
    with pytest.raises((ConfigError, RunError), match=r"may not be built|has the wrong type|holds \$\{oc.env:MY_TOKEN"):
        read(command, run, tmp_path / "out", monkeypatch)
    assert "sesame-open" not in capsys.readouterr().out and not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", READERS)
def test_a_reader_does_not_look_at_what_it_does_not_need(planted, tmp_path, small_run, monkeypatch, command):
    config = directory.read_config(small_run)
    for key in ("callbacks.x", "trainer", "logger", "optimizer", "objective", "beta", "prior", "evaluate", "remote"):
        config = changed(config, key, planted(METHOD))
    run = written(tmp_path / "run", config)
    (run / "checkpoints").symlink_to(small_run / "checkpoints")
    if command == "attributes":
        with pytest.raises(DataError, match="no attributes"):  # of digits
            read(command, run, tmp_path / "out", monkeypatch)
    else:
        read(command, run, tmp_path / "out", monkeypatch)
        assert command in ("load", "quality", "evaluate") or list((tmp_path / "out").iterdir())


def test_packed_images_go_into_the_cache_of_who_reads(faces, tmp_path, monkeypatch):
    options = {"shape": [3, 8, 8], "batch_size": 4, "root": str(faces), "cache": str(tmp_path / "theirs")}
    run = written(tmp_path / "run", changed(CONFIG, "data", {"_target_": "variata.data.celeba.celeba", **options}))
    monkeypatch.setenv("VARIATA_CACHE", str(tmp_path / "mine"))
    loading.open_data(run)
    assert list((tmp_path / "mine").glob("*.pack")) and not (tmp_path / "theirs").exists()
    loading.open_data(run, cache=str(tmp_path / "named"))
    assert list((tmp_path / "named").glob("*.pack")) and not (tmp_path / "theirs").exists()
    assert resume(run)["data"]["cache"] == str(tmp_path / "mine")
    assert resume(run, "data.cache=here")["data"]["cache"] == "here"


def test_data_is_downloaded_only_to_where_the_reader_says(tmp_path, monkeypatch):
    node = {"_target_": "variata.data.mnist.binary_mnist", "root": str(tmp_path / "theirs"), "download": True}
    run = written(tmp_path / "run", changed(CONFIG, "data", node))
    asked = []
    monkeypatch.setattr("variata.data.files.fetch", lambda root, download: asked.append(root))
    with pytest.raises(DataError, match="Missing data"):
        loading.open_data(run)
    assert asked == [] and resume(run)["data"]["download"] is False
    with pytest.raises(DataError, match="Missing data"):
        loading.open_data(run, root=str(tmp_path / "mine"))
    assert asked == [tmp_path / "mine"]


def test_aliases_that_grow_without_bound_are_refused(tmp_path):
    rows = ["a: &a [1, 1]", *(f"{b}: &{b} [*{a}, *{a}]" for a, b in itertools.pairwise("abcdefghijklmnopqrstuvwxyz"))]
    (tmp_path / "config.yaml").write_text("\n".join(rows))
    with pytest.raises(RunError, match="aliases"):
        directory.read_config(tmp_path)


def test_a_configuration_nested_without_end_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("x: " + "[" * 900 + "]" * 900)
    with pytest.raises(RunError, match="cannot be read"):
        directory.read_config(tmp_path)


# --- what may ---------------------------------------------------------------------------------------------------------


def options():
    """Words of a command line that choose every option of every group once."""
    columns = []
    for group in ("callbacks", *(slot for slot in SLOTS if (ROOT / "conf" / slot).is_dir())):
        names = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
        columns.append([f"{group}=[{name}]" if group == "callbacks" else f"{group}={name}" for name in names])
    rows = itertools.zip_longest(*columns)
    return [["experiment=ppca"], *([word for word in row if word] for row in rows)]


@pytest.mark.parametrize("words", options(), ids=" ".join)
def test_every_option_passes(words):
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
    given = [*words, "data.root=x"] if "data=image_folder" in words else words
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = plain(hydra.compose("config", given))
    config = {name: value for name, value in config.items() if name not in ("sweep", "jobs")}
    assert checked(config) == config


@pytest.mark.parametrize("slot", ADMITTED)
def test_what_experiments_are_made_of_may_be_built(slot):
    assert locate(ADMITTED[slot], slot, SLOTS[slot]).__name__ == ADMITTED[slot].rpartition(".")[2]


def test_callbacks_of_lightnings_that_work_here_pass(tmp_path):
    stopping = {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "monitor": "val/elbo", "mode": "max"}
    timer = {"_target_": "lightning.pytorch.callbacks.Timer", "duration": {"minutes": 5}, "interval": "epoch"}
    config = changed(changed(CONFIG, "callbacks.stopping", stopping), "callbacks.timer", timer)
    run = written(tmp_path / "run", config)
    for name in ("stopping", "timer"):
        build(resume(run)["callbacks"][name], name)


def test_a_new_prior_needs_no_word_here(monkeypatch):
    monkeypatch.setattr(variata.priors, "StudentT", documented_prior(), raising=False)
    check({"_target_": "variata.priors.StudentT", "_partial_": True, "freedom": 3.0}, "prior")
    check(changed(CONFIG["model"], "prior", {"_target_": "variata.priors.StudentT", "_partial_": True}), "model")
    with pytest.raises(ConfigError, match=r"prior\.fredom is no option of .*Did you mean freedom"):
        check({"_target_": "variata.priors.StudentT", "_partial_": True, "fredom": 3.0}, "prior")


# --- names and types --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (1, float, True),
        (1.0, int, False),
        (True, int, False),
        (True, float, False),
        ("1", int, False),
        (None, int | None, True),
        (None, int, False),
        ([1, 2], list[int], True),
        (["a"], list[int], False),
        ("auto", bool | str, True),
        ([0.9, 0.99], tuple[float, float], True),
        ([0.9], tuple[float, float], False),
        ({"hours": 1}, str | dict[str, int] | None, True),
        ({"a": 1}, int, False),
    ],
)
def test_types_are_what_they_say(value, hint, fits):
    assert matches(value, hint) is fits


def test_unknown_options_are_named_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"prior\.component is no option of .*Did you mean components\?"):
        check({"_target_": "variata.priors.Mixture", "_partial_": True, "component": 3}, "prior")
    with pytest.raises(ConfigError, match=r"seed='x' has the wrong type: expected int"):
        check_values({"seed": "x"}, {"seed": int}, "", "a run")


def test_a_refused_argument_is_told_with_its_place():
    with pytest.raises(ConfigError, match=r"beta cannot be built: .*cycles=0"):
        build({"_target_": "variata.schedules.Cyclical", "cycles": 0}, "beta")
