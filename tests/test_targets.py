import pytest

from variata.errors import ConfigError
from variata.targets import build, check, check_values, locate, matches


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "torch.load",
        "variata.runs.subprocess.run",  # somebody else's function under our name
        "variata.data.files.gzip.open",
        "variata.data.files.Path",
        "variata.runs",
        "variata.cli.bench.peak",
        "variata.nothing",
        "torch.optim.Nothing",
    ],
)
def test_only_named_places_may_be_built_from(path):
    with pytest.raises(ConfigError, match=path.rpartition(".")[2]):
        locate(path, "model")


@pytest.mark.parametrize("path", ["variata.priors.Mixture", "torch.optim.Adam", "lightning.pytorch.Trainer"])
def test_what_experiments_are_made_of_may_be_built(path):
    assert locate(path, "x").__name__ == path.rpartition(".")[2]


def test_a_target_hidden_deep_inside_is_found():
    node = {"_target_": "variata.schedules.Constant", "value": {"list": [{"_target_": "os.system", "command": "true"}]}}
    with pytest.raises(ConfigError, match=r"os\.system"):
        check(node, "beta")


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
