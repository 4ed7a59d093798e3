"""What somebody may write into the configuration of a run to have more done than a run. Places are written so:

<pickle>     touches a file when it is read        <precious>   a file to be deleted
<elsewhere>  where nothing is yet                  marked       a module that tells of its import
"""


def names(text):
    """Words in any number of lines."""
    return text.split()


STRATEGY = "lightning.pytorch.strategies.SingleDeviceStrategy"
METHOD = {
    "_target_": f"{STRATEGY}.load_checkpoint",
    "self": {"_target_": STRATEGY},
    "checkpoint_path": "<pickle>",
    "weights_only": False,
}
REMOVE = {"_target_": f"{STRATEGY}.remove_checkpoint", "self": {"_target_": STRATEGY}, "filepath": "<precious>"}
UNPICKLE = {"_target_": "torch.load", "f": "<pickle>", "weights_only": False}
TOUCH = {"_target_": "pathlib.Path.touch", "self": {"_target_": "pathlib.Path", "_args_": ["<elsewhere>"]}}
MKDIR = {"_target_": "os.makedirs", "_args_": ["<elsewhere>"]}
PAYLOADS = {"method": METHOD, "removal": REMOVE, "unpickling": UNPICKLE, "path": TOUCH, "folder": MKDIR}

# places where values stand, not nodes
PLAIN = names("""
data.eval_seed data.shape data.binarize model.latent model.encoder.channels model.prior.extra posterior.bound
beta.value scheduler.warmup objective.samples optimizer.lr optimizer.betas callbacks.pictures.images
callbacks.pictures.attributes trainer.max_epochs trainer.max_time trainer.strategy trainer.profiler trainer.plugins
trainer.logger trainer.callbacks trainer.accelerator logger.project logger.tags seed outputs evaluate.nll.samples
remote.note
""")
NESTED = {
    "": lambda node: node,
    " in a list": lambda node: [node],
    " in lists": lambda node: [[1, [node]]],
    " below": lambda node: {"a": [{"b": node}]},
    " as arguments": lambda node: {"_args_": [node]},
}
OTHERS = names("""
os.system builtins.eval builtins.exec subprocess.Popen pickle.load shutil.rmtree marked.Thing functools.partial
hydra.utils.instantiate hydra.utils.get_method importlib.import_module torch.load torch.hub.load torch.optim
torch.optim.Optimizer torch.optim.Optimizer.load_state_dict torch.optim.AdamW.step torch.optim.adam.adam
torch.optim.lr_scheduler.LambdaLR torch.optim.swa_utils.AveragedModel torch.optim.swa_utils.update_bn
torch.optim.sys.exit lightning.pytorch.Trainer.fit lightning.pytorch.Trainer.save_checkpoint
lightning.pytorch.seed_everything lightning.pytorch.LightningModule
lightning.pytorch.LightningModule.load_from_checkpoint lightning.pytorch.callbacks.ModelCheckpoint
lightning.pytorch.callbacks.OnExceptionCheckpoint lightning.pytorch.callbacks.LambdaCallback
lightning.pytorch.callbacks.Callback lightning.pytorch.callbacks.BackboneFinetuning
lightning.pytorch.callbacks.EarlyStopping.state_dict lightning.pytorch.callbacks.model_checkpoint.os.remove
lightning.pytorch.loggers.CSVLogger lightning.pytorch.loggers.TensorBoardLogger
lightning.pytorch.profilers.SimpleProfiler lightning.pytorch.strategies.DDPStrategy
lightning.pytorch.strategies.SingleDeviceStrategy
""")
BORROWED = names("""
variata.data.files.gzip.open variata.data.files.gzip variata.data.files.shutil.rmtree variata.data.files.Path
variata.data.files.tempfile.mkdtemp variata.run.directory.subprocess.run variata.training.checkpoints.torch.load
variata.training.watch.Path variata.training.saving.ModelCheckpoint variata.training.callbacks.TQDMProgressBar
variata.training.callbacks.pl.Trainer variata.priors.nn.Linear variata.priors.Distribution variata.priors.__builtins__
variata.priors.__builtins__.eval variata.priors.__loader__.get_data variata.priors.__spec__ variata.priors.__class__
variata.priors.Mixture.__init__ variata.priors.Mixture.__class__ variata.__path__
variata.priors.Mixture.__subclasses__ variata.priors.Mixture.__init__.__globals__ variata.data.__import__
variata.build.flat.__globals__ variata.build.flat.__call__
""")
# methods, class methods, functions, abstract classes, modules, and what a run makes itself
OURS = names("""
variata.core.VAE.load_state_dict variata.core.VAE variata.run.job.Job.loads variata.training.saving.Last.write
variata.training.callbacks.Pictures.draw variata.data.module.ImageDataModule.setup variata.data.module.ImageDataModule
variata.data.packed.Packed.load variata.data.packed.read_file variata.data.files.fetch variata.data.mnist.fetch_idx
variata.data.mnist.load_grey variata.build._encode variata.run.loading.load variata.run.loading.open_data variata.load
variata.training.checkpoints.read variata.atomic.write variata.run.directory variata.run.wandb.finish
variata.run.csv.CSV
variata.run.wandb._remember variata.run.launch.launch variata.run.ranks.Ranks variata.run.run.Run
variata.run.pruning.Pruning variata.training.saving.Last variata.training.saving.Best
variata.training.callbacks.Progress
variata.priors.Prior variata.core.Encoder variata.schedules.Ramp variata.schedules.Schedule
variata.schedules.Beta variata.data.source.ImageSource variata.data.digits.Digits
variata.objectives.Objective variata.likelihoods.LocationScale variata.core.Decoder variata.evaluation.bound.Bound
variata.nothing variata.priors. variata..priors.Mixture .variata.priors.Mixture variata.marked.Thing variata . Mixture
variata./../../marked.Thing
""")
NO_NAMES = [
    *("", " ", "variata.priors.Mixture ", "variata.priors\n.Mixture", "variata.priors:Mixture", "Variata.priors.M"),
    *(0, None, True, 1.5, [], ["variata.priors.Mixture"], {}, {"_target_": "variata.priors.Mixture"}),
]
ELSEWHERE = [*OTHERS, *BORROWED, *OURS, *NO_NAMES]
ODD = {  # by what is changed; a value replaces what stands there
    "callbacks is a list of lists": ("callbacks", [[1]]),
    "callbacks is a list of nodes": ("callbacks", [METHOD]),
    "callbacks is a node": ("callbacks", METHOD),
    "a callback is a number": ("callbacks.pictures", 5),
    "a callback is a list": ("callbacks.pictures", [METHOD]),
    "a callback with a dot": ("callbacks", {"a.b": METHOD}),
    "a callback with a line": ("callbacks", {"a\n": METHOD}),
    "a callback with a number": ("callbacks", {5: METHOD}),
    "evaluate is a node": ("evaluate", METHOD),
    "evaluate is a number": ("evaluate", 5),
    "seed is a node": ("seed", {**METHOD}),
    "model is a list": ("model", [METHOD]),
    "model is a word": ("model", "_target_"),
    "trainer is a word": ("trainer", "x_target_"),
    "logger is a word": ("logger", "variata.run.wandb.wandb"),
    "logger is a list": ("logger", [METHOD]),
    "an unused part": ("remote", {"deep": [{"deeper": METHOD}]}),
    "an unused prior": ("prior", METHOD),
    "model is partial": ("model._partial_", True),
    "model is not partial": ("model._partial_", "yes"),
    "beta is partial": ("beta._partial_", True),
    "data is partial": ("data._partial_", True),
    "encoder is whole": ("model.encoder._partial_", False),
    "optimizer is whole": ("optimizer._partial_", None),
    "positions": ("prior._args_", [METHOD]),
    "converted": ("model._convert_", "none"),
    "not recursive": ("model._recursive_", False),
    "recursive encoder": ("model.encoder._recursive_", True),
    "a key hydra may know one day": ("data._mode_", "x"),
    "self": ("beta.self", METHOD),
    "self that is plain": ("optimizer.self", 1),
    "a class as such": ("beta.__class__", "os.system"),
    "what the program gives: parameters": ("optimizer.params", [1]),
    "what the program gives: shape": ("model.encoder.shape", [1, 2, 2]),
    "what the program gives: encode": ("prior.encode", "x"),
    "what the program gives: run_dir": ("logger", {"_target_": "variata.run.wandb.wandb", "run_dir": "<elsewhere>"}),
    "what the program gives: job": (
        "logger",
        {"_target_": "variata.run.wandb.wandb", "_partial_": True, "job": "<elsewhere>"},
    ),
    "a folder of the trainer": ("trainer.default_root_dir", "<elsewhere>"),
    "a logger of the trainer": ("trainer.logger", True),
    "plugins of the trainer": ("trainer.plugins", []),
    "a registry of the trainer": ("trainer.model_registry", "x"),
    "a folder of pictures": ("callbacks.pictures.dirpath", "<elsewhere>"),
    "a folder of the last checkpoint": (
        "callbacks.x",
        {"_target_": "variata.training.saving.Last", "folder": "<elsewhere>"},
    ),
    "a folder of the best checkpoint": (
        "callbacks.x",
        {"_target_": "variata.training.saving.Best", "folder": "<elsewhere>"},
    ),
    "a folder of checkpoints": (
        "callbacks.x",
        {"_target_": "lightning.pytorch.callbacks.ModelCheckpoint", "dirpath": "<elsewhere>", "save_last": True},
    ),
    "a folder of errors": (
        "callbacks.x",
        {"_target_": "lightning.pytorch.callbacks.OnExceptionCheckpoint", "dirpath": "<elsewhere>"},
    ),
    "a folder of profiles": (
        "trainer.profiler",
        {"_target_": "lightning.pytorch.profilers.SimpleProfiler", "dirpath": "<elsewhere>", "filename": "x"},
    ),
    "the environment": ("remote.note", "${oc.env:MY_TOKEN}"),
    "the environment in a part": ("logger.project", "${oc.env:MY_TOKEN,x}"),
    "the environment in a list": ("callbacks.pictures.attributes", ["${oc.env:MY_TOKEN}"]),
    "the environment in a key": ("remote", {"${oc.env:MY_TOKEN}": 1}),
    "the environment, twice": ("data.binarize", "\\${oc.env:MY_TOKEN}"),
    "the environment, decoded": ("remote.note", "${oc.decode:${oc.env:MY_TOKEN}}"),
    "another key": ("remote.note", "${outputs}"),
    "another resolver": ("remote.note", "${run_dir:<elsewhere>,a,b,null}"),
    "half an interpolation": ("remote.note", "${"),
    "what nobody gave": ("data.binarize", "???"),
}
