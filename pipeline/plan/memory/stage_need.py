"""A stage's parts put together: what stands there all the time, and what each thing that it does adds."""

from collections.abc import Iterator

from pipeline.plan.memory import activations, loss, optimizer, weights
from pipeline.plan.memory.activations import Pass
from pipeline.plan.memory.held import REDUCED
from pipeline.plan.memory.need import EVALUATIONS, Need, Phase, largest
from pipeline.plan.memory.setting import Setting
from pipeline.plan.memory.tuned import Tuned
from pipeline.plan.memory.weights import BYTES

ROLLOUT = "a rollout"
# What an evaluation takes at a time, see pipeline.evaluate.forward: bytes of fp32 logits, or tokens where there are none.
EVALUATION_LOGITS, EVALUATION_TOKENS = 256 << 20, 1 << 14
READ_FOR_EACH_WRITTEN = 4  # rows that are read at a time, for each that is answered: see pipeline.evaluate.evaluation


def need_of(setting: Setting, margin: float | None = None, **tokens: object) -> Need:
    """What a stage of this setting needs. `tokens` is said of what it was reckoned from."""
    phases = (*_step(setting), *_update(setting), *_evaluation(setting), *_rollout(setting))
    return Need(phases, tokens, setting.tuned.numbers, margin)


def _standing(setting: Setting) -> dict[str, int]:
    """What is there all the time, the optimizer's states from the first update on."""
    shape, tuned, held = setting.shape, setting.tuned, setting.held
    base = weights.base(shape, setting.dtype, setting.bits)
    own = 0 if tuned.whole else tuned.bytes + tuned.frozen
    trained, roles = 1, 0
    if setting.spec.config == "PPOConfig":  # policy and value are trained; the reference and the scoring one are not
        trained, roles = 2, own * (2 + setting.scored)
    elif setting.scored:
        roles = own
    reference = 0
    if setting.reference_stands:
        reference = base + own if setting.second_model else own
    if setting.spec.config == "PPOConfig":
        reference = 0
    states = optimizer.states(str(setting.train["optim"]), held.optimized(tuned).tensors, tuned.size)
    scales = weights.scales(shape, setting.bits)  # whole in each process
    return {
        "base": held.part(base - scales) + scales,
        "adapter": held.part(own),
        "other roles": held.part(roles),
        "reference": held.part(reference),
        "optimizer": trained * states,
        "DDP's buckets": _gradients(setting, tuned) if _by_ddp(setting) else 0,
    }


def _by_ddp(setting: Setting) -> bool:
    """Whether torch's DDP has the gradients once more; PPO adds them up by itself."""
    return setting.held.processes > 1 and not setting.held.sharded and setting.spec.config != "PPOConfig"


def _gradients(setting: Setting, tuned: Tuned) -> int:
    """Of what is trained; of a process's part of it those that it still has when the backward pass is over."""
    return tuned.bytes * (2 if setting.spec.config == "PPOConfig" else 1)


def _gathered(setting: Setting, layers: int) -> dict[str, int]:
    """What is whole for a while where each process has a part: what is outside of the layers, and so many layers."""
    if not setting.held.sharded:
        return {}
    shape, tuned = setting.shape, setting.tuned
    adapters = (
        0
        if tuned.whole
        else (tuned.bytes + tuned.frozen) * (1 + (setting.reference_stands and not setting.second_model))
    )
    packed = weights.base(shape, setting.dtype, setting.bits) - weights.scales(shape, setting.bits)
    one = (packed - weights.outside(shape, setting.dtype) + adapters) // shape.layers
    return {"whole layers": weights.outside(shape, setting.dtype) + layers * one}


def _step(setting: Setting) -> Iterator[Phase]:
    """Forwards, the loss, and backwards: the moment in them that takes most."""
    shape, tuned, one, standing = setting.shape, setting.tuned, setting.step, _standing(setting)
    every = activations.saved_by_layer(shape, tuned, one)
    between = activations.between_layers(shape, one)
    backward = activations.backward_of_layer(shape, tuned, one) + weights.unpacked(shape, setting.dtype, setting.bits)
    held = setting.held
    gradients = _gradients(setting, held.part_of(tuned))
    everything = tuned.whole and tuned.layers is None
    outside = tuned.size * shape.outside if everything else 0
    # Before the first layer's own gradients are there.
    of_layers = held.part(tuned.size * (shape.layers - 1) * shape.in_a_layer)
    above = of_layers if everything else gradients * (shape.layers - 1) // shape.layers
    passing = 0
    if held.sharded:  # those of one layer are whole, and in fp32 again where they are added up
        numbers = shape.in_a_layer if everything else tuned.numbers // shape.layers
        passing = (tuned.size + REDUCED) * numbers
    from_before = gradients if setting.accumulates else 0

    def beside(kept: int, whole: int) -> int:
        """Gradients that are kept and new ones, which are added to them, and where each process keeps a part stand there first."""
        if held.sharded:
            return max(from_before, kept) + whole + passing
        return max(from_before, kept + whole)

    layers = shape.layers if tuned.layers is None or setting.checkpointing else min(tuned.layers, shape.layers)
    kept = layers * (between if setting.checkpointing else every)
    last = (
        one.tokens * shape.width * (4 + (2 * one.size if tuned.whole else one.size))
    )  # the last norm, and what it yields
    answered = one.tokens
    if setting.spec.response:  # the prompts of what was sampled are learned by none
        answered = one.rows * int(setting.train[setting.spec.response])
    words = loss.logits(setting.loss, answered, shape.vocabulary, gpu=setting.gpu)
    if shape.soft_logits and setting.loss not in (loss.NONE, loss.CHUNKED, loss.IN_PIECES):
        words += one.size * answered * shape.vocabulary  # what squashes them keeps what it made
    if setting.loss == loss.CHUNKED:
        last += one.tokens * shape.width * one.size  # in another order
    by_piece = setting.loss in (loss.CHUNKED, loss.IN_PIECES)
    # TRL's loss by pieces asks for the head's weights, and gets a copy with the new tokens in it; its gradient is whole, too.
    copied = BYTES[setting.dtype] * shape.embeddings if tuned.tokens and setting.loss == loss.CHUNKED else 0
    head = (shape.embeddings * tuned.size if everything else copied) if words else 0  # its gradient
    last += copied
    # Of a matrix that is head and embeddings, the gradients of both uses and their sum stand together at the end.
    twice = 2 * head if shape.tied and everything else 0
    again = every if setting.checkpointing else 0
    moments = [
        {"activations": kept + last, "logits": words, "gradients": beside(0, head if by_piece else 0)}
        | _gathered(setting, int(by_piece)),
        {
            "activations": kept + last,
            # Each piece's gradient of the head is added to what there is of it, in fp32 into a third one (traced).
            "logits": min(words, (6 * loss.CHUNK if by_piece else one.size * answered) * shape.vocabulary),
            "gradients": beside(0, head * ((2 if one.half else 3) if by_piece else 1)),
        }
        | _gathered(setting, int(by_piece)),
        # The layer that runs, and the one that comes after it.
        {"activations": kept + again + backward, "gradients": beside(0, outside)} | _gathered(setting, 2),
        {
            "activations": (between if setting.checkpointing else every) + again + backward,
            "gradients": beside(above, outside),
        }
        | _gathered(setting, 1),
        {"activations": between, "gradients": _at_the_end(setting, gradients, outside) + twice} | _gathered(setting, 0),
    ]
    if held.sharded and outside:
        moments.append({"gradients": gradients + outside + REDUCED * shape.outside})
    yield largest("a training step", [standing | moment for moment in moments])


def _at_the_end(setting: Setting, gradients: int, outside: int) -> int:
    """Gradients when the last of them is there; what is outside of the layers is shared out after it."""
    return gradients + outside if setting.held.sharded else gradients


def _update(setting: Setting) -> Iterator[Phase]:
    """The optimizer's step. AdamW without its fused kernel makes a copy of all that it changes; PPO's processes add up a copy of
    the gradients.
    """
    gradients = _gradients(setting, setting.held.part_of(setting.tuned))
    plain = setting.train["optim"] in ("adamw_torch", "adafactor", "stable_adamw")
    copied = plain or (setting.spec.config == "PPOConfig" and setting.held.processes > 1)
    held = {"gradients": gradients, "activations": gradients if copied else 0}
    yield Phase("an update", _standing(setting) | held)


def _evaluation(setting: Setting) -> Iterator[Phase]:
    """Held-out rows: a part of their logits at a time, and answers in batches, with their keys and values."""
    if not setting.evaluated:
        return
    shape, standing, length = setting.shape, _standing(setting), max(setting.length, 1)
    work = weights.unpacked(shape, setting.dtype, setting.bits)
    scores = setting.spec.head == "score"
    at_a_time = EVALUATION_TOKENS if scores else EVALUATION_LOGITS // (4 * shape.vocabulary)
    at_most = READ_FOR_EACH_WRITTEN * setting.batch_of_answers
    rows = min(max(at_a_time // length, 1), setting.evaluated, at_most)
    read = activations.forward_of_layer(shape, setting.tuned, Pass(rows, length, setting.half, setting.attention))
    # As they come, and of a piece of them a copy in fp32 and its log-softmax.
    piece = min(max(EVALUATION_LOGITS // (4 * shape.vocabulary), rows), rows * length)
    words = 0 if scores else shape.vocabulary * (BYTES[setting.dtype] * rows * length + 8 * piece)
    whole = _gathered(setting, 2)
    yield Phase(EVALUATIONS[0], standing | {"activations": read + work, "logits": words} | whole)
    if setting.answers and not scores:
        yield _sampling(EVALUATIONS[1], setting, setting.batch_of_answers, setting.answers)


def _rollout(setting: Setting) -> Iterator[Phase]:
    if setting.spec.response:
        yield _sampling(ROLLOUT, setting, setting.rollout, int(setting.train[setting.spec.response]))


def _sampling(name: str, setting: Setting, rows: int, answer: int) -> Phase:
    """Sequences that are written together: the prompts at once, then a token at a time."""
    shape = setting.shape
    one = Pass(rows, setting.prompt, setting.half, setting.attention)
    work = weights.unpacked(shape, setting.dtype, setting.bits) + activations.forward_of_layer(
        shape, setting.tuned, one
    )
    kept = activations.cache(shape, rows, setting.prompt + answer, setting.half)
    words = 3 * 4 * rows * shape.vocabulary
    held = {"KV cache": kept, "activations": work, "logits": words} | _gathered(setting, 2)
    return Phase(name, _standing(setting) | held)
