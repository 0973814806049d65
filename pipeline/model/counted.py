"""How many parameters a model has, and how many of them a stage trains."""

from peft import PeftModel


def numbers(parameter) -> int:
    """Of one parameter, as the model has it: whole, whatever this process holds of it, and in however few bits."""
    packed = getattr(parameter, "quant_state", None)
    return packed.shape.numel() if packed else getattr(parameter, "ds_numel", parameter.numel())


def counted(model) -> dict[str, int]:
    """`trained` and `in all`; frozen adapters beside the one that is trained are no part of the model."""
    adapters = set(model.peft_config) if isinstance(model, PeftModel) else set()
    trained = whole = 0
    for name, one in model.named_parameters():
        if one.requires_grad:
            trained += numbers(one)
        if one.requires_grad or adapters.isdisjoint(name.split(".")):
            whole += numbers(one)
    return {"trained": trained, "in all": whole}
