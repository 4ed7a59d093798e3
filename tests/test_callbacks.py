import torch

from models import small
from variata.callbacks import STEPS, grid, pairs, traversal
from variata.loggers import CSV


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


def test_traversal_moves_one_dimension_per_row():
    vae = small(latent=5)
    x = torch.rand(8, 1, 4, 4).round()
    pictures = traversal(vae, x, dimensions=3)
    assert pictures.shape == (3 * STEPS, 1, 4, 4)
    rows = pictures.unflatten(0, (3, STEPS)).flatten(2)
    assert (rows.std(1).sum(1) > 0).all()


def test_csv_grows_columns_and_forgets_what_is_done_again(tmp_path):
    path = tmp_path / "metrics.csv"
    log = CSV(path)
    log.log_metrics({"a": 1.0}, step=10)
    log.log_metrics({"a": 2.0}, step=20)
    log.log_metrics({"b": 0.123456789}, step=20)
    log.log_metrics({"a": 3.0, "b": 4.0}, step=30)
    assert path.read_text().splitlines() == ["step,a,b", "10,1,", "20,2,", "20,,0.12345679", "30,3,4"]
    again = CSV(path, until=20)
    again.log_metrics({"b": 5.0}, step=30)
    assert [row["step"] for row in again.rows()] == ["10", "20", "20", "30"]
    assert again.rows()[-1] == {"step": "30", "a": "", "b": "5"}
