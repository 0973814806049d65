"""A base whose linear layers are kept in 4 or 8 bits: how it is loaded, and what remains of its weights."""

import logging
from functools import partial

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import BitsAndBytesConfig

NOT_QUANTIZED = ["lm_head", "score"]


def quantization(bits: int, dtype: torch.dtype) -> BitsAndBytesConfig:
    """NF4 with double quantization (QLoRA, arXiv:2305.14314), or LLM.int8 (arXiv:2208.07339) with its own threshold."""
    if bits == 4:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=NOT_QUANTIZED,
        )
    # bitsandbytes says of every multiplication anew that it takes float16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=NOT_QUANTIZED)


def keep_dtype(model: PeftModel) -> None:
    """Let adapted layers yield the base's dtype: IA3 on 8 bits and norms in float32 do not, and the next layer cannot take it."""
    dtype = model.get_input_embeddings().weight.dtype
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.register_forward_hook(partial(_in_dtype, dtype))


def _in_dtype(dtype: torch.dtype, module, inputs, output):
    return output.to(dtype) if isinstance(output, Tensor) and output.dtype == torch.float32 else output


def through(bits: int, tensor: Tensor) -> Tensor:
    """What remains of a weight in these bits, in its own dtype and on the CPU: what an adapter was trained on."""
    from bitsandbytes import functional

    on = tensor.to("cuda") if torch.cuda.is_available() else tensor
    if bits == 4:
        packed, state = functional.quantize_4bit(on, quant_type="nf4", compress_statistics=True)
        return functional.dequantize_4bit(packed, state).to(tensor.dtype).cpu()
    packed, largest, _ = functional.int8_vectorwise_quant(on.half())  # each row by its largest number
    return functional.int8_vectorwise_dequant(packed, largest).to(tensor.dtype).cpu()
