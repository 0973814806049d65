"""The bytes of a base: as it is loaded in a dtype, or with its linear layers in 4 or 8 bits."""

from pipeline.plan.memory.shape import Linear, Shape

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# What bitsandbytes 0.50 keeps beside a weight in NF4 with double quantization: a scale of one byte for each 64 numbers, an
# fp32 scale for each 256 of those, their offset, the table of 256 fp32 numbers for the scales and the one of 16 for NF4.
_BLOCK, _SCALES, _TABLES = 64, 256, 4 + 256 * 4 + 16 * 4


def in_4_bit(numbers: int) -> int:
    """Bytes of a weight in NF4 with double quantization (arXiv:2305.14314), to the byte."""
    scales = -(-numbers // _BLOCK)
    return -(-numbers // 2) + scales + 4 * -(-scales // _SCALES) + _TABLES


def in_8_bit(linear: Linear) -> int:
    """Bytes of a weight in LLM.int8 (arXiv:2208.07339): one a number, and an fp32 scale for each row."""
    return linear.numbers + 4 * linear.outputs


def base(shape: Shape, dtype: str, bits: int | None) -> int:
    """Bytes of the whole model; heads, embeddings, norms and biases stay in the dtype."""
    size = BYTES[dtype]
    if bits is None:
        return size * shape.parameters
    packed = sum(in_4_bit(one.numbers) if bits == 4 else in_8_bit(one) for one in shape.linears)
    kept = shape.in_a_layer - sum(one.numbers for one in shape.linears)
    return shape.layers * (packed + size * kept) + size * shape.outside


def scales(shape: Shape, bits: int | None) -> int:
    """Bytes of what weights in 4 bits are scaled by, which is no part of them."""
    one = sum(in_4_bit(linear.numbers) - -(-linear.numbers // 2) for linear in shape.linears)
    return shape.layers * one if bits == 4 else 0


def outside(shape: Shape, dtype: str) -> int:
    """Bytes of what is outside of the layers."""
    return BYTES[dtype] * shape.outside


def unpacked(shape: Shape, dtype: str, bits: int | None) -> int:
    """Bytes of the largest weight of a quantized base as it is multiplied: one at a time is."""
    return BYTES[dtype] * max(one.numbers for one in shape.linears) if bits else 0
