"""Odd command lines: each is answered by a run or by a sentence, never by a traceback, a hang or half a run."""

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import hydra
import pytest

from conftest import environment
from forked import Ended, Forks
from variata.config.compose import CONF, keys

pytestmark = pytest.mark.slow

TINY = ["data=linear_gaussian", "data.images=20", "data.batch_size=10", "likelihood=gaussian", "trainer=cpu"]
TINY += ["model=mlp_vae", "model.latent=2", "model.encoder.widths=[4]", "trainer.max_steps=2", "compile=false"]
TINY += ["evaluate.nll.samples=2", "callbacks=[]", "logger=none"]
NUMBERS = ["0", "1", "-1", "3", "0.5", "-0.5", "1e-30", "1e30", "-1e30", "1e400", "nan", "inf", "-inf", "2147483648"]
NUMBERS += ["99999999999999999999", "-9223372036854775808", "true", "false", "null", "1_000", "0x10", "1e", "1."]
WORDS = ["", "''", "' '", "a", "auto", "'a b'", "'ünïcödé ☃'", "'\"'", '"it\'s"', "'a\\'b'", "\U0001f984", "a=b", "%s"]
WORDS += ["x" * 5000, "'line\nbreak'", "a\\,b", "/", "..", "../..", "/dev/null", "~", "$HOME", "'[bold]'", "\x1b[31m"]
LISTS = ["[]", "[1]", "[-1]", "[0,0]", "[a,b]", "[null]", "[[1]]", "[1.5]", "[" + "1," * 200 + "1]", "[???]", "[[]]"]
DICTS = ["{}", "{a:1}", "{a:{b:[1]}}", "{_partial_:true}", "{_target_:os.system}", "{_target_:null}", "{_target_:[a]}"]
DICTS += ["{_target_:variata.priors.StandardNormal,_partial_:true}", "{_target_:variata.schedules.Constant}"]
DICTS += ["{_target_:variata.build.flat}", "{_target_:''}", "{1:2}"]
REFERENCES = [
    "???",
    "${seed}",
    "${nothing}",
    "${.}",
    "${..}",
    "${data}",
    "${data.shape}",
    "${oc.env:NOTHING}",
    "${a:1}",
]
REFERENCES += ["${", "${run_dir:a,b,c,null}", "${oc.decode:'[1'}", "${hydra:job.num}", "${hydra:nothing}"]
SWEEPS = ["1,2", "range(3)", "interval(0,1)", "choice(1,2)", "tag(a,1)", "int(2.5)", "shuffle([1])", "glob(*)"]
VALUES = [*NUMBERS, *WORDS, *LISTS, *DICTS, *REFERENCES, *SWEEPS]

ENDLESS = {"trainer.max_steps"}  # what may be as large as one likes
OTHERS = ["hydra.run.dir", "hydra.verbose", "hydra.job.name", "hydra.mode", "hydra.job.chdir", "hydra.job.env_set"]
OTHERS += ["hydra.job_logging.root.level", "hydra.searchpath", "hydra.callbacks", "hydra.launcher.jobs"]
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")
GROUPS += ["hydra/launcher", "hydra/sweeper", "hydra/job_logging", "hydra/help", "hydra/output"]
NAMES = [
    "nothing",
    "../model/mlp_vae",
    "/etc/passwd",
    "[nothing]",
    "[a,1]",
    "[[1]]",
    "null",
    "",
    "1",
    "${seed}",
    "{a:1}",
]
NAMES += ["mlp_vae/", ".", "x" * 300, "default,none", "???"]
MALFORMED = [
    "=",
    "==",
    "a==b",
    "seed",
    "seed=[1",
    "seed={",
    "seed='",
    "~",
    "+",
    "++",
    "+=1",
    "~~seed",
    "seed+=1",
    "@=1",
]
MALFORMED += ["seed@a=1", "data@x=digits", "+data@x=digits", "a.b.c=1", ".seed=1", "seed.=1", "seed..a=1", "data.[0]=1"]
MALFORMED += ["--nosuch", "--cfg", "--cfg=x", "--config-name=nothing", "--config-dir=nothing", "--info=x", "-c", "--"]
MALFORMED += ["--experimental-rerun=nothing", "--config-path=nothing", "--run=1", "--resolve", "é=1", "a b=1", "\n=1"]
MALFORMED += ["hydra.output_subdir=a", "resume=.", "resume=/", "resume=[a]", "resume={a:1}", "resume=/dev/null"]

KNOWN = [  # met by hand
    *("model.shape=[1,2,3]", "model._target_=0", "model.encoder._target_=[]", "++model._partial_=true"),
    *("outputs=null", "outputs=-1", "outputs=", "outputs=[a]", "beta=[a,1]", "callbacks=[[1]]", "+callbacks.foo=1"),
    *(
        "~evaluate.nll.samples",
        "trainer.check_val_every_n_epoch={a:1}",
        "hydra.verbose=0",
        "jobs=abc",
        "sweep.sampler=xxx",
    ),
    *("sweep.objectives=???", "checkpoint_every=-1", "beta.value=-1", "beta.over=-3", "data.noise=1e-30"),
    *("trainer.devices=128", "trainer.devices=1000000000", "callbacks=default callbacks.pictures.images=100000"),
    *("data=../model/mlp_vae", "hydra.output_subdir=.hydra", "seed= -m --cfg=job", "model.latent=10000000000"),
    *("+callbacks.b._target_=lightning.pytorch.callbacks.BackboneFinetuning", "data.images=1000000000"),
]


def composed_keys() -> list[str]:
    """Every key a run of TINY has, with a logger and callbacks."""
    words = [word for word in TINY if not word.startswith(("logger", "callbacks"))]
    with hydra.initialize_config_dir(str(CONF.resolve()), version_base="1.3"):
        return sorted(keys(hydra.compose("config", words)))


def command_lines(seed: int) -> Iterator[list[str]]:
    """Words to add to TINY: those met by hand, malformed ones, names of options, and odd values dealt out to keys."""
    draw, known = random.Random(seed), composed_keys()
    yield from (line.split(" ") for line in KNOWN)
    yield from ([word] for word in MALFORMED)
    yield from ([f"{group}={name}"] for group in GROUPS for name in draw.sample(NAMES, 4))
    yield from (
        [f"{key}={value}"] for key in OTHERS for value in draw.sample([*NUMBERS, *LISTS, *DICTS, *REFERENCES], 2)
    )
    yield from ([f"~{key}"] for key in known)
    yield from ([f"+{key}.new={draw.choice(VALUES)}"] for key in draw.sample(known, 30))
    deck: list[str] = []
    for key in [*known, *known]:
        if not deck:
            deck = draw.sample(VALUES, len(VALUES))
        value = deck.pop()
        if not (key in ENDLESS and value in NUMBERS):
            yield with_parts(key, f"{draw.choice(['', '', '', '++'])}{key}={value}")


def with_parts(key: str, word: str) -> list[str]:
    """A word, after those that bring the part its key belongs to."""
    part = key.split(".")[0]
    return (
        [{"callbacks": "callbacks=default", "logger": "logger=wandb"}[part], word]
        if part in PARTS and "." in key
        else [word]
    )


PARTS = ("callbacks", "logger")


@pytest.fixture(scope="module")
def forks():
    forks = Forks({**environment(), "WANDB_MODE": "offline", "WANDB_SILENT": "true"})
    yield forks
    forks.close()


def wrong(ended: Ended, folder: Path) -> str | None:
    """What is wrong with an answer to a command line, if anything is."""
    if what := unsaid(ended):
        return what
    if ended.code == 2 and any(folder.rglob("*")):
        return "leaves something behind"
    runs = [path.parent for path in folder.rglob("config.yaml")]
    if ended.code == 1 and not all(json.loads((run / "results.json").read_text()).get("error") for run in runs):
        return "does not say in its results why it failed"
    return None


def test_odd_command_lines_are_answered_by_a_run_or_a_sentence(forks, tmp_path):
    lines = list(command_lines(seed=1))
    assert len(lines) >= 500
    found, codes = [], {}
    for number, words in enumerate(lines):
        folder = tmp_path / str(number)
        folder.mkdir()
        ended = forks(folder, *TINY, *words)
        codes[ended.code] = codes.get(ended.code, 0) + 1
        if what := wrong(ended, folder):
            found.append(f"{' '.join(words)[:200]!r} {what}: {' '.join(ended.err.split())[-400:]}")
    assert not found, "\n".join(found)
    assert codes[0] > 30 and codes[2] > 200, codes  # else little was tried


# --- damaged files of a run -------------------------------------------------------------------------------------------

FILES = {  # of a run, and what reads them
    "config.yaml": ("resume", "ls", "sample"),
    "metrics.csv": ("resume", "compare"),
    "results.json": ("resume", "ls"),
    "overrides.txt": ("resume", "ls"),
    "train.log": ("resume",),
    "checkpoints/last.ckpt": ("resume",),
    "checkpoints/best.ckpt": ("resume", "sample"),
    "wandb/identity.json": ("resume",),
}
TEXTS = [
    "null",
    "[]",
    "{}",
    "1",
    '"a"',
    "{" * 2000,
    "[" * 100_000,
    "a: [",
    "\t",
    "&a [*a]",
    "a: &a [1]\nb: *a",
    "\ufeff",
]
TEXTS += [
    "!!python/object/apply:os.system [true]",
    '{"status": 1}',
    '{"status": "finished", "test/nll": "x"}',
    "a,b\n1\n",
]
TEXTS += [
    "step,val/elbo,val/rate,val/distortion\n1,x,y,z\n",
    "step\n1\n\x00\n",
    '{"id": 1}',
    '"a\nb',
    "${",
    "a: ${a}\n",
]
TEXTS += [
    "data: {_target_: a}\nmodel: {_target_: b}\n",
    "data: 1\nmodel: 2\n",
    "logger: {project: x}\n",
    "seed: 1e999\n",
]


def damages(whole: bytes, draw: random.Random) -> dict[str, bytes | str]:
    """Other contents of a file, and other things in its place: of those tests/run/test_refusals.py tries all."""
    flips = {}
    for place in draw.sample(range(len(whole)), min(3, len(whole))):
        flipped = bytes([whole[place] ^ 1 << draw.randrange(8)])
        flips[f"bit of byte {place} flipped"] = whole[:place] + flipped + whole[place + 1 :]
    cuts = {f"cut at byte {place}": whole[:place] for place in (0, len(whole) // 2, len(whole) - 1)}
    others = {"noise": draw.randbytes(500), "UTF-16": "step".encode("utf-16"), "twice": 2 * whole}
    texts = {f"text {text[:40]!r}": text.encode() for text in draw.sample(TEXTS, 4)}
    return {**flips, **cuts, **others, **texts, "pipe": "pipe", "loop": "loop"}


def put(path: Path, damage: bytes | str) -> None:
    """Put a content, a pipe or a link to itself in a file's place."""
    path.unlink()
    if isinstance(damage, bytes):
        path.write_bytes(damage)
    elif damage == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path.name)


def state(run: Path) -> dict[Path, bytes | str]:
    """What a run holds, but for its log."""
    found = {path: path.read_bytes() if path.is_file() else "" for path in run.rglob("*")}
    return {path: content for path, content in found.items() if path.name != "train.log" and ".lock" not in path.name}


def command(reader: str, run: Path) -> tuple[list[str], str]:
    if reader == "resume":
        return [f"resume={run}", "trainer.max_steps=3", "logger.mode=disabled"], "train"
    return [reader, str(run)], "variata"


def test_damaged_files_of_a_run_are_told(forks, tmp_path):
    draw, found, tried = random.Random(1), [], 0
    folder = tmp_path / "outputs"
    folder.mkdir()
    words = ["logger=wandb", "logger.mode=disabled", f"hydra.run.dir={tmp_path / 'whole'}"]
    ended = forks(folder, *TINY, *words)
    assert ended.code == 0, ended.err
    whole = tmp_path / "whole"
    (whole / "wandb").mkdir(exist_ok=True)
    (whole / "wandb" / "identity.json").write_text('{"id": "abc", "name": "abc", "group": null}\n')
    for file, readers in FILES.items():
        for name, damage in damages((whole / file).read_bytes(), draw).items():
            for reader in readers:
                run = tmp_path / f"run-{tried}"
                shutil.copytree(whole, run)
                put(run / file, damage)
                before, tried = state(run), tried + 1
                words, program = command(reader, run)
                ended = forks(folder, *words, program=program)
                what = unsaid(ended)
                if not what and ended.code == 2 and state(run) != before:
                    what = "changes the run"
                if what:
                    found.append(f"{reader}, {file}, {name} {what}: {' '.join(ended.err.split())[-300:]}")
                shutil.rmtree(run)
    assert tried >= 150
    assert not found, "\n".join(found)


def unsaid(ended: Ended) -> str | None:
    """What is wrong with how a command ended and what it said, if anything is."""
    said = " ".join(ended.err.split())
    if ended.code is None:
        return "hangs"
    if ended.code not in (0, 1, 2):
        return f"ends with {ended.code}"
    if "Traceback" in said or "defect of variata" in said:
        return "is a defect"
    paragraph = ended.err[ended.err.find("variata:") :]
    if ended.code and (ended.err.count("variata:") != 1 or "\n\n" in paragraph.strip()):
        return "is no paragraph"
    if ended.code == 2 and not ended.err.startswith("variata:"):
        return "talks before it refuses"
    return None
