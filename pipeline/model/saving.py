"""Weights on the disk, whole or not at all."""

import os
import shutil
from pathlib import Path

from peft import PeftModel

from pipeline.errors import MachineError, PipelineError
from pipeline.model.parts import gathered
from pipeline.ranks import ALONE, Ranks


def save_weights(model, folder: Path, ranks: Ranks = ALONE) -> None:
    """The adapter `default` without the frozen ones beside it, or the whole model. Embeddings only as far as they are trained.

    Where each of several processes holds a part of the model, all of them have to call it, and the first one writes.
    """
    adapted = isinstance(model, PeftModel)
    whole = {"state_dict": gathered(model, ranks, trained_only=adapted)} if ranks.sharded else {}
    if not ranks.first:
        return
    folder.mkdir(parents=True, exist_ok=True)
    if adapted:
        model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False, **whole)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
    else:
        model.save_pretrained(folder, **whole)


def could_not_save(folder: Path, error: Exception) -> PipelineError:
    free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
    if free < 16 << 20 or "No space left" in str(error):
        return MachineError(
            f"{folder}: the disk is full ({free >> 20} MiB free); what is there is whole.",
            "Make room and give the same command again: it continues from the last checkpoint.",
        )
    if isinstance(error, PermissionError):
        return PipelineError(
            f"{error.filename or folder}: no permission to write there.", "Choose another --runs folder."
        )
    return MachineError(f"{folder}: cannot be written: {error}")


def save(model, tokenizer, folder: Path, ranks: Ranks = ALONE) -> str:
    """adapter/ or model/ in a stage's folder, with tokenizer and template, put in place whole; returns which.

    `ranks` as for `save_weights`.
    """
    output = "adapter" if isinstance(model, PeftModel) else "model"
    partial = folder / f".{output}"
    try:
        if ranks.first:
            shutil.rmtree(partial, ignore_errors=True)
        save_weights(model, partial, ranks)
        if not ranks.first:
            return output
        tokenizer.save_pretrained(partial)
        shutil.rmtree(folder / output, ignore_errors=True)  # of a run that died before its manifest
        os.replace(partial, folder / output)
    except Exception as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise could_not_save(folder, error) from error
    return output
