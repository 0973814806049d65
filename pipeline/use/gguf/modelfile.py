"""What Ollama wants beside a GGUF file: a Modelfile, whose template renders what was trained.

Ollama does not read the file's own chat template but one in Go's language. It is derived from the trained one by trying
it on small talk: what it writes before and after each turn, by the role of the turn. What these make of other talk is then
compared with the trained template itself. One that depends on more than the roles is not guessed: no Modelfile is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import GenerationConfig

from pipeline.data.shapes.fields import BadRow
from pipeline.data.tokens.stops import agreed
from pipeline.data.tokens.template import Template
from pipeline.use.asking import Defaults
from pipeline.use.gguf.runtime import read_metadata

FILE = "Modelfile"
_ROLES = ("system", "user", "assistant")
_TALKS = ("u", "su", "uau", "suau", "uauau", "suauau")  # by the first letters of the roles; each asks at its end
_WORDS = ("What is asked?", "Two\n\nlines, and  {{ braces }}.", "x")


@dataclass(frozen=True)
class Turns:
    """What stands before and after the words of each role's turn, and before all where there is no system prompt."""

    begin: str  # in every conversation, BOS apart
    default: str  # where no system prompt is given: some templates have one of their own
    before: dict[str, str]
    after: dict[str, str]
    invitation: str

    def render(self, messages: Sequence[dict]) -> str:
        """As Ollama will: the same as `go`, for the comparison."""
        text = self.begin + ("" if messages[0]["role"] == "system" else self.default)
        for one in messages:
            text += self.before[one["role"]] + one["content"] + self.after[one["role"]]
        return text + self.invitation

    def go(self) -> str:
        """The template in Go's language. Nothing trims spaces here, so that all between the braces is text as it is."""
        default = f'{{{{ if ne (index .Messages 0).Role "system" }}}}{_text(self.default)}{{{{ end }}}}'
        turns = ""
        for number, role in enumerate(role for role in _ROLES if role in self.before):
            word = "if" if not number else "else if"
            turns += f'{{{{ {word} eq .Role "{role}" }}}}{_text(self.before[role])}{{{{ .Content }}}}{_text(self.after[role])}'
        return (
            f"{_text(self.begin)}{default if self.default else ''}{{{{ range .Messages }}}}{turns}{{{{ end }}}}{{{{ end }}}}"
            f"{_text(self.invitation)}"
        )


def write(folder: Path, weights, file: str) -> dict:
    """The Modelfile beside `file`; or why there is none."""
    template, stop = Template(weights.tokenizer), weights.tokenizer.eos_token
    if not weights.tokenizer.chat_template:
        text = "{{ .Prompt }}"
    else:
        stop = template.stop
        adds = read_metadata(folder / file).get(
            "tokenizer.ggml.add_bos_token"
        )  # then it is not the template's to write
        turns = derived(template, weights.tokenizer.bos_token if adds else None)
        if isinstance(turns, str):
            return {"modelfile": f"none: {turns}"}
        text = turns.go()
    lines = [f"FROM ./{file}", f'TEMPLATE """{text}"""', f"PARAMETER stop {_quoted(stop)}"]
    lines += [f"PARAMETER {name} {value:g}" for name, value in sampling(weights.generation_config).items()]
    (folder / FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"modelfile": FILE}


def sampling(config: GenerationConfig) -> dict[str, float]:
    """As `align chat` answers; what is not said Ollama takes from its own defaults: temperature 0.8, repeat_penalty 1.1."""
    how = Defaults.told(config).sampling
    said = {"temperature": how.temperature}
    if how.temperature:
        said |= {"top_k": how.top_k, "top_p": how.top_p, "min_p": how.min_p}
    said["repeat_penalty"] = how.repetition_penalty
    if how.repetition_penalty != 1:
        said["repeat_last_n"] = -1  # of all that was said, not of 64 tokens
    return said


def derived(template: Template, bos: str | None) -> Turns | str:
    """How the template writes turns; or why that cannot be told from talk alone."""
    seams: dict[tuple[str, str], str] = {}
    for talk in _TALKS:
        found = _seams(template, talk, bos or "")
        if isinstance(found, str):
            if talk == "u":
                return found
            continue  # it has no words for a system prompt
        for pair, seam in found.items():
            if seams.setdefault(pair, seam) != seam:
                return "what the template writes between two turns depends on more than their roles"
    turns = _parted(seams)
    for talk in _TALKS:
        messages = [_turn(letter, _WORDS[number % len(_WORDS)]) for number, letter in enumerate(talk)]
        try:
            right = template.render(messages, ask=True)
        except BadRow:
            continue
        if messages[0]["role"] not in turns.before or turns.render(messages) != right.removeprefix(bos or ""):
            return "the template does not write every conversation as its turns one by one"
    if any(
        '"""' in part
        for part in (turns.begin, turns.default, turns.invitation, *turns.before.values(), *turns.after.values())
    ):
        return 'the template writes """, which a Modelfile cannot'
    return turns


def _seams(template: Template, talk: str, bos: str) -> dict[tuple[str, str], str] | str:
    """What stands between turns, by (role, next role); "" is before the first and after the last, which is asked."""
    marks = [f"what-is-said-{number}" for number in range(len(talk))]
    try:
        text = template.render([_turn(letter, mark) for letter, mark in zip(talk, marks, strict=True)], ask=True)
    except BadRow as bad:
        return str(bad)
    text = text.removeprefix(bos)
    seams, at = {}, 0
    for number, (letter, mark) in enumerate(zip(talk, marks, strict=True)):
        found = text.find(mark, at)
        if found < 0 or text.count(mark) != 1:
            return "the template does not write each turn once, in its place"
        before = talk[number - 1] if number else ""
        if seams.setdefault((before, letter), text[at:found]) != text[at:found]:
            return "what the template writes between two turns depends on more than their roles"
        at = found + len(mark)
    seams[talk[-1], ""] = text[at:]
    return seams


def _parted(seams: dict[tuple[str, str], str]) -> Turns:
    """Seams as what ends one turn and begins the next."""
    system = ("s", "u") in seams
    into_user = [seams[pair] for pair in (("", "u"), ("a", "u"), ("s", "u")) if pair in seams]
    user = into_user[0]  # how a question begins: what all of these end with
    for one in into_user:
        user = user[len(user) - agreed(user[::-1], one[::-1]) :]
    first = seams["", "u"].removesuffix(user)
    before = {"user": user, "assistant": seams["u", "a"]}
    after = {"user": "", "assistant": seams["a", "u"].removesuffix(user)}
    # How a question ends is known only together with what follows it: taken for its end is what an answer ends with, too,
    # or else what is before an answer and before an invitation to one, which may differ (an empty thought, say).
    ends = agreed(seams["u", "a"], after["assistant"])
    if not seams["u", ""].startswith(seams["u", "a"][:ends]) or not seams["u", ""].startswith(seams["u", "a"]):
        ends = agreed(seams["u", ""], seams["u", "a"])
    after["user"], before["assistant"] = seams["u", "a"][:ends], seams["u", "a"][ends:]
    invitation = seams["u", ""].removeprefix(after["user"])
    if not system:
        return Turns(first, "", before, after, invitation)
    before["system"] = seams["", "s"]
    after["system"] = seams["s", "u"].removesuffix(user)
    return Turns("", first, before, after, invitation)


def _turn(letter: str, words: str) -> dict:
    return {"role": next(role for role in _ROLES if role[0] == letter), "content": words}


def _text(text: str) -> str:
    """Text between the actions of a Go template; its braces would begin an action."""
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    return f'"{text}"' if '"' not in text else f'"""{text}"""'
