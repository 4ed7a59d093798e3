"""What is found of a model: after training, later, and by an evaluation of one's own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from conftest import ROOT, environment
from models import small
from variata.commands.main import run as run_command
from variata.config.renamed import KEYS, RENAMED, renamed
from variata.config.schema import checked
from variata.config.targets import SLOTS, locate
from variata.data.digits import digits
from variata.errors import ConfigError, RunError
from variata.evaluation.findings import Findings, Moving
from variata.evaluation.nll import NLL
from variata.metrics import METRICS, OBJECTIVES, Metric, declared
from variata.run.directory import read_config
from variata.sweeps.options import direction

OWN = '''
"""Written as a user would, in a file beside the others."""

from variata.evaluation.findings import Evaluation, Findings
from variata.metrics import Metric


class Contrast(Evaluation):
    """The spread of grey values in decoded codes, in units of that in the images."""

    metrics = (Metric("own/contrast", "contrast", "of the images'", up=True, digits=3),)

    def __init__(self, images: int = 50) -> None:
        self.images = images

    def __call__(self, vae, data):
        x = data.prepare(data.images["test"][: self.images].to(vae.device), "test")
        shown = vae.decode(*vae.codes(x)).mean
        ratio = shown.flatten(1).std(1) / x.flatten(1).std(1)  # [N]
        error = ratio.std() / len(ratio) ** 0.5
        return Findings({"own/contrast": ratio.mean().item(), "own/contrast_stderr": error.item()})
'''
QUICK = ["data=digits", "model=mlp_vae", "trainer=cpu", "logger=none", "callbacks=[]", "data.eval_batch_size=60"]
QUICK += ["trainer.max_steps=4", "compile=false", "model.encoder.widths=[16]", "evaluate.nll.samples=3"]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with an evaluation of somebody's own, and a function that runs `variata` where it is installed."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "contrast.py").write_text(OWN)
    (folder / "conf" / "evaluate").mkdir(parents=True)
    node = {"contrast": {"_target_": "variata.evaluation.contrast.Contrast", "images": 40}}
    (folder / "conf" / "evaluate" / "contrast.yaml").write_text(yaml.safe_dump(node))
    code = f"import sys, variata.evaluation as room; room.__path__.append({str(folder)!r});"
    code += "from variata.commands.main import main; sys.exit(main())"

    def variata(*words):
        command = [sys.executable, "-c", code, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return folder, variata


@pytest.fixture(scope="module")
def runs(own):
    """Two runs that differ by their beta, judged by it, and what they said."""
    folder, variata = own
    words = ["train", f"--config-dir={folder / 'conf'}", *QUICK, "evaluate=[nll,contrast]", f"outputs={folder}/out"]
    said = [variata(*words, f"beta.value={beta}") for beta in (1, 4)]
    return sorted(path.parent for path in (folder / "out").rglob("results.json")), said


def results(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


@pytest.mark.slow
def test_an_evaluation_of_ones_own_is_in_results_the_closing_table_and_comparisons(own, runs):
    folder, variata = own
    found = [results(run) for run in runs[0]]
    assert len(found) == 2 and found[0]["own/contrast"] != found[1]["own/contrast"]
    for one, words in zip(found, runs[1], strict=True):
        assert f"{one['own/contrast']:.3f} ± {one['own/contrast_stderr']:.3f} of the images'" in words
    compared = variata("compare", folder / "out", "--by", "own/contrast")
    higher = max(one["own/contrast"] for one in found)
    assert "contrast" in compared and f"has the highest contrast, {higher:.3f} of the images'" in compared


@pytest.mark.slow
def test_a_finished_run_is_judged_as_it_was_after_training(own, runs):
    (folder, variata), run = own, runs[0][0]
    before = results(run)
    said = variata(
        "evaluate", run, "evaluate=[nll,contrast]", "evaluate.nll.samples=3", "--config-dir", folder / "conf"
    )
    after = results(run)
    assert {name: after.pop(f"evaluate/{name}")[:5] for name in ("nll", "contrast")} == {
        "nll": "0.1.0",
        "contrast": "0.1.0",
    }
    assert after == before and before["test/nll"] == before["test/nll"]
    assert f"at most {before['test/nll']:.2f}" in said
    variata("evaluate", run, "evaluate.nll.samples=30")
    later = results(run)
    assert later["test/nll"] < before["test/nll"] and later["test/nll_samples"] == 30
    assert later["status"] == "finished" and later["own/contrast"] == before["own/contrast"]


def test_an_nll_is_a_function_of_model_data_and_samples():
    data, vae = digits(eval_batch_size=60), small((1, 28, 28))
    data.setup()
    torch.manual_seed(1)
    first = NLL(4)(vae, data).figures
    torch.manual_seed(2)
    assert NLL(4)(vae, data).figures == first and first["test/images"] == 200
    assert NLL(5)(vae, data).figures["test/nll"] != first["test/nll"]
    data.limits = {"test": 2}
    assert NLL(4)(vae, data).figures["test/images"] == 120
    data.limits = {"test": 0}
    assert NLL(4)(vae, data) == Findings()


@pytest.mark.parametrize("options", [{"samples": 0}, {"samples": 10**9}, {"rows": 0}])
def test_an_nll_of_no_samples_or_of_too_many_is_refused(options):
    with pytest.raises(ValueError, match="samples is a number from 1 to 1,000,000"):
        NLL(**options)


# --- findings ---------------------------------------------------------------------------------------------------------


def test_findings_are_files_pictures_and_words(tmp_path):
    grey, row = torch.zeros(4, 5, 1, dtype=torch.uint8), Moving(torch.rand(2, 3, 1, 4, 4))
    found = Findings({"test/nll": 80.0, "unknown": 1.0}, pictures={"a": grey, "b": row}, files={"x.json": {"p": 1}})
    paths = found.write(tmp_path, tmp_path / "images")
    assert {path.relative_to(tmp_path).as_posix() for path in paths} == {
        f"images/{n}" for n in ("a.png", "b.png", "b.gif")
    } | {"x.json"}
    Findings(files={"x.json": {"q": 2}}).write(tmp_path, tmp_path)
    assert json.loads((tmp_path / "x.json").read_text()) == {"p": 1, "q": 2}  # what was found of others stays
    assert found.said() == {"test NLL": "≤ 80.00 nats per image"}
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(RunError, match=r"x.json is damaged"):
        Findings(files={"x.json": {}}).write(tmp_path, tmp_path)


GOOD = {"name": "own/x", "label": "x", "unit": "", "up": True, "digits": 2, "bound": False, "alike": ["data/protocol"]}


def test_a_metric_is_read_back_from_the_results_of_a_run():
    assert declared({"metrics": {"own/x": GOOD}}) == {"own/x": Metric("own/x", "x", "", up=True)}


@pytest.mark.parametrize(
    "metrics",
    [
        *(None, 5, [GOOD], {"own/x": 5}),
        *(
            {"own/x": {**GOOD, **change}}
            for change in ({"label": 5}, {"digits": 10**9}, {"label": "\x1b[2J"}, {"up": None})
        ),
        *({"own/x": {**GOOD, **change}} for change in ({"alike": [5]}, {"label": "x" * 1000}, {"name": "test/nll"})),
    ],
)
def test_metrics_of_a_damaged_file_are_left_out(metrics):
    assert declared({"metrics": metrics}) == {}


def test_a_sweep_looks_the_way_in_which_a_figure_is_better():
    assert {direction(name) == "maximize" for name in OBJECTIVES if OBJECTIVES[name].up} == {True}
    assert direction("val/elbo") == "maximize" and direction("test/nll") == direction("train/seconds") == "minimize"
    assert "train/minutes" in METRICS and "train/minutes" not in OBJECTIVES  # which is not in results.json


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1"], "seed=1 says nothing of an evaluation"),
        (["evaluate"], "evaluate says nothing of an evaluation"),
        (["evaluate=[]"], "There is nothing to judge"),
        (["evaluate=[attributes]"], "evaluate.attributes.names has no default"),
    ],
)
def test_words_that_judge_nothing_are_refused_before_torch_is_imported(tmp_path, words, message):
    (tmp_path / "config.yaml").write_text((ROOT / "tests" / "run.yaml").read_text())
    with pytest.raises(ConfigError, match=message):
        run_command("evaluate", [str(tmp_path), *words])


# --- names of before --------------------------------------------------------------------------------------------------


def before(node):
    """The configuration of a run with the names of before."""
    old = {new: name for name, new in RENAMED.items()}
    if isinstance(node, dict):
        return {key: old.get(value, value) if key == "_target_" else before(value) for key, value in node.items()}
    return node


@pytest.mark.parametrize("quality", [False, True])
def test_a_run_made_before_is_read_with_the_names_of_today(tmp_path, quality):
    today = yaml.safe_load((ROOT / "tests" / "run.yaml").read_text())
    today["callbacks"] = {"ema": {"_target_": "variata.training.callbacks.EMA", "decay": 0.99}}
    old = {**before(today), "evaluate": {"samples": 5, "rows": 2000, "quality": quality}}
    assert old["model"] != today["model"] and old["callbacks"] != today["callbacks"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    read = read_config(tmp_path)
    assert checked(read)["evaluate"].pop("quality", None) == (
        {"_target_": "variata.evaluation.quality.Quality", "root": today["data"].get("root")} if quality else None
    )
    assert read == today and renamed(read) == today


def test_names_of_before_lead_to_what_there_is():
    bases = {kind.base for kind in SLOTS.values()}
    for path in RENAMED.values():
        assert any(admitted(path, kind) for kind in SLOTS.values()), (path, bases)


def admitted(path, kind):
    try:
        return locate(path, "x", kind)
    except ConfigError:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_a_word_of_before_is_answered_with_the_one_of_today(train, key):
    answer = train(f"{key}=1")
    assert answer.code == 2 and answer.said == f"variata: {key} is now {KEYS[key]}."
