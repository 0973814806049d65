"""Talking in a terminal and over a pipe."""

import io
import json
import os
import pty
import select
import subprocess
import sys

import pytest
from answers import collected, text_of
from conftest import align
from rich.console import Console

from pipeline.cli.main import app
from pipeline.errors import PipelineError
from pipeline.use.asking import chat_request
from pipeline.use.chat.columns import Columns
from pipeline.use.chat.conversation import Conversation
from pipeline.use.chat.session import Session
from pipeline.use.chat.start import start
from pipeline.use.engine.request import Sampling

DRAWN = Sampling(temperature=1.5, seed=3)


@pytest.fixture
def talk(policies, engine, monkeypatch, capsys):
    """What a session over a pipe prints: its exit code, answers, and complaints."""

    def run(*lines: str, names=("sft",), system=None, sampling=DRAWN, most=20):
        chosen = [one for one in policies if one.subject.name in names]
        session = Session([Conversation(one, engine, sampling, most) for one in chosen])
        if system:
            session.set_system(system)
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = session.run()
        return code, *capsys.readouterr()

    return run


def test_each_line_of_a_pipe_is_a_question_of_its_own(talk, policies, engine):
    code, out, err = talk("Which colour has bana?", "", "Colour?", "Which colour has bana?")
    first, second, again = out.strip("\n").split("\n")
    assert (code, err) == (0, "") and first == again != second
    alone = chat_request(policies[0], [{"role": "user", "content": "Colour?"}], 20, DRAWN)
    assert second == text_of(collected(engine, alone)[0])


def test_several_answer_each_question_by_their_names(talk):
    code, out, _ = talk("Colour?", names=("sft", "dpo"), sampling=Sampling())
    names, answers = zip(*(line.split(": ", 1) for line in out.strip("\n").split("\n")), strict=True)
    assert code == 0 and names == ("sft", "dpo") and len(set(answers)) == 2


def test_system_prompt_is_asked_with_and_a_command_changes_it(talk, policies, engine, monkeypatch):
    asked, ask = [], engine.ask
    monkeypatch.setattr(engine, "ask", lambda request, deliver: (asked.append(request.ids), ask(request, deliver))[1])
    talk("Colour?", "/system Be long.", "Colour?", "/system", "Colour?", system="Be brief.")
    begins = ["<s>Be brief.\nUser: Colour?", "<s>Be long.\nUser: Colour?", "<s>User: Colour?"]
    assert [policies[0].tokenizer.decode(ids) for ids in asked] == [f"{text}\nAssistant:" for text in begins]


def test_mistakes_are_told_and_the_rest_is_answered(talk):
    code, out, err = talk("/undx", "word " * 80, "Colour?")
    assert code == 2 and len(out.strip("\n").split("\n")) == 1
    assert "no command /undx; did you mean /undo?" in err and "the model's context is 64" in err


def test_conversation_grows_is_taken_back_and_saved_as_training_reads_it(policies, engine, tmp_path):
    session = Session([Conversation(one, engine, DRAWN, 4) for one in policies[:2]])
    session._terminal = True
    session._console = Console(file=io.StringIO(), force_terminal=True, width=80)
    session._ask("Colour?")
    session._ask("And?")
    turns = session._conversations[0].turns
    assert [one["role"] for one in turns] == ["user", "assistant"] * 2
    session._do("/undo", "")
    session._do("/save", str(tmp_path / "chat.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "chat.jsonl").read_text().splitlines()]
    assert [row["model"] for row in rows] == ["sft", "dpo"]
    assert [one["role"] for one in rows[0]["messages"]] == ["user", "assistant"]
    assert rows[0]["messages"][0]["content"] == "Colour?"
    session._do("/reset", "")
    with pytest.raises(PipelineError, match="nothing to take back"):
        session._do("/undo", "")


def shown(width: int, texts: list[list[str]]) -> list[str]:
    """What is printed for good of answers that grow so; lines that may change are redrawn on a terminal alone."""
    console = Console(file=io.StringIO(), force_terminal=False, width=width, height=20)
    with Columns(console, ["sft", "dpo"]) as columns:
        for now in texts:
            columns.show(now, [now is texts[-1]] * 2)
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


def test_answers_stand_side_by_side_and_no_word_is_broken():
    long = "colours of many kinds are found wherever somebody looks for them, in the end"
    lines = shown(80, [[long[:30], "x"], [long[:60], "x y"], [long, "x y\nz\x1b[2J"]])
    assert lines[0].split() == ["sft", "dpo"]
    assert lines[1:] == [
        "colours of many kinds are found          x y",
        "wherever somebody looks for them, in     z\ufffd[2J",
        "the end",
    ]


def test_answers_stand_under_each_other_where_it_is_narrow():
    assert shown(40, [["one", "two"], ["one more", "two"]]) == ["sft", "one more", "dpo", "two"]


def test_options_of_drawing_are_refused_where_nothing_is_drawn(policies, monkeypatch):
    monkeypatch.setattr("pipeline.use.chat.start.load", lambda subjects: policies[:1])
    options = {"temperature": None, "top_p": 0.9, "top_k": None, "seed": None}
    with pytest.raises(PipelineError, match="--top-p: would do nothing"):
        start([policies[0].subject], None, options, None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["reward"], "chat: reward is a reward model"),
        (["sft", "sft"], "sft is named twice"),
        (["pretrain", "base"], "stands on no base"),
        (["spt"], "did you mean sft"),
    ],
)
def test_what_gives_no_answers_is_refused(chain, monkeypatch, arguments, says):
    monkeypatch.chdir(chain)
    with pytest.raises(PipelineError, match=says):
        app(["chat", *arguments, "-r", "micro.yaml"], standalone_mode=False)


def test_terminal_streams_and_ends_at_the_end_of_input(chain):
    """The command itself, in a terminal of 80 columns."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "pipeline.cli", "chat", "-r", "micro.yaml", "--max-new-tokens", "4"]
    environment = os.environ | {"COLUMNS": "80", "TERM": "xterm"}

    def read_until_asked() -> str:
        said = ""
        while not said.endswith("> "):
            assert select.select([master], [], [], 90)[0], said
            said += os.read(master, 1 << 16).decode(errors="replace")
        return said

    with subprocess.Popen(command, cwd=chain, env=environment, stdin=slave, stdout=slave, stderr=slave) as process:
        try:
            assert "ppo  " in read_until_asked()
            os.write(master, b"Colour?\n")
            assert "4 tokens, " in read_until_asked()
            os.write(master, b"\x04")
            assert process.wait(30) == 0
        finally:
            process.kill()
            os.close(slave)
            os.close(master)


def test_command_over_a_pipe(chain):
    done = align("chat", "sft", "-r", "micro.yaml", "--max-new-tokens", "3", cwd=chain, input="Colour?\nAnd?\n")
    assert len(done.stdout.strip("\n").split("\n")) == 2 and done.stderr == ""


def test_base_without_a_chat_template_gets_the_plain_one_and_says_so(shared, monkeypatch, capsys):
    model = shared / "models/stories260K-hf"
    monkeypatch.setattr(sys, "stdin", io.StringIO("Once upon a time\n"))
    with pytest.raises(SystemExit) as ended:
        app(["chat", str(model), "--max-new-tokens", "20"])
    out, err = capsys.readouterr()
    assert not ended.value.code and len(out.split()) > 3 and "no chat template; the plain one is used" in err
