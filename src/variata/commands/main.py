"""The console script `variata`."""

import sys

HELP = """usage: variata COMMAND ...

commands:
  train        train and test a model; the same as python train.py (variata train --help lists the options)
  reconstruct  images and their reconstructions: variata reconstruct RUN
  sample       new images: variata sample RUN --temperature 0.8
  interpolate  from one image to another, PNG and GIF
  traverse     one image moved along single latent dimensions, PNG and GIF
  attributes   directions such as Smiling, applied and judged: variata attributes RUN --attribute Smiling
  evaluate     judge a run by any evaluation: variata evaluate RUN evaluate=[nll] evaluate.nll.samples=5000
  quality      judge the pictures of a run: FID, KID, MS-SSIM, PSNR (variata quality --help)
  compare      runs side by side, with intervals over seeds: variata compare outputs --html report.html
  ls           list runs, how they ended and their figures: variata ls outputs
  wandb-sweep  a file of conf/sweep for W&B's agents: variata wandb-sweep optuna data=digits > sweep.yaml
  wandb-workspace  save a W&B workspace that compares the runs of a group: variata wandb-workspace GROUP
  schedules    draw beta and the learning rate over training: variata schedules beta=cyclical
"""

OPTIONLESS = {  # commands that do not read options by themselves
    "schedules": """usage: variata schedules [KEY=VALUE ...]

Draw beta and the learning rate over training, as train.py would take them with the same words:
variata schedules beta=cyclical beta.cycles=8 scheduler=warmup
""",
}


def main() -> int:
    """Hand the rest of the command line to the command."""
    command, sys.argv[1:] = (sys.argv[1] if len(sys.argv) > 1 else "--help"), sys.argv[2:]
    if command in OPTIONLESS and {"-h", "--help"} & set(sys.argv[1:]):
        sys.stdout.write(OPTIONLESS[command])
        return 0
    if command == "train":
        from variata.commands.train import main as run
    elif command in ("reconstruct", "sample", "interpolate", "traverse"):
        from variata.commands.pictures import main as toolbox

        return toolbox(command)
    elif command == "schedules":
        from variata.commands.schedules import main as run
    elif command == "evaluate":
        from variata.commands.evaluate import main as run
    elif command == "attributes":
        from variata.commands.attributes import main as run
    elif command == "quality":
        from variata.commands.quality import main as run
    elif command == "compare":
        from variata.commands.compare import main as run
    elif command == "ls":
        from variata.commands.ls import main as run
    elif command == "wandb-sweep":
        from variata.commands.wandb_sweep import main as run
    elif command == "wandb-workspace":
        from variata.commands.wandb_workspace import main as run
    else:
        known = command in ("-h", "--help")
        (sys.stdout if known else sys.stderr).write(HELP)
        return 0 if known else 2
    return run()


if __name__ == "__main__":
    sys.exit(main())
