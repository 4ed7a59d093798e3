"""The commands of `variata`: one table, one style of help, and wrong words told before anything heavy is imported."""

import subprocess
import sys
from importlib import import_module

import pytest

from conftest import ROOT, environment
from variata import commands as package
from variata.commands.main import commands, main
from variata.evaluation.attributes import STRENGTHS
from variata.evaluation.pictures import STEPS

MODULES = {name: f"variata.commands.{name.replace('-', '_')}" for name in commands() if name != "train"}


def answer(monkeypatch, capsys, *words):
    """Exit code and what is printed, its lines joined on stderr."""
    monkeypatch.setattr("sys.argv", ["variata", *words])
    code = main()
    said = capsys.readouterr()
    return code, said.out, " ".join(said.err.split())


@pytest.mark.parametrize("words", [[], ["-h"], ["--help"]], ids=str)
def test_all_commands_are_listed(monkeypatch, capsys, words):
    code, out, err = answer(monkeypatch, capsys, *words)
    assert code == 0 and not err
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == sorted(commands())
    assert {"attributes", "compare", "ls", "sample", "schedules", "train", "wandb-sweep"} <= commands().keys()


@pytest.mark.parametrize("name", MODULES)
def test_a_command_is_explained_and_not_run(monkeypatch, capsys, name):
    monkeypatch.setattr("sys.argv", ["variata", name, "--help"])
    with pytest.raises(SystemExit) as end:
        main()
    out = capsys.readouterr().out
    assert not end.value.code and out.startswith(f"usage: variata {name} [-h]")
    assert commands()[name].lower() in out.lower()


def test_what_commands_share_is_explained_in_one_wording():
    said = {}
    for module in MODULES.values():
        for action in import_module(module).parser()._actions:
            said.setdefault(action.dest, set()).add((action.metavar, action.help))
    for name in ("run", "seed", "device", "data_root", "data_cache", "out", "split", "steps"):
        assert len(said[name]) == 1, name


def test_what_is_drawn_by_default_is_what_the_library_draws():
    for name, option, value in (("traverse", "steps", STEPS), ("interpolate", "steps", STEPS)):
        assert import_module(MODULES[name]).parser().get_default(option) == value
    assert import_module(MODULES["attributes"]).parser().get_default("strengths") == list(STRENGTHS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smaple"], "smaple is no command. Did you mean sample? Allowed: attributes, compare,"),
        (["sample", "run", "--temprature", "2"], "--temprature is no argument of variata sample. Did you mean --temp"),
        (["sample", "run", "--temperature=nan"], "--temperature is a number from 0 to 100, got nan. See `variata"),
        (["traverse", "run", "--steps", "1"], "--steps is a number from 2 to 1000000, got 1."),
        (["sample", "run", "--seed=4294967296"], "--seed is a number from 0 to 4294967295, got 4294967296."),
        (["reconstruct", "run", "--images", "few"], "--images is a number from 1 to 1000000, got few."),
        (["sample", "nowhere"], "nowhere is no run directory: it has no config.yaml."),
        (["compare"], "the following arguments are required: PATH. See `variata compare --help`."),
        (["ls", "--status", "done"], "--status: invalid choice: 'done' (choose from 'finished', 'pruned',"),
        (["schedules", "beta=cylical"], "beta=cylical is unknown. Did you mean cyclical?"),
        (["wandb-sweep", "optun"], "sweep=optun is unknown. Did you mean optuna?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_are_one_paragraph(monkeypatch, capsys, words, message):
    code, out, err = answer(monkeypatch, capsys, *words)
    assert code == 2 and not out
    assert err.startswith(f"variata: {message}") and err.count("variata:") == 1


WRONG = [
    *(["smaple"], ["sample", "--typo"], ["sample", "nowhere"], ["interpolate", "nowhere", "--steps=1"]),
    *(["reconstruct", "nowhere"], ["traverse"], ["attributes", "nowhere"], ["compare", "nowhere"], ["ls", "nowhere"]),
    *(["schedules", "beta=typo"], ["wandb-sweep", "typo"], ["wandb-workspace"], ["train", "model=typo"]),
]


def test_wrong_words_do_not_wait_for_torch():
    """Nor for wandb or matplotlib; in one process, for what one command imports the next has."""
    code = f"""
import sys
from variata.commands.main import main
for words in {WRONG}:
    sys.argv = ["variata", *words]
    print(main(), *words, *{{"torch", "lightning", "matplotlib", "wandb"}} & sys.modules.keys(), flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), cwd=ROOT, check=True
    )
    assert done.stdout.splitlines() == [" ".join(["2", *words]) for words in WRONG]


def test_a_command_is_added_with_one_file(monkeypatch, capsys, tmp_path):
    (tmp_path / "shout_it.py").write_text(
        '"""`variata shout-it WORD`: say a word louder."""\n'
        "from variata.commands.arguments import command\n"
        "def parser():\n"
        "    parser = command(__doc__)\n"
        "    parser.add_argument('word', metavar='WORD')\n"
        "    return parser\n"
        "def run(options):\n"
        "    print(options.word.upper())\n"
    )
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    code, out, _ = answer(monkeypatch, capsys, "shout-it", "hear")
    assert (code, out) == (0, "HEAR\n")
    _, out, _ = answer(monkeypatch, capsys, "--help")
    assert "shout-it" in out and "say a word louder" in out
