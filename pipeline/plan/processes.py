"""What cannot be trained by several processes, or not by so many: refused before anything is loaded."""

from collections.abc import Iterable
from importlib.util import find_spec

from pipeline import installing
from pipeline.errors import PipelineError
from pipeline.model.adapters import METHODS, NAMED
from pipeline.model.adapters.method import IN_4_BITS
from pipeline.plan.judges import judge_of
from pipeline.plan.methods import tuning
from pipeline.plan.step import CONTINUE, RUN, Step
from pipeline.recipe import strategies
from pipeline.recipe.fields import effective
from pipeline.recipe.launch import DIVIDING, EACH, PASSES, SHARDING, ZERO, can_go_on, divided, takes_bits
from pipeline.recipe.recipe import Recipe
from pipeline.stage import Spec, specs

IN_PARTS = ("adamw_torch", "adamw_torch_fused", "sgd", "adagrad", "rmsprop")  # optimizers that go weight by weight
WHOLE = "Give each process the whole model: --strategy ddp (STRATEGY=ddp)."
ALONE = "Or train in one process: --processes 1 (PROCESSES=1)."


def check(recipe: Recipe, steps: Iterable[Step]) -> None:
    """Raises PipelineError with every stage that is to be trained and whose steps cannot be dealt out, or whose model cannot
    be cut.
    """
    size, wrong, fixes, steps = recipe.launch.size, [], [], list(steps)
    if size > 1 and recipe.launch.strategy in ZERO and find_spec("deepspeed") is None:
        said = f"{recipe.path}: launch.strategy: {recipe.launch.strategy}: DeepSpeed is not installed."
        raise PipelineError(
            said, f"Install it (`{installing.goal('deepspeed')}`), or take --strategy fsdp, which needs nothing more."
        )
    if trained := [step for step in steps if size > 1 and step.state in (RUN, CONTINUE)]:
        strategies.told(recipe.launch)
        if recipe.launch.strategy in DIVIDING:
            _check_cut(recipe, trained)
    for step in steps:
        if step.state == CONTINUE and step.from_step:
            _check_goes_on(recipe, step)
        spec, given = specs()[step.stage], step.given or recipe.given(step.stage, full=False)
        try:
            if step.state in (RUN, CONTINUE):
                divided(spec, given, size)
        except ValueError as error:
            wrong.append(f"stages.{step.stage}: its steps cannot be shared by {size} processes: {error}.")
            fixes.append(f"stages.{step.stage}.train.{_would_do(spec, given, size)}")
    if wrong:
        anew = "which makes another recipe of it, trained anew."
        raise PipelineError(f"{recipe.path}: " + "\n  ".join(wrong), f"Set {'; '.join(fixes)}, {anew} {ALONE}")


def _check_goes_on(recipe: Recipe, step: Step) -> None:
    begun, size, strategy = step.known_attempt.how, recipe.launch.size, recipe.launch.strategy
    if begun is None:
        return
    if can_go_on(begun, size, strategy):
        if size > 1 and begun.get("deepspeed") != strategies.told(recipe.launch).get("deepspeed"):
            raise PipelineError(
                f"{step.stage}: {step.known_attempt.folder.name} was begun with another launch.deepspeed.",
                "Continue it with that file as it was, or start another attempt with --fresh (FRESH=1).",
            )
        return
    how = f"--processes {begun['processes']} --strategy {begun.get('strategy', 'ddp')}"
    now = f"--processes {size} --strategy {strategy if size > 1 else 'ddp'}"
    raise PipelineError(
        f"{step.stage}: {step.known_attempt.folder.name} was begun with {how}, and its checkpoint cannot go on with {now}.",
        f"Continue it with {how}, or start another attempt with --fresh (FRESH=1).",
    )


def _check_cut(recipe: Recipe, steps: Iterable[Step]) -> None:
    wrong = [f"stages.{step.stage}: {why}" for step in steps if (why := whole(recipe, step))]
    if wrong:
        part = "the model" if recipe.launch.strategy in SHARDING else "the optimizer"
        said = f"{recipe.path}: with launch.strategy: {recipe.launch.strategy} each process holds a part of {part}, and\n  "
        raise PipelineError(said + "\n  ".join(wrong), WHOLE)


def whole(recipe: Recipe, step: Step, strategy: str | None = None) -> str | None:
    """Why the model of a stage, or its optimizer, cannot be cut by a strategy, the recipe's own where none is named; None where
    it can.
    """
    strategy = strategy or recipe.launch.strategy
    of_model, zero = strategy in SHARDING, strategy in ZERO
    spec, settings = specs()[step.stage], recipe.stages[step.stage]
    method, _ = tuning(recipe, step.stage, step.parent)
    judge = judge_of(recipe, step.stage)
    if not spec.in_parts:
        return f"only {', '.join(name for name, one in specs().items() if one.in_parts)} can be trained so."
    if zero and recipe.model.dtype == "float16":
        return "model.dtype: float16 would make an adapter's fp32 weights float16; bfloat16 does not."
    bits = recipe.model.bits
    if bits and not takes_bits(strategy, bits):
        instead = "load_in_4bit goes with fsdp, zero1 and zero2"
        return f"a base in {bits} bits does not go with it; {instead}. Or leave load_in_{bits}bit out."
    how = IN_4_BITS if bits and of_model else strategy
    if how not in method.divided:
        those = ", ".join(name for name in NAMED if how in METHODS[name].divided)
        return f"adapter: {method.words} was not seen to train the same with {how}; those that were: {those}."
    optimizer = str(effective(spec.config, step.given or recipe.given(step.stage, full=False))["optim"])
    if optimizer not in IN_PARTS:
        return f"train.optim: {optimizer} needs whole weights; {', '.join(IN_PARTS)} do not."
    if settings.share_prompt is True:
        return "share_prompt: true runs parts of the model by themselves; leave it out."
    if judge and judge.reward and of_model:
        return "evaluation.judge: reward: the reward model would have to be put on the whole model; leave it out."
    return None


def _would_do(spec: Spec, given: dict, size: int) -> str:
    """What is near to the step as it is, and can be dealt out."""
    values, least = effective(spec.config, given), spec.least.get(EACH, 1)
    rows = values[EACH] * values[PASSES]
    if spec.piece_of_all:
        return f"{EACH}: {-(-max(values[EACH], size * least) // size) * size}"
    # More passes of fewer rows rather than fewer of more: these fit wherever the others do.
    passes = [*range(values[PASSES], rows + 1), size]
    found = next(one for one in passes if one == size or (one % size == 0 == rows % one and rows // one >= least))
    return f"{EACH}: {rows // found} and {PASSES}: {found}" if rows % found == 0 else f"{PASSES}: {size}"
