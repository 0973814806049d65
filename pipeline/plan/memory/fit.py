"""What would make a stage fit a card: changes in the order of what they cost, each as a key of the recipe with its value.

First come sizes that change nothing but time: how much goes through the card at once, with the same global batch. Then what
costs time (activations computed again, the reference's sums computed beforehand), then what costs a little of the result (an optimizer's
states in 8 bits), and last what another base would be.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.plan.memory.card import SIZES, Card, named
from pipeline.plan.memory.held import Held
from pipeline.plan.memory.need import EVALUATIONS, Need
from pipeline.plan.memory.reckoned import Reckoned, needed
from pipeline.plan.memory.setting import Setting, smaller
from pipeline.plan.memory.stage_need import ROLLOUT
from pipeline.recipe.launch import SHARDING, ZERO

Changes = Mapping[tuple[str, ...], object]  # by the path of the key in a recipe
Lever = Callable[[Setting, str], tuple[Setting, Changes] | None]
ALL_STAGES = "model"  # a path that begins so is of the whole recipe
IN_PARTS, WAITING = ("launch", "strategy"), ("launch", "offload")
ALTERING = frozenset({"dtype", "optim", "max_length", "load_in_4bit"})  # keys of it that change what is trained


@dataclass(frozen=True)
class Fit:
    """Changes to a stage, and what it needs with them."""

    stage: str
    changes: Changes
    need: Need
    fits: bool
    otherwise: tuple[str, ...] = field(default=())  # what would do it, where these do not

    def to_json(self) -> dict:
        keys = {".".join(path): value for path, value in self.changes.items()}
        return {"changes": keys, "bytes": self.need.bytes, "fits": self.fits, "otherwise": list(self.otherwise)}


def fitted(found: Sequence[Reckoned], card: Card, margin: float | None) -> list[Fit]:
    """For each stage whose need is known. What one of them needs of the base, all of them get.

    Where there are several processes and nothing else does it, each of them gets a part of the model, if that does, and then has
    that part wait in the host's memory.
    """
    fits = _fitted(found, card, margin)
    able = [(one, one.setting) for one in found if one.in_parts and one.setting]
    if all(one.fits for one in fits) or len(able) < len(found):
        return fits
    now = able[0][1].held
    if now.processes == 1 or any(setting.held.strategy not in ("ddp", SHARDING[0]) for _, setting in able):
        return fits
    parts = replace(now, strategy=SHARDING[0])
    for held in (parts, replace(parts, offloaded=True)):
        said: dict[tuple[str, ...], object] = {WAITING: "cpu"} if held.offloaded and not now.offloaded else {}
        if said or held.strategy != now.strategy:
            said[IN_PARTS] = held.strategy  # which may stand on the command line alone
        cut = _fitted([replace(one, setting=_in_parts(setting, held)) for one, setting in able], card, margin)
        if said and all(one.fits for one in cut):
            return [replace(one, changes=said | dict(one.changes)) for one in cut]
    return fits


def _fitted(found: Sequence[Reckoned], card: Card, margin: float | None) -> list[Fit]:
    known = [(one.stage, one.setting, one.need) for one in found if one.setting and one.need]
    # What is said of the base is said of all stages: one that cannot take it bars the others from it.
    able: dict[Lever, bool] = {
        # DeepSpeed would make an adapter of float16 as well.
        _in_16_bits: all(one.half or not one.tuned.whole for _, one, _ in known)
        and not (card.half == "float16" and any(one.held.strategy in ZERO for _, one, _ in known)),
        _in_4_bits: len(known) == len(found) and all(one.quantizable or one.bits for _, one, _ in known),
    }
    levers = [lever for lever in _LEVERS if able.get(lever, True)]
    shared: Changes = {}
    while True:
        fits = [
            _fit(stage, setting, card, margin, shared, levers, known=need.tokens["of"] == "rows")
            for stage, setting, need in known
        ]
        of_all = {path: value for one in fits for path, value in one.changes.items() if path[0] == ALL_STAGES}
        if of_all == dict(shared):
            return fits
        shared = of_all


def _fit(
    stage: str,
    start: Setting,
    card: Card,
    margin: float | None,
    shared: Changes,
    levers: Sequence[Lever],
    *,
    known: bool,
) -> Fit:
    every = tuple(levers)
    for lever in (_in_16_bits, _in_4_bits):
        if (made := lever(start, stage)) and shared.keys() & made[1].keys():
            start = made[0]
    changes, setting, levers, begun = dict(shared), start, list(levers), start
    if card.half == "float16" and start.dtype == "bfloat16" and not start.tuned.whole:  # what the card has
        changes[(ALL_STAGES, "dtype")] = card.half
    while True:
        shrunk, sizes, need = _shrunk(setting, stage, card, margin, known)
        if need.bytes <= card.bytes or not levers:
            break
        if (made := levers.pop(0)(setting, stage)) is None:
            continue
        if needed(made[0], margin, known=known).bytes < needed(setting, margin, known=known).bytes:
            setting, changes = made[0], changes | dict(made[1])
    if (of_all := (ALL_STAGES, "dtype")) in changes:
        changes[of_all] = card.half or "bfloat16"
    fits = need.bytes <= card.bytes
    otherwise = () if fits else tuple(_otherwise(stage, shrunk, need, card, margin, known))
    if not fits and begun.evaluated:
        unmeasured = replace(begun, evaluated=0)
        if _fit(stage, unmeasured, card, margin, shared, every, known=known).fits:
            otherwise = (
                "no held-out figures (evaluation: {max_rows: 0}), for which --fit then has other lines",
                *otherwise,
            )
    return Fit(stage, changes | sizes, need, fits, otherwise)


def _shrunk(setting: Setting, stage: str, card: Card, margin: float | None, known: bool) -> tuple[Setting, dict, Need]:
    """The setting with less at once, as far as that is needed, and can be had; of what takes most first."""
    sizes: dict[tuple[str, ...], object] = {}
    while (need := needed(setting, margin, known=known)).bytes > card.bytes:
        lever = {**dict.fromkeys(EVALUATIONS, _fewer_answers), ROLLOUT: _smaller_rollout}.get(
            need.peak.name, _smaller_batch
        )
        made = lever(setting, stage)
        while made and _is_no_less(needed(made[0], margin, known=known), need):
            made = lever(made[0], stage)
        if made is None:
            break
        setting, sizes = made[0], sizes | dict(made[1])
    return setting, sizes, need


def _is_no_less(after: Need, before: Need) -> bool:
    return after.bytes >= before.bytes and after.peak.name == before.peak.name


def _fewer_answers(setting: Setting, stage: str) -> tuple[Setting, Changes] | None:
    if setting.batch_of_answers <= 1:
        return None
    fewer = setting.batch_of_answers // 2
    return replace(setting, batch_of_answers=fewer), {("stages", stage, "evaluation", "batch_size"): fewer}


def _smaller_rollout(setting: Setting, stage: str) -> tuple[Setting, Changes] | None:
    key = "local_rollout_forward_batch_size"
    if "num_generations" in setting.train:
        return _smaller_generation(setting, stage)
    if key not in setting.train or setting.rollout <= 1:
        return None
    fewer = setting.rollout // 2
    return smaller(setting, **{key: fewer}), {("stages", stage, "train", key): fewer}


def _smaller_generation(setting: Setting, stage: str) -> tuple[Setting, Changes] | None:
    """Whole groups of answers, fewer at a time: of the same policy, as they are all for one update."""
    key, train = "steps_per_generation", setting.train
    if train.get("generation_batch_size"):
        return None
    each, passes = int(train["per_device_train_batch_size"]), int(train["gradient_accumulation_steps"])
    for fewer in range(min(int(train.get(key) or passes), passes + 1) - 1, 0, -1):
        if passes % fewer == 0 and each * fewer % int(train["num_generations"]) == 0:
            return smaller(setting, **{key: fewer}), {("stages", stage, "train", key): fewer}
    return None


def _smaller_batch(setting: Setting, stage: str) -> tuple[Setting, Changes] | None:
    """The next smaller micro-batch, with as many rows an update as before."""
    each, steps = "per_device_train_batch_size", "gradient_accumulation_steps"
    slices, sliced = "steps_per_generation", int(setting.train.get("steps_per_generation") or 0)
    if setting.spec.cut_counts(setting.train):
        return None
    now, least = int(setting.train[each]), setting.spec.least.get(each, 1)
    whole = now * int(setting.train[steps])
    together = int(setting.train.get("generation_batch_size") or 0)
    for size in range(now - 1, least - 1, -1):
        values = {each: size, steps: whole // size} | ({slices: sliced * now // size} if sliced else {})
        if sliced * now % size:
            continue
        if whole % size == 0 and together % size == 0 and _takes_less(made := smaller(setting, **values), setting):
            return made, {("stages", stage, "train", key): value for key, value in values.items()}
    return None


def _takes_less(made: Setting, before: Setting) -> bool:
    """Whether each process has fewer rows at a time, and the steps can be dealt out."""
    return made.can_be_dealt_out and made.micro < before.micro


def _computed_again(setting: Setting, stage: str) -> tuple[Setting, Changes] | None:
    key = "gradient_checkpointing"
    return None if setting.train.get(key) else _set(setting, stage, key, True)


def _reference_beforehand(setting: Setting, stage: str) -> tuple[Setting, Changes] | None:
    key = "precompute_ref_log_probs"
    if not (setting.reference and setting.spec.reference_columns):
        return None
    if setting.held.sharded and not setting.second_model:  # it would stand there all the same
        return None
    if setting.train.get(key) or int(setting.train["max_steps"]) > 0:  # it is kept only where every row is trained on
        return None
    made, changes = _set(setting, stage, key, True)
    return replace(made, reference=False, second_model=False), changes


def _states_in_8_bits(setting: Setting, stage: str) -> tuple[Setting, Changes] | None:
    if setting.held.sharded:  # bitsandbytes' states of parts were never tried
        return None
    return (
        _set(setting, stage, "optim", "adamw_8bit") if str(setting.train["optim"]).startswith("adamw_torch") else None
    )


def _shorter(setting: Setting, stage: str) -> tuple[Setting, Changes] | None:
    """Packed sequences as short as the longest row lets them be: no row is cut by it."""
    longest = setting.longest_row
    if not setting.train.get("packing") or not longest or (length := -(-longest // 64) * 64) >= setting.length:
        return None
    made, changes = _set(setting, stage, "max_length", length)
    return replace(made, length=length), changes


def _in_16_bits(setting: Setting, stage: str) -> tuple[Setting, Changes] | None:
    if setting.half or setting.tuned.whole:  # full tuning in 16 bits loses small steps
        return None
    return replace(setting, dtype="bfloat16"), {(ALL_STAGES, "dtype"): "bfloat16"}


def _in_parts(setting: Setting, held: Held) -> Setting:
    return replace(setting, held=held, quantizable=setting.quantizable and setting.quantizable_in_parts)


def _in_4_bits(setting: Setting, stage: str) -> tuple[Setting, Changes] | None:
    if not setting.quantizable:
        return None
    return replace(setting, bits=4, quantizable=False), {(ALL_STAGES, "load_in_4bit"): True}


def _set(setting: Setting, stage: str, key: str, value: object) -> tuple[Setting, Changes]:
    return smaller(setting, **{key: value}), {("stages", stage, "train", key): value}


_LEVERS: tuple[Lever, ...] = (
    _computed_again,
    _reference_beforehand,
    _in_16_bits,
    _states_in_8_bits,
    _shorter,
    _in_4_bits,
)


def _otherwise(
    stage: str, setting: Setting, need: Need, card: Card, margin: float | None, known: bool
) -> Iterator[str]:
    """What would do it, where nothing in the recipe does."""
    if setting.tuned.whole:
        yield "an adapter instead of all weights (adapter: {method: lora})"
    short = replace(setting, length=max(setting.length // 4, 1), prompt=max(setting.prompt // 4, 1))
    if not known and needed(short, margin, known=known).bytes <= card.bytes:
        yield "rows that are shorter than they may be: what they are is known once a run has prepared them"
    if size := next((size for size in SIZES if named(size).bytes >= need.bytes), None):
        yield f"a card of {size} GB"
    shape = setting.shape
    if not setting.tuned.whole:
        for layers in range(shape.layers - 1, 0, -1):
            fewer = replace(setting, shape=replace(shape, layers=layers))
            if needed(fewer, margin, known=known).bytes <= card.bytes:
                yield f"a base of about {fewer.shape.parameters / 1e9:.2g} billion parameters"
                return
    yield "a smaller base"
