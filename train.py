"""Train a VAE: `python train.py model=conv_vae data=binary_mnist`; `python train.py --help` lists the options."""

import sys

from variata.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
