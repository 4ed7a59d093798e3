"""The network whose features FID and KID compare: found on this machine, else downloaded, else done without."""

import hashlib
from pathlib import Path

import torch
from torch import nn
from torchmetrics.image.fid import NoTrainInceptionV3

from variata import extras
from variata.errors import DataError, UserError

NAMES = (  # one file, as torch-fidelity and as pytorch-fid call it
    "weights-inception-2015-12-05-6726825d.pth",
    "pt_inception-2015-12-05-6726825d.pth",
)
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{NAMES[0]}"


def inception(root: Path) -> tuple[nn.Module | None, dict[str, str]]:
    """Inception-v3 as FID is defined with (Heusel et al. 2017, https://arxiv.org/abs/1706.08500), and what it is.

    It maps uint8 RGB [N, 3, H, W] to features [N, 2048]. Without weights it is None, and `quality/extractor` says why.

    Args:
        root: Where the weights are looked for beside torch.hub's folder.
    """
    try:
        extras.require("torch_fidelity", "FID and KID")
        path = weights(root)
    except UserError as error:
        return None, {"quality/extractor": f"none: {error}"}
    # torch-fidelity unpickles the file, which is safe because its content is the published one
    network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(path), antialias=False)
    return network, {
        "quality/extractor": f"Inception-v3 (TensorFlow, 2015), 2048 features, {path.name}",
        "quality/resize": "bilinear to 299x299 as TensorFlow 1 does it, grey as three equal channels",
    }


def weights(root: Path) -> Path:
    """The weights in torch.hub's folder or in root, else downloaded into the former.

    Raises:
        DataError: There are none, or others; says what was looked for, and where to put it.
    """
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    places = [folder / name for folder in (hub, root) for name in NAMES]
    path = next((place for place in places if place.is_file()), hub / NAMES[0])
    if not path.is_file():
        try:
            hub.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL, str(path), hash_prefix=SHA256)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"No FID and KID, because the weights of Inception-v3 are missing. Looked for {' or '.join(NAMES)} in "
                f"{hub} and {root.resolve()}; the download failed: {error}. Put the file from {URL} into one of them."
            ) from error
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        raise DataError(f"No FID and KID, because {path} is not the published file. Delete it; the right one is {URL}.")
    return path
