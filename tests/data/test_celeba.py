"""Faces, packed once: made-up photographs in the official layout, and the real ones where they are."""

import io
import json
import resource
import shutil
import subprocess
import sys
import threading
import zipfile

import hydra
import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from conftest import DATA, ROOT, SPLITS, needs_celeba, write_attributes
from variata.data import packed as packing
from variata.data.celeba import CROPS, celeba, images, partition
from variata.data.digits import digits
from variata.data.packed import HEADER, Packed, Preparation
from variata.errors import ConfigError, DataError


def data(root, **options):
    module = celeba(
        str(root), str(root / "cache"), **{"shape": (3, 32, 32), "batch_size": 4, "download": False, **options}
    )
    module.setup()
    return module


def pack(root, read=None, on_corrupt="stop"):
    sizes, reads = images(root / "celeba")
    splits = partition(root / "celeba" / "list_eval_partition.txt", sizes)
    prepare = Preparation((3, 16, 16), None, "box")
    return Packed(root / "x.pack", splits, sizes, read or reads, prepare, on_corrupt).load()


def never(name):
    raise AssertionError(f"{name} was read again")


@pytest.mark.parametrize("crop", CROPS)
def test_pixels_are_those_pillow_makes(faces, crop):
    train = data(faces, crop=crop, filter="lanczos").images["train"]
    assert train.shape == (8, 3, 32, 32) and train.dtype == torch.uint8
    image = Image.open(faces / "celeba" / "img_align_celeba" / "000003.jpg").crop(CROPS[crop])
    assert torch.equal(train[2].permute(1, 2, 0), torch.from_numpy(np.array(image.resize((32, 32), 1))))


def test_crops_are_squares_inside_the_image():
    for left, top, right, bottom in CROPS.values():
        assert right - left == bottom - top and 0 <= left < right <= 178 and 0 <= top < bottom <= 218


def test_every_split_has_its_images_in_order(faces):
    splits = pack(faces)
    assert {split: len(images) for split, images in splits.items()} == SPLITS
    alone = Preparation((3, 16, 16), None, "box")((faces / "celeba" / "img_align_celeba" / "000012.jpg").read_bytes())
    assert np.array_equal(splits["test"][0], alone)


def test_a_second_start_reads_no_photograph(faces):
    first = pack(faces)
    again = pack(faces, read=never)
    assert all(torch.equal(first[split], again[split]) for split in SPLITS)


@pytest.mark.parametrize("damage", ["cut", "altered", "header", "no keys", "other counts", "other images"])
def test_a_file_that_is_not_as_written_is_built_again(faces, damage):
    first, path = pack(faces)["train"].clone(), faces / "x.pack"
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:-1])
    elif damage == "altered":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "header":
        path.write_bytes(b" " * HEADER + whole[HEADER:])
    elif damage in ("no keys", "other counts"):
        header = json.loads(whole[:HEADER])
        kept = {"from": header["from"], "how": header["how"]}
        other = kept if damage == "no keys" else {**header, "images": {**header["images"], "train": 1}}
        path.write_bytes(json.dumps(other).encode().ljust(HEADER) + whole[HEADER:])
    else:
        shutil.copy(faces / "celeba/img_align_celeba/000013.jpg", faces / "celeba/img_align_celeba/000001.jpg")
    again = pack(faces)["train"]
    assert torch.equal(first, again) is (damage != "other images")
    assert torch.equal(first[1:], again[1:])


def test_two_jobs_that_start_together_build_once(faces):
    sizes, reads = images(faces / "celeba")
    count, results = [], []

    def counted(name):
        count.append(name)
        return reads(name)

    jobs = [threading.Thread(target=lambda: results.append(pack(faces, counted))) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert sorted(count) == sorted(sizes)
    assert torch.equal(results[0]["train"], results[1]["train"])


PROCESS = """
import os, sys, time
from pathlib import Path
from variata.data import celeba, packed
root = Path(sys.argv[1])
marks, read = celeba.images(root / "celeba")
def counted(name):
    for _ in range(6000):  # until both have started
        if len(list(root.glob("started-*"))) < 2:
            time.sleep(0.01)
    with (root / "read.txt").open("a") as file:
        file.write(name + "\\n")
    return read(name)
splits = celeba.partition(root / "celeba" / "list_eval_partition.txt", marks)
(root / f"started-{os.getpid()}").touch()
images = packed.Packed(root / "y.pack", splits, marks, counted, packed.Preparation((3, 16, 16), None, "box")).load()
print(int(images["test"].sum()))
"""


@pytest.mark.slow
def test_two_processes_that_start_together_build_once(faces):
    command = [sys.executable, "-c", PROCESS, str(faces)]
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = [job.communicate(timeout=100)[0] for job in jobs]
    assert sorted((faces / "read.txt").read_text().split()) == sorted(images(faces / "celeba")[0])
    assert sums == [f"{int(pack(faces)['test'].sum())}\n"] * 2


def test_who_waits_for_another_job_says_so(faces, monkeypatch):
    monkeypatch.setattr(packing, "PATIENCE", 0.01)
    other, said = FileLock(faces / "x.pack.lock"), []
    other.acquire()
    # the other job ends as soon as this one has said that it waits
    monkeypatch.setattr(packing.tqdm, "write", lambda message, file: (said.append(message), other.release()))
    assert len(pack(faces)["train"]) == 8
    assert said == [f"Waiting for another job that packs {faces / 'x.pack'}."]


@pytest.fixture
def small_files():
    """No file of this process may grow above 300 kB: to a writer as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_is_told_and_nothing_half_written_stays(faces, small_files):
    with pytest.raises(DataError, match=r"celeba-128-.*\.pack cannot be written.*data\.cache \(or VARIATA_CACHE\)"):
        data(faces, shape=(3, 128, 128))  # 640 kB
    assert not [path for path in (faces / "cache").iterdir() if path.stat().st_size]


def test_a_cache_that_is_no_folder_is_told(faces):
    (faces / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"cannot be written or read.*data\.cache"):
        data(faces)


@pytest.mark.slow
def test_a_full_disk_is_answered_with_a_paragraph(faces, small_files, train, tmp_path):
    options = [f"data.root={faces}", f"data.cache={faces / 'cache'}", "data.shape=[3,128,128]", "data.batch_size=4"]
    answer = train("data=celeba", *options, "logger=none")
    assert answer.code == 2 and "Traceback" not in answer.err
    assert "cannot be written or read: File too large. Set data.cache" in answer.said
    assert not answer.outputs.exists() and not list((faces / "cache").glob("*.tmp"))


def test_an_image_that_cannot_be_decoded_is_named_or_skipped(faces):
    broken = faces / "celeba" / "img_align_celeba" / "000002.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    with pytest.raises(DataError, match=r"000002\.jpg cannot be decoded.*data\.on_corrupt=skip"):
        pack(faces)
    assert not list(faces.glob("x.tmp")) and not (faces / "x.pack").exists()
    assert len(pack(faces, on_corrupt="skip")["train"]) == 7


@pytest.mark.parametrize("broken", [[], [2, 11, 12]])
def test_attributes_come_in_the_order_of_the_images_that_were_packed(faces, broken):
    for i in broken:
        (faces / "celeba" / "img_align_celeba" / f"{i:06}.jpg").write_bytes(b"no JPEG")
    for _ in ("packed", "mapped again"):
        module = data(faces, on_corrupt="skip")
        attributes = module.read_attributes()
        assert attributes.names == ("Odd", "Late")
        for split, numbers in {"train": range(1, 9), "val": range(9, 12), "test": range(12, 14)}.items():
            expected = [[i % 2 == 1, i > 6] for i in numbers if i not in broken]
            assert attributes.values[split].tolist() == expected and len(module.images[split]) == len(expected)
        assert module.protocol.endswith("7/2/1" if broken else "8/3/2")


def test_attributes_that_are_not_there_are_told(faces):
    module, path = data(faces), faces / "celeba" / "list_attr_celeba.txt"
    write_attributes(faces, range(1, 12))
    with pytest.raises(DataError, match=r"no row for 2 of the images, such as 000012\.jpg"):
        module.read_attributes()
    path.write_text(path.read_text().replace("000003.jpg  1", "000003.jpg  0"))
    with pytest.raises(DataError, match=r"its row of 000003\.jpg is not one of 2 values 1 or -1"):
        module.read_attributes()
    path.unlink()
    with pytest.raises(DataError, match=r"Missing data: .*list_attr_celeba\.txt"):
        module.read_attributes()
    with pytest.raises(DataError, match="no attributes of digits"):
        digits().read_attributes()


def test_a_set_with_many_broken_images_is_not_gone_on_with(faces, monkeypatch):
    monkeypatch.setattr(packing, "BROKEN", 2)
    for i in (1, 2, 3):
        (faces / "celeba" / "img_align_celeba" / f"{i:06}.jpg").write_bytes(b"no JPEG")
    with pytest.raises(DataError, match=r"More than 2 images cannot be decoded, the last of them 000003\.jpg.*damaged"):
        pack(faces, on_corrupt="skip")
    for i in (12, 13):
        (faces / "celeba" / "img_align_celeba" / f"{i:06}.jpg").write_bytes(b"no JPEG")
    monkeypatch.setattr(packing, "BROKEN", 5)
    with pytest.raises(DataError, match="None of the images of the split test"):
        pack(faces, on_corrupt="skip")


def test_a_file_with_images_left_out_serves_only_those_who_allow_it(faces):
    first = pack(faces)["val"].clone()
    assert torch.equal(pack(faces, never, "skip")["val"], first)
    (faces / "celeba" / "img_align_celeba" / "000009.jpg").write_bytes(b"no JPEG")
    assert torch.equal(pack(faces, on_corrupt="skip")["val"], first[1:])
    with pytest.raises(DataError, match=r"000009\.jpg cannot be decoded"):
        pack(faces)


def test_a_small_disk_is_told_before_packing(faces, monkeypatch):
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 1000))
    with pytest.raises(DataError, match="VARIATA_CACHE"):
        pack(faces, read=never)


def test_a_zip_archive_holds_the_same_images(faces):
    folder, path = faces / "celeba" / "img_align_celeba", faces / "celeba" / "img_align_celeba.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for image in folder.glob("*.jpg"):
            archive.write(image, f"img_align_celeba/{image.name}")
    first = pack(faces)["train"].clone()
    shutil.rmtree(folder)
    (faces / "x.pack").unlink()
    assert torch.equal(first, pack(faces)["train"])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"is no whole zip archive.*quota page"):
        data(faces)


def test_lists_and_options_that_do_not_fit_are_told(faces, tmp_path):
    with pytest.raises(ConfigError, match=r"data.crop=center is unknown"):
        data(faces, crop="center")
    with pytest.raises(ConfigError, match=r"data.filter=nearest is unknown"):
        data(faces, filter="nearest")
    with pytest.raises(ConfigError, match=r"\[3, S, S\]"):
        data(faces, shape=(1, 32, 32))
    with pytest.raises(DataError, match="Missing data: CelebA"):
        data(tmp_path / "nowhere")
    path = faces / "celeba" / "list_eval_partition.txt"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(rows[:-1]))
    with pytest.raises(DataError, match=r"no row for 1 of the images, such as 000013\.jpg"):
        data(faces)
    path.write_text("".join([*rows[:-1], "000013.jpg 7"]))
    with pytest.raises(DataError, match=r"'000013.jpg 7', expected a name and 0, 1 or 2"):
        data(faces)


def test_training_images_are_mirrored_at_random_and_others_never(faces):
    module = data(faces)
    stored = module.images["train"]
    grey = (module.prepare(stored, "train") * 256).floor().byte()
    same = [torch.equal(x, image) for x, image in zip(grey, stored, strict=True)]
    mirrored = [torch.equal(x, image.flip(-1)) for x, image in zip(grey, stored, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True)) and any(same) and any(mirrored)
    assert torch.equal(module.prepare(module.images["val"], "val"), module.images["val"])
    plain = data(faces, flip=False)
    assert torch.equal((plain.prepare(stored, "train") * 256).floor().byte(), stored)


@pytest.mark.parametrize(("more", "chosen"), [([], "Gaussian"), (["likelihood=bernoulli"], "Bernoulli")])
def test_the_data_set_chooses_a_likelihood_unless_the_user_does(more, chosen):
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert hydra.compose("config", ["data=celeba", *more]).likelihood._target_ == f"variata.likelihoods.{chosen}"


def test_grey_images_have_one_channel():
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (10, 10, 10)).save(file, "PNG")
    assert Preparation((1, 8, 8), None, "box")(file.getvalue()).tolist() == [[[10] * 8] * 8]


@needs_celeba
@pytest.mark.slow
def test_the_real_faces_pack(tmp_path):
    module = celeba(str(DATA), str(tmp_path), shape=(3, 16, 16), download=False)
    module.setup()
    assert {split: len(images) for split, images in module.images.items()} == {"train": 8000, "val": 1000, "test": 1000}
    assert "8000/1000/1000" in module.protocol
    attributes = module.read_attributes()
    assert len(attributes.names) == 40
    smiling = attributes.values["train"][:, attributes.names.index("Smiling")]
    assert smiling.float().mean().item() == pytest.approx(0.49, abs=0.01)
    mean = module.mean()
    assert mean[0].mean() > mean[1].mean() > mean[2].mean() > 0.3  # skin
