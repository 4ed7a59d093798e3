import gzip
import hashlib
import math

import pytest
import torch
from scipy.stats import chisquare
from torch.nn import functional as F

from conftest import DATA, needs_mnist, needs_static
from variata.data.digits import digits
from variata.data.files import amat_images, idx_images, require
from variata.data.mnist import AMAT, IDX, binary_mnist, load_grey, load_static
from variata.data.module import Images, Shuffled
from variata.data.pixels import binarise, dequantise, mirror, threshold, uniform_255
from variata.data.synthetic import NOISE, density, linear_gaussian
from variata.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def grey():
    return load_grey(DATA, download=False, verify=True)


@pytest.fixture(scope="module")
def static():
    return load_static(DATA, download=False, verify=True)


def bernoulli_nll(x, p):
    return F.binary_cross_entropy(p.expand_as(x), x, reduction="none").flatten(1).sum(1).mean().item()


# --- binarisation -----------------------------------------------------------------------------------------------------


def test_uniform_255_is_uniform_and_never_255():
    counts = torch.bincount(uniform_255(torch.empty(255, 8000)).flatten().long(), minlength=256)
    assert counts[255] == 0
    chi_square = ((counts[:255] - 8000) ** 2 / 8000).sum().item()
    assert 254 - 4 * math.sqrt(508) < chi_square < 254 + 4 * math.sqrt(508)


def test_a_pixel_is_on_with_probability_grey_over_255():
    levels = torch.arange(256, dtype=torch.uint8)
    on = binarise(levels.expand(40_000, 256)).mean(0)
    p = levels / 255
    assert on[0] == 0 and on[255] == 1
    assert ((on - p).abs() <= 5 * (p * (1 - p) / 40_000).sqrt()).all()


def test_threshold_cuts_in_the_middle():
    assert threshold(torch.tensor([0, 127, 128, 255], dtype=torch.uint8)).tolist() == [0, 0, 1, 1]


def test_dequantised_values_keep_their_grey_level():
    levels = torch.arange(256, dtype=torch.uint8).repeat(100)
    x = dequantise(levels)
    assert x.min() >= 0 and x.max() < 1
    assert torch.equal((x * 256).floor(), levels.float())


def test_dequantised_values_fill_their_level_uniformly_and_never_reach_the_next():
    levels = torch.tensor([0, 77, 255], dtype=torch.uint8).expand(2**21, 3)
    steps = (dequantise(levels).double() - levels.double() / 256) * 2**16  # [2^21, 3], should be 0..255
    assert torch.equal(steps, steps.round()) and steps.min() == 0 and steps.max() == 2**8 - 1
    for column in steps.T:
        counts = torch.bincount(column.long(), minlength=2**8)
        assert chisquare(counts.numpy()).pvalue > 1e-4
    assert (torch.corrcoef(steps.T) - torch.eye(3)).abs().max() < 5 / 2**10.5  # of neighbours: 5 standard errors


def test_half_of_the_images_are_mirrored_each_on_its_own():
    images = torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8).expand(10_000, 1, 1, 3)
    mirrored = mirror(images).flatten(1)
    flipped, kept = ((mirrored == torch.tensor(row)).all(1) for row in ([3, 2, 1], [1, 2, 3]))
    assert (flipped | kept).all() and 0.47 < flipped.float().mean() < 0.53  # 6 standard errors


# --- MNIST ------------------------------------------------------------------------------------------------------------


@needs_mnist
def test_entropy_floor_of_dynamic_binarisation(grey):
    p = grey["test"].double() / 255
    entropy = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).flatten(1).sum(1).mean().item()
    assert entropy == pytest.approx(45.53, abs=0.005)


@needs_mnist
def test_dynamic_draws_have_the_grey_images_mean(grey):
    total = sum(binarise(grey["test"]).double().mean(0) for _ in range(20)) / 20
    assert ((total - grey["test"].double().mean(0) / 255).abs() < 5 * math.sqrt(0.25 / 200_000)).all()


@needs_mnist
def test_independent_pixels_cost_what_they_should(grey):
    x = binarise(grey["test"])
    p = (grey["train"].sum(0, dtype=torch.float64) / 255 + 0.5) / 50_001
    assert bernoulli_nll(x.double(), p) == pytest.approx(
        205.81, abs=0.35
    )  # the figure is of all 60,000 and of its draw
    assert bernoulli_nll(x.double(), torch.tensor(0.5).double()) == pytest.approx(784 * math.log(2), abs=1e-3)


@needs_mnist
def test_no_test_image_is_in_training(grey):
    def sums(images):
        return {hashlib.sha256(image.numpy().tobytes()).digest() for image in images}

    assert not sums(grey["test"]) & sums(torch.cat([grey["train"], grey["val"]]))
    assert [len(grey[split]) for split in ("train", "val", "test")] == [50_000, 10_000, 10_000]


@needs_mnist
def test_evaluation_images_are_drawn_once_and_training_images_each_time():
    first, second = binary_mnist(str(DATA)), binary_mnist(str(DATA))
    for module in (first, second):
        module.setup()
    assert torch.equal(first.images["test"], second.images["test"])
    assert set(first.images["test"].unique().tolist()) == {0, 1}
    batch = first.images["train"][:10]
    assert not torch.equal(first.prepare(batch, "train"), first.prepare(batch, "train"))
    evaluated = first.images["val"][:10]
    assert torch.equal(first.prepare(evaluated, "val"), first.prepare(evaluated, "val"))


@needs_static
def test_static_files_are_larochelles(static):
    assert {split: len(images) for split, images in static.items()} == {"train": 50_000, "val": 10_000, "test": 10_000}
    means = [static[split].double().mean().item() for split in ("train", "val", "test")]
    assert means == pytest.approx([0.13056, 0.13113, 0.13251], abs=5e-6)


@needs_mnist
@needs_static
def test_static_digits_are_upright(grey, static):
    by_pixel = torch.stack([s.double().mean(0).flatten() for s in (static["test"], grey["test"] / 255)])
    assert torch.corrcoef(by_pixel)[0, 1] > 0.99


# --- files ------------------------------------------------------------------------------------------------------------


def idx_bytes(images, magic=2051):
    n, _, h, w = images.shape
    return b"".join(v.to_bytes(4, "big") for v in (magic, n, h, w)) + images.numpy().tobytes()


@pytest.fixture
def pictures():
    return torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
def test_idx_round_trip(tmp_path, pictures, zipped):
    path = tmp_path / ("images.gz" if zipped else "images")
    path.write_bytes(gzip.compress(idx_bytes(pictures)) if zipped else idx_bytes(pictures))
    assert torch.equal(idx_images(path, None), pictures)


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzip"])
def test_amat_round_trip(tmp_path, zipped):
    x = torch.randint(0, 2, (3, 784))
    text = "".join(" ".join(map(str, row.tolist())) + "\n" for row in x).encode()
    path = tmp_path / ("x.amat.gz" if zipped else "x.amat")
    path.write_bytes(gzip.compress(text) if zipped else text)
    assert torch.equal(amat_images(path, hashlib.sha256(text).hexdigest()).flatten(1), x)


def test_damaged_files_are_named_with_what_is_wrong(tmp_path, pictures):
    good = idx_bytes(pictures)
    cases = {
        "cut.gz": (gzip.compress(good)[:-20], "not a whole gzip"),
        "garbage.gz": (b"<html>quota exceeded</html>", "not a whole gzip"),
        "labels": (idx_bytes(pictures, magic=2049), "starts with 2049, expected 2051"),
        "short": (good[:-1], "cut short"),
        "empty": (b"", "expected 2051"),
        "none": (idx_bytes(pictures[:0]), "holds no images"),
        "flat": (idx_bytes(pictures)[:8] + bytes(8), "holds no images"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            idx_images(tmp_path / name, None)
        assert name in str(caught.value)
    (tmp_path / "other").write_bytes(good)
    with pytest.raises(DataError, match="not the published file"):
        idx_images(tmp_path / "other", "0" * 64)
    (tmp_path / "x.amat").write_bytes(b"0 2 " * 392)
    with pytest.raises(DataError, match="other than 0 and 1"):
        amat_images(tmp_path / "x.amat", None)
    (tmp_path / "x.amat").write_bytes(b"0 1 0")
    with pytest.raises(DataError, match="no whole"):
        amat_images(tmp_path / "x.amat", None)


def test_files_are_found_where_torchvision_and_the_originals_put_them(tmp_path):
    names = list(AMAT)
    places = [tmp_path / "a" / f"{names[0]}.gz", tmp_path / names[1], tmp_path / "b" / names[2]]
    for place in places:
        place.parent.mkdir(exist_ok=True)
        place.touch()
    assert require(tmp_path, ["a", "b", ""], names, None) == places


def test_a_failed_download_says_where_to_put_the_files(tmp_path):
    def download(folder):
        (folder / "partial").touch()
        raise OSError("Name or service not known")

    with pytest.raises(DataError, match=r"(?s)missing\.gz.*Name or service.*Put the files into .*mnist.*data=digits"):
        require(tmp_path / "root", ["mnist", ""], ["missing.gz"], download)
    assert not (tmp_path / "root").exists()


def test_downloaded_files_are_used(tmp_path):
    def download(folder):
        (folder / "raw").mkdir()
        (folder / "raw" / "images.gz").touch()

    assert require(tmp_path / "root", ["raw"], ["images"], download) == [tmp_path / "root" / "raw" / "images.gz"]


# --- the module -------------------------------------------------------------------------------------------------------


def test_digits_need_no_file_and_share_no_image():
    data = digits()
    data.setup()
    assert [len(data.images[s]) for s in ("train", "val", "test")] == [1397, 200, 200]
    grey = digits(binarize="none").source.load()
    rows = torch.cat([grey["train"], grey["val"], grey["test"]]).flatten(1)
    assert len(rows.unique(dim=0)) >= len(rows) - 1


def test_whole_batches_come_from_one_index_operation():
    pixels = torch.arange(10).view(10, 1, 1, 1)
    batch = Images(10 * pixels, labels=pixels.flatten(1) > 2).__getitems__([3, 1, 7])
    assert batch.x.flatten().tolist() == [30, 10, 70] and batch.index.tolist() == [3, 1, 7]
    assert batch.labels.tolist() == [[True], [False], [True]]
    assert [part.index.tolist() for part in batch.split(2)] == [[3, 1], [7]]


def test_every_epoch_is_a_new_order_of_all_images():
    data = digits()
    data.setup()
    order = Shuffled(1397, 1397, data)
    first = list(order)
    order.set_epoch(1)
    second = list(order)
    assert sorted(first) == sorted(second) == list(range(1397))
    assert first != second


def test_order_goes_on_from_the_middle():
    data = digits()
    order = Shuffled(100, 96, data)
    whole = list(order)
    data.position = 32
    assert list(order) == whole[32:96]
    order.set_epoch(1)
    assert len(list(order)) == 96


def test_devices_share_each_update():
    data = digits()
    whole = list(Shuffled(100, 96, data))
    ranks = [list(Shuffled(100, 96, data, rank, 2)) for rank in range(2)]
    for i in range(0, 96, 32):
        assert {*ranks[0][i // 2 : i // 2 + 16], *ranks[1][i // 2 : i // 2 + 16]} == set(whole[i : i + 32])


def test_linear_gaussian_has_the_density_it_claims():
    data = linear_gaussian(images=50_000, batch_size=10)
    data.setup()
    p = density((1, 2, 4), 3, 0.5, 777)
    x = data.images["test"].flatten(1).double()
    assert p.log_prob(x).mean().item() == pytest.approx(-p.entropy().item(), abs=0.05)
    assert torch.allclose(torch.cov(x.T), p.covariance_matrix, atol=0.15)


@pytest.mark.parametrize("build", [lambda **o: binary_mnist("x", **o), digits], ids=["mnist", "digits"])
def test_wrong_options_are_refused_before_any_file_is_read(build):
    for options in ({"binarize": "dynamik"}, {"shape": (3, 28, 28)}, {"batch_size": 0}):
        with pytest.raises(ConfigError):
            build(**options)


@pytest.mark.parametrize(
    "options", [{"noise": 1e-30}, {"noise": 1e30}, {"shape": (1, 0, 4)}, {"shape": (3, 64, 64)}, {"images": 10**9}]
)
def test_linear_gaussian_refuses_what_has_no_density(options):
    with pytest.raises(ConfigError, match=r"data\."):
        linear_gaussian(**options)


def test_linear_gaussian_has_a_density_at_the_least_noise():
    assert density((1, 28, 28), 3, NOISE, 777).scale_tril.isfinite().all()


def test_mnist_of_too_few_images_is_told(tmp_path, pictures):
    for name in IDX:
        (tmp_path / name).write_bytes(idx_bytes(pictures))
    with pytest.raises(DataError, match="more than 10,000 for training"):
        load_grey(tmp_path, download=False, verify=False)


def test_the_mean_image_is_the_mean_of_what_the_model_sees():
    data = digits(binarize="none")
    data.setup()
    expected = (data.images["train"].double().mean(0) + 0.5) / 256
    assert torch.allclose(data.mean().double(), expected, atol=1e-3)
