"""From subjects to a session: what it takes to load them quietly, and to say how they answer."""

from collections.abc import Mapping, Sequence

from pipeline.console.screen import Screen, make_console
from pipeline.errors import PipelineError
from pipeline.use.asking import Defaults, give_template
from pipeline.use.chat.conversation import Conversation
from pipeline.use.chat.session import Session, header
from pipeline.use.engine.engine import Engine
from pipeline.use.engine.request import Sampling
from pipeline.use.loaded import load
from pipeline.use.subject import Subject


def start(
    subjects: Sequence[Subject],
    system: str | None,
    options: Mapping[str, object],
    most: int | None,
    as_json: bool = False,
) -> int:
    """The exit code. `options` are Sampling's; None leaves one to the model's generation config."""
    console = make_console()
    with console.status(f"Loading {', '.join(one.name for one in subjects)}"):
        policies = load(subjects)
    for policy in policies:
        if note := give_template(policy):
            Screen(make_console(stderr=True)).say(note)
    defaults = [Defaults.of(policy) for policy in policies]
    samplings = [one.changed(**options) for one in defaults]
    for policy, sampling in zip(policies, samplings, strict=True):
        _check(policy.subject.name, sampling, options)
    engine = Engine(policies)
    conversations = [
        Conversation(policy, engine, sampling, most) for policy, sampling in zip(policies, samplings, strict=True)
    ]
    session = Session(conversations, as_json)
    if system:
        session.set_system(system)
    if console.is_terminal:
        header(console, conversations, how(samplings[0]))
    for policy, one in zip(policies, defaults, strict=True):
        if one.unused:
            Screen(make_console(stderr=True)).say(
                f"{policy.subject.name}: its generation config also says {', '.join(one.unused)}, which is not applied"
            )
    try:
        return session.run()
    finally:
        engine.close()


def how(sampling: Sampling) -> str:
    if sampling.temperature == 0:
        return "Greedy: the likeliest token each time."
    said = [f"temperature {sampling.temperature:g}"]
    said += [f"top_p {sampling.top_p:g}"] if sampling.top_p < 1 else []
    said += [f"top_k {sampling.top_k}"] if sampling.top_k else []
    return f"Sampled: {', '.join(said)}."


def _check(name: str, sampling: Sampling, options: Mapping[str, object]) -> None:
    """Raises PipelineError for options of drawing where nothing is drawn."""
    idle = [key for key in ("top_p", "top_k", "seed") if options.get(key) is not None]
    if sampling.temperature == 0 and idle:
        flags = ", ".join(f"--{key.replace('_', '-')}" for key in idle)
        raise PipelineError(f"{flags}: would do nothing: {name} takes the likeliest token.", "Add --temperature 0.7.")
