"""A folder of anybody's pictures: what reaches the model of them, and how they are shared out."""

import hydra
import numpy as np
import pytest
import torch
from PIL import Image

from conftest import ROOT
from variata.config.plain import plain
from variata.data.image_folder import by_fraction, image_folder, pictures
from variata.errors import ConfigError, DataError

FEW = {"shape": (3, 8, 8), "batch_size": 1}


@pytest.fixture
def folder(tmp_path):
    """20 plain pictures of 12x10, number i of grey 10 i, in every format, at several depths."""
    for i in range(20):
        path = tmp_path / "pictures" / ("a" if i % 2 else "b/c") / f"{i:02}.{['png', 'BMP', 'tif', 'ppm'][i % 4]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10), (10 * i,) * 3).save(path)
    return tmp_path / "pictures"


def load(root, **options):
    module = image_folder(str(root), str(root.parent / "cache"), **{**FEW, **options})
    module.setup()
    return module


def numbers(module):
    """Which pictures of `folder` are in each split, from their grey; val and test images are drawn, to [0, 1)."""
    return {
        split: {int(x.float().mean() * (1 if split == "train" else 256)) // 10 for x in images}
        for split, images in module.images.items()
    }


def only(tmp_path, image, name="x.png", exif=b"", **options):
    """What the model sees of one picture, uint8 [C, H, W]."""
    root = tmp_path / "one"
    for split in ("train", "val", "test"):
        (root / split).mkdir(parents=True, exist_ok=True)
        image.save(root / split / name, exif=exif)
    return load(root, **options).images["train"][0]


def test_every_picture_is_in_one_split(folder):
    module = load(folder, fractions=(0.8, 0.1, 0.1))
    found = numbers(module)
    assert {split: len(images) for split, images in found.items()} == {"train": 16, "val": 2, "test": 2}
    assert set.union(*found.values()) == set(range(20))
    assert "pictures 3x8x8" in module.protocol and "0.8/0.1/0.1 split_seed=0" in module.protocol
    assert module.protocol.endswith("16/2/2")


def test_the_seed_decides_who_is_in_which_split(folder):
    names = [str(i) for i in range(1000)]
    first, again, other = (by_fraction(names, (0.5, 0.25, 0.25), seed) for seed in (0, 0, 1))
    assert first == again != other
    assert [len(split) for split in first.values()] == [500, 250, 250]
    assert sorted(name for split in first.values() for name in split) == sorted(names)
    assert numbers(load(folder)) != numbers(load(folder, split_seed=1))


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_subfolders_are_the_splits(tmp_path, val):
    for grey, split in enumerate(("train", val, "test")):
        (tmp_path / "x" / split / "deeper").mkdir(parents=True)
        Image.new("L", (9, 9), 10 * grey).save(tmp_path / "x" / split / "deeper" / "1.png")
    module = load(tmp_path / "x")
    assert numbers(module) == {"train": {0}, "val": {1}, "test": {2}} and "by subfolder" in module.protocol
    (tmp_path / "x" / "test").rename(tmp_path / "x" / "tests")
    with pytest.raises(DataError, match=f"has the subfolders train, {val}: for the split test there has to be one of"):
        load(tmp_path / "x")


def test_the_largest_centred_part_is_taken_or_the_whole_squeezed(tmp_path):
    columns = np.tile(np.arange(40, dtype=np.uint8), (20, 1))
    image = Image.fromarray(columns)
    kept = only(tmp_path, image, shape=(1, 20, 20))
    assert torch.equal(kept[0], torch.from_numpy(columns[:, 10:30]))
    flat = only(tmp_path, image, shape=(1, 10, 40))
    assert torch.equal(flat[0], torch.from_numpy(columns[5:15]))
    squeezed = only(tmp_path, image, shape=(1, 20, 20), crop="none", filter="box")
    assert torch.equal(
        squeezed[0], torch.from_numpy(columns[:, 1::2])
    )  # the mean of 0 and 1 is rounded up, as of 2 and 3


def test_grey_and_palette_and_deep_pictures_keep_their_values(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    expected = torch.from_numpy(grey)
    deep = Image.fromarray(grey.astype(np.uint16) * 256 + 255)
    palette = Image.fromarray(grey).convert("P")
    for image, name in ((Image.fromarray(grey), "x.png"), (palette, "x.png"), (deep, "x.png"), (deep, "x.tif")):
        assert torch.equal(only(tmp_path, image, name), expected.expand(3, 8, 8))
        assert torch.equal(only(tmp_path, image, name, shape=(1, 8, 8)), expected[None])


def test_what_is_transparent_is_white(tmp_path):
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[:4] = (200, 0, 0, 255)  # the rest is black and invisible
    for image in (Image.fromarray(pixels), Image.fromarray(pixels).quantize(4)):
        seen = only(tmp_path, image)
        assert (seen[:, 4:] == 255).all() and (seen[0, :4] == 200).all() and (seen[1:, :4] == 0).all()


def test_pictures_are_turned_upright(tmp_path):
    upright = np.arange(64, dtype=np.uint8).reshape(8, 8)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter to be looked at
    lying = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    assert torch.equal(only(tmp_path, lying, exif=exif, shape=(1, 8, 8))[0], torch.from_numpy(upright))


def test_folders_of_one_name_do_not_share_a_file(tmp_path):
    for place, grey in (("a", 10), ("b", 200)):
        (tmp_path / place / "x").mkdir(parents=True)
        for i in range(20):
            Image.new("L", (9, 9), grey).save(tmp_path / place / "x" / f"{i}.png")
    modules = [image_folder(str(tmp_path / place / "x"), str(tmp_path / "cache"), **FEW) for place in ("a", "b", "a")]
    for module in modules:
        module.setup()
    assert [int(module.images["train"].max()) for module in modules] == [10, 200, 10]
    assert len(list((tmp_path / "cache").glob("x-*.pack"))) == 2


def test_a_picture_that_was_changed_is_seen(folder):
    load(folder)
    Image.new("RGB", (12, 10), (255, 255, 255)).save(folder / "a" / "05.BMP")  # as many bytes as before
    assert set.union(*numbers(load(folder)).values()) == {*range(20), 25} - {5}


def test_other_files_are_left_alone_and_broken_pictures_named(folder):
    (folder / "notes.txt").write_text("no picture")
    (folder / "a" / "._01.png").write_bytes(b"left by another system")
    (folder / ".trash").mkdir()
    (folder / ".trash" / "1.png").write_bytes(b"thrown away")
    assert set.union(*numbers(load(folder)).values()) == set(range(20))
    (folder / "b" / "new.png").write_bytes(b"no picture")
    with pytest.raises(
        DataError, match=r"b/new\.png cannot be decoded \(Pillow knows no such format\).*on_corrupt=skip"
    ):
        load(folder)
    assert set.union(*numbers(load(folder, on_corrupt="skip")).values()) == set(range(20))


def test_values_without_a_range_are_refused(tmp_path):
    with pytest.raises(DataError, match="neither 8 nor 16 bits"):
        only(tmp_path, Image.new("F", (8, 8), 0.5), "x.tif")


def test_what_does_not_fit_is_told(folder, tmp_path):
    for options, match in (
        ({"shape": (2, 8, 8)}, r"C 1 or 3.*got data.shape=\[2, 8, 8\]"),
        ({"crop": "nvae"}, "data.crop=nvae is unknown. Use center or none"),
        ({"on_corrupt": "ignore"}, "data.on_corrupt=ignore"),
        ({"fractions": (0.9, 0.1)}, "three positive numbers that sum to 1"),
        ({"fractions": (0.9, 0.2, -0.1)}, "three positive numbers that sum to 1"),
        ({"split_seed": -1}, "data.split_seed=-1"),
    ):
        with pytest.raises(ConfigError, match=match):
            load(folder, **options)
    with pytest.raises(DataError, match=r"The split val of the 20 images below .* is empty"):
        load(folder, fractions=(0.98, 0.01, 0.01))
    with pytest.raises(DataError, match="is no folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images below"):
        load(tmp_path / "empty")


def test_the_folder_has_to_be_given():
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = hydra.compose("config", ["data=image_folder"])
    with pytest.raises(ConfigError, match=r"data\.root has no default: give it a value, data\.root="):
        plain(config)


@pytest.mark.slow
def test_a_folder_is_all_it_takes_to_train(train, folder):
    answer = train(
        *("data=image_folder", f"data.root={folder}", f"data.cache={folder.parent / 'cache'}", "data.shape=[3,16,16]"),
        *("data.batch_size=4", "trainer.max_steps=2", "evaluate.nll.samples=2", "logger=none", "trainer=cpu"),
    )
    assert answer.code == 0, answer.err
    assert "pictures 3x16x16" in answer.out and "18 / 1 / 1 (train / val / test)" in answer.out
    assert (answer.run / "results.json").is_file()


def test_links_are_followed_and_what_is_no_file_is_left_alone(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "a").rename(elsewhere / "a")
    (folder / "linked").symlink_to(elsewhere / "a", target_is_directory=True)
    (folder / "around").symlink_to(folder, target_is_directory=True)
    (folder / "nowhere.png").symlink_to(tmp_path / "nothing.png")
    (folder / "folder.png").mkdir()
    found = pictures(folder)
    assert len(found) == 20 and sum(name.startswith("linked/") for name in found) == 10
