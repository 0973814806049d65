"""Whether a tuning method does on a model what the chain relies on, found out by doing it.

Each proof is a number that has to be 0, or as near to it as rounding lets it be; `LIMITS` says how near.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from pipeline.errors import PipelineError
from pipeline.model.adapter_tensors import load_adapter
from pipeline.model.adapters import method_on
from pipeline.model.adapters.method import Method
from pipeline.model.saving import save_weights

# What each proof says, and the most that it may be off, in fp32. Logits are compared relative to the largest.
LIMITS = {
    "base untouched": 0.0,  # the largest change of a weight outside of the adapter by training, or of the base's own logits
    "saved and loaded": 0.0,  # of the logits, through a folder into a fresh model
    "reference beside": 0.0,  # of the logits of a frozen copy on the same base, while the policy is trained on
    "gradients when recomputed": 1e-5,  # with gradient checkpointing and without
    "padded on the left": 1e-4,
    "merged": 1e-4,
}
STEPS, ROWS, TOKENS, RATE = 3, 4, 12, 5e-3


def prove(make: Callable[[], PreTrainedModel], method: Method, fields: dict) -> dict[str, float | str]:
    """Each proof of `LIMITS` by its name: how far it is off, or why it could not be tried. Trains a few steps on noise.

    `make` loads the bare base anew each time; `fields` are the adapter's settings. Of a method that is kept as another adapter
    than it is trained as, that one is tried.
    Raises PipelineError where the method cannot be put onto the base at all.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _adapted(make, method, fields)
        rows = torch.randint(3, model.config.get_text_config().vocab_size, (ROWS, TOKENS), device=model.device)
        bare, frozen = _logits(make(), rows), {name: tensor.clone() for name, tensor in _frozen(model)}
        _train(model, rows, method.alongside(model, STEPS))
        moved = [_apart(tensor, frozen[name]) for name, tensor in _frozen(model)]
        model = method.finished(model)
        method = method_on(model)
        with model.disable_adapter():
            found: dict[str, float | str] = {"base untouched": max([_apart(_logits(model, rows), bare), *moved])}
        with tempfile.TemporaryDirectory() as folder:
            save_weights(model, Path(folder))
            # What is quantized is merged in another way.
            merges = method.merged and not getattr(model, "is_quantized", False)
            for name, proof in (
                ("saved and loaded", lambda: _loaded(make, method, model, Path(folder), rows)),
                ("reference beside", lambda: _beside(copy.deepcopy(model), method, Path(folder), rows)),
                ("gradients when recomputed", lambda: _recomputed(model, rows)),
                ("padded on the left", lambda: _padded(model, rows)),
                *([("merged", lambda: _merged(copy.deepcopy(model), rows))] if merges else []),
            ):
                try:
                    found[name] = proof()
                except (ValueError, RuntimeError, NotImplementedError, AttributeError, TypeError) as error:
                    found[name] = str(error).strip().splitlines()[0]
    return found


def failures(found: dict[str, float | str]) -> Iterator[str]:
    """The names of the proofs that are not within their limits."""
    return (name for name, off in found.items() if not isinstance(off, float) or not off <= LIMITS[name])


def _adapted(make: Callable[[], PreTrainedModel], method: Method, fields: dict) -> PeftModel:
    try:
        return method.put_on(make(), method.settings(fields, task_type="CAUSAL_LM"))
    except ValueError as error:
        raise PipelineError(f"{method.name} does not fit the base: {str(error).splitlines()[0]}") from None


def _frozen(model: PeftModel) -> Iterator[tuple[str, Tensor]]:
    return ((name, one.detach()) for name, one in model.named_parameters() if not one.requires_grad)


def _train(model: PeftModel, rows: Tensor, alongside=None) -> None:
    model.train()
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=RATE)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        model(input_ids=rows, labels=rows).loss.backward()
        if alongside:
            alongside.penalty().backward()
        optimizer.step()
        if alongside:
            alongside.stepped(step)


@torch.no_grad()
def _logits(model, rows: Tensor, **named: Tensor) -> Tensor:
    model.eval()
    return model(input_ids=rows, **named).logits.float()


def _apart(one: Tensor, other: Tensor) -> float:
    if not other.numel():
        return 0.0
    return float((one.float() - other.float()).abs().max()) / max(float(other.float().abs().max()), 1e-9)


def _loaded(make, method: Method, model: PeftModel, folder: Path, rows: Tensor) -> float:
    config = PeftConfig.from_pretrained(folder)
    config.inference_mode, base = False, make()
    # As a process that has drawn other numbers: what an adapter draws and does not save is not its own.
    torch.manual_seed(1)
    other = method.put_on(base, config)
    load_adapter(other, folder)
    return _apart(_logits(other, rows), _logits(model, rows))


def _beside(model: PeftModel, method: Method, folder: Path, rows: Tensor) -> float:
    """As a stage does it: a second adapter of the same settings, filled from the parent's folder, and frozen."""
    if not method.beside:
        return 0.0  # its reference is a model of its own
    before = _logits(model, rows)
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    model.add_adapter("ref", copy.deepcopy(model.peft_config["default"]))
    load_adapter(model, folder, "ref")
    for name, one in model.named_parameters():
        one.requires_grad_(name in trained)
    _train(model, rows)
    model.set_adapter("ref")
    return _apart(_logits(model, rows), before)


def _recomputed(model: PeftModel, rows: Tensor) -> float:
    plain = _gradients(model, rows)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    again = _gradients(model, rows)
    model.gradient_checkpointing_disable()
    return max(_apart(again[name], plain[name]) for name in plain)


def _gradients(model: PeftModel, rows: Tensor) -> dict[str, Tensor]:
    model.train()
    model.zero_grad()
    model(input_ids=rows, labels=rows).loss.backward()
    return {
        name: one.grad.clone() for name, one in model.named_parameters() if one.requires_grad and one.grad is not None
    }


def _padded(model: PeftModel, rows: Tensor) -> float:
    """The last logits of rows that stand behind padding, as in a batch that is generated from."""
    behind = torch.cat([rows.new_zeros(len(rows), 3), rows], dim=1)
    mask = torch.cat([rows.new_zeros(len(rows), 3), torch.ones_like(rows)], dim=1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    found = _logits(model, behind, attention_mask=mask, position_ids=positions)[:, -1]
    return _apart(found, _logits(model, rows)[:, -1])


def _merged(model: PeftModel, rows: Tensor) -> float:
    before = _logits(model, rows)
    return _apart(_logits(model.merge_and_unload(), rows), before)
