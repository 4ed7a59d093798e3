import torch
from PIL import Image

from models import small
from variata import pictures
from variata.pictures import grid, pairs


def test_grid_keeps_pixels_and_order():
    images = torch.arange(6).view(6, 1, 1, 1) / 5 * torch.ones(6, 1, 2, 3)
    picture = grid(images, columns=4)  # two rows, the second half empty; a line of 1 around each image
    assert picture.dtype == torch.uint8 and picture.shape == (2 * 4, 4 * 5, 1)
    centres = [picture[1 + 4 * (i // 4), 1 + 5 * (i % 4), 0].item() for i in range(6)]
    assert centres == [0, 51, 102, 153, 204, 255]


def test_grid_keeps_colours_apart():
    image = torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1)
    assert grid(image, columns=1)[1, 1].tolist() == [255, 128, 0]


def test_pairs_alternate():
    x = torch.zeros(2, 1, 1, 1)
    assert pairs(x, x + 1).flatten().tolist() == [0, 1, 0, 1]


def test_an_interpolation_begins_and_ends_at_the_images_codes():
    vae, x = small(), torch.rand(6, 1, 4, 4).round()
    path = pictures.interpolation(vae, x, steps=5)
    ends = vae.decode(pictures.code(vae, x)).mean
    assert path.shape == (3, 5, 1, 4, 4)
    assert torch.allclose(path[:, 0], ends[:3]) and torch.allclose(path[:, -1], ends[3:], atol=1e-6)


def test_an_edit_of_no_strength_is_the_decoded_code_and_a_traversal_moves_one_dimension():
    vae, x = small(), torch.rand(5, 1, 4, 4).round()
    z = pictures.code(vae, x)
    assert torch.allclose(pictures.edits(vae, x, torch.ones(3), [0.0])[:, 0], vae.decode(z).mean)
    kl = vae.encode(x)[0].kl_per_dim.mean(0)
    first = z[:1].clone()
    first[:, kl.argmax()] = 3.0
    assert torch.allclose(pictures.traversal(vae, x, 2, steps=4)[0, -1], vae.decode(first).mean[0])


def test_moving_pictures_are_a_row_each_and_a_film_there_and_back(tmp_path):
    images = torch.rand(5, 4, 3, 6, 6)
    still, film = pictures.save_moving(images, tmp_path / "x")
    assert Image.open(still).size == (4 * 8, 5 * 8)
    assert torch.equal(
        torch.tensor(list(Image.open(still).getpixel((1, 1)))), (images[0, 0, :, 0, 0] * 255).round().int()
    )
    assert Image.open(film).n_frames == 6 and Image.open(film).size == (3 * 8, 2 * 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.gif", "x.png"]


def test_grey_pictures_are_grey(tmp_path):
    assert Image.open(pictures.save(pictures.grid(torch.rand(2, 1, 3, 3), 2), tmp_path / "x.png")).mode == "L"
