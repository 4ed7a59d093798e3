"""What is a secret stands in no file of a run, however it came into the configuration."""

import hydra
import pytest
from omegaconf import OmegaConf

from conftest import ROOT
from variata.commands.train import run_dir
from variata.run import directory
from variata.run.job import resolved

FROM_THE_ENVIRONMENT = {  # words of a command line, and where the secret comes to
    "as it is": ["+remote.note=${oc.env:MY_TOKEN}"],
    "inside a text": ["+remote.note='before ${oc.env:MY_TOKEN} after'"],
    "in a list": ["logger.tags=['a','${oc.env:MY_TOKEN}']"],
    "through another key": ["+remote.a=${oc.env:MY_TOKEN}", "+remote.note=${remote.a}"],
    "through a key of a secret": ["+remote.hf_token=${oc.env:MY_TOKEN}", "+remote.note='<${remote.hf_token}>'"],
    "through the shell": ["+remote.note=sesame-open"],
    "through the shell, in a list": ["logger.tags=[a,sesame-open]"],
}


def saved(folder, words):
    """config.yaml of a command, and all its run directory says; overrides.txt with it."""
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = resolved(hydra.compose("config", ["data=digits", *words]))
    directory.write_config(folder, config, words)
    return directory.read_config(folder), "".join(path.read_text() for path in folder.iterdir())


@pytest.mark.parametrize("words", FROM_THE_ENVIRONMENT.values(), ids=FROM_THE_ENVIRONMENT)
def test_what_the_environment_keeps_secret_is_not_saved(tmp_path, monkeypatch, words):
    monkeypatch.setenv("MY_TOKEN", "sesame-open")
    monkeypatch.setenv("OTHER", "known-to-all")
    config, text = saved(tmp_path, [*words, "+remote.place=${oc.env:OTHER}"])
    assert "sesame" not in text and config["remote"]["place"] == "known-to-all"
    assert config["logger"]["project"] == "variata" and config["data"]["batch_size"] == 64


def test_what_stands_at_a_secret_key_is_not_saved_elsewhere(tmp_path):
    words = ["+remote.password=sesame", "+remote.note='a ${remote.password}'", "+remote.copy=sesame", "seed=6"]
    config, text = saved(tmp_path, words)
    assert "sesame" not in text and config["remote"] == {"password": None, "note": None, "copy": None}
    assert config["seed"] == 6


def test_a_short_word_in_the_environment_hides_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_TOKEN", "auto")
    monkeypatch.setenv("MY_SECRET", "")
    config, _ = saved(tmp_path, [])
    assert config["compile"] == "auto" and config["trainer"]["strategy"] == "auto"
