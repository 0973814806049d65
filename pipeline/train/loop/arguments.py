"""The training arguments of a stage, each of them said, and whether the libraries would take them."""

import importlib.util
from importlib import import_module
from pathlib import Path

import torch
from transformers import Trainer, get_scheduler
from transformers.utils import is_liger_kernel_available

from pipeline import installing
from pipeline.errors import PipelineError
from pipeline.recipe.fields import ON_A_GPU, effective
from pipeline.stage import Spec

# What must reach the trainer as the recipe has it; a library may not have its own opinion.
LEARNED_WITH = """
    learning_rate weight_decay max_grad_norm num_train_epochs max_steps warmup_steps adam_beta1 adam_beta2 adam_epsilon
    per_device_train_batch_size gradient_accumulation_steps seed bf16 fp16 max_length packing padding_free
    label_smoothing_factor neftune_noise_alpha beta
""".split()


def config_class(spec: Spec) -> type:
    """The config of a stage, from the module that has it."""
    return getattr(import_module(spec.home), spec.config)


def built(spec: Spec, given: dict, *, seed: int, dtype: str, folder: Path, config: dict):
    """`given` over TRL's defaults, under what the pipeline owns and the trainer's own `config`.

    Raises PipelineError where the config refuses a value, or takes another one than it is given.
    """
    cuda = torch.cuda.is_available()
    owned = {
        "output_dir": str(folder / "checkpoints"),
        "seed": seed,
        "bf16": dtype == "bfloat16",
        "fp16": dtype == "float16",
        "use_cpu": not cuda,
        "disable_tqdm": True,
        "logging_nan_inf_filter": False,
        "report_to": "none",  # trackers are told by pipeline.train.trackers
    }
    if given.get("padding_free") and not given.get("packing"):
        config = config | {"max_length": None}  # rows are cut already, and TRL could not cut them then
    # Every one of them is said: Unsloth changes the defaults of TRL's configs.
    values = effective(spec.config, dict.fromkeys(ON_A_GPU, cuda) | given | owned | config)
    try:
        args = config_class(spec)(**values)
    except (ValueError, TypeError) as error:
        raise PipelineError(f"train: {spec.config} refuses it: {error}") from None
    if args.device.type == "cpu" and args.device.index is not None:
        # Of several processes accelerate numbers the CPU, and no checkpoint can be loaded onto such a device.
        args.__dict__["_setup_devices"] = args.distributed_state.device = torch.device("cpu")
    if changed := [name for name in LEARNED_WITH if name in values and getattr(args, name) != values[name]]:
        raise PipelineError(
            f"train: {', '.join(f'{name} became {getattr(args, name)}' for name in changed)} with this backend.",
            "Set use_unsloth: false, or the value that it has there.",
        )
    return args


def check(stage: str, spec: Spec, given: dict, dtype: str, folder: Path) -> None:
    """Raises PipelineError for what the config, the optimizer or the schedule would refuse, without a model."""
    key = "train"
    try:
        args = built(spec, given, seed=0, dtype=dtype, folder=folder, config={})
        key = "train.optim"
        Trainer.get_optimizer_cls_and_kwargs(args)
        key = "train.lr_scheduler_kwargs" if args.lr_scheduler_kwargs else "train.lr_scheduler_type"
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        get_scheduler(
            args.lr_scheduler_type,
            optimizer,
            num_warmup_steps=1,
            num_training_steps=10,
            scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs or {}),
        )
    except PipelineError as error:
        raise PipelineError(f"{stage}: {error.what}", error.fix) from None
    except (ValueError, TypeError, KeyError, ImportError) as error:
        said = " ".join(str(error).split())
        raise PipelineError(f"{stage}: {key}: {said}", "Mend the recipe and run the same command again.") from None
    if getattr(args, "use_vllm", False) and importlib.util.find_spec("vllm") is None:
        raise PipelineError(
            f"{stage}: train.use_vllm: vLLM is not installed.",
            "Install it beside the rest (it needs a GPU, and a version that TRL knows), or leave it out.",
        )
    if getattr(args, "activation_offloading", False) and not torch.cuda.is_available():
        raise PipelineError(
            f"{stage}: train.activation_offloading: there is no GPU here from which anything could be offloaded.",
            "Leave it out.",
        )
    if args.use_liger_kernel and not is_liger_kernel_available():
        raise PipelineError(
            f"{stage}: train.use_liger_kernel: Liger's kernels are not installed.",
            f"Install them ({installing.package('liger-kernel')}; they need a GPU), or leave it out.",
        )
