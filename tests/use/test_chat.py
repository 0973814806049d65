"""Talking in a terminal and over a pipe."""

import fcntl
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time

import pytest
from answers import collected, text_of
from conftest import align
from rich.console import Console

from pipeline.cli.main import app
from pipeline.errors import PipelineError
from pipeline.use.asking import chat_request
from pipeline.use.chat.columns import Columns
from pipeline.use.chat.conversation import Asked, Conversation
from pipeline.use.chat.session import Session
from pipeline.use.chat.start import start
from pipeline.use.engine.request import CANCELLED, LENGTH, STOP, Piece, Sampling, Ticket

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


class Scripted:
    """Gives these answers, (text, how each ends), one after the other."""

    def __init__(self, *answers: tuple[str, str]):
        self._answers = [*answers]

    def ask(self, request, deliver) -> Ticket:
        text, finish = self._answers.pop(0)
        deliver(Piece(text, count=3, finish=finish))
        return Ticket()


def in_a_terminal(conversations) -> Session:
    session = Session(conversations)
    session._terminal, session._console = True, Console(file=io.StringIO(), force_terminal=True, width=80)
    return session


def saved(file) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_conversation_grows_is_taken_back_and_saved_as_training_reads_it(policies, tmp_path):
    engine = Scripted(("red, it is", STOP), ("blue", STOP), ("I know", STOP), ("no", STOP))
    session = in_a_terminal([Conversation(one, engine, DRAWN, 4) for one in policies[:2]])
    session._ask("Colour?")
    session._ask("And?")
    turns = session._conversations[0].turns
    assert [one["role"] for one in turns] == ["user", "assistant"] * 2
    session._do("/undo", "")
    assert "Taken back: And?" in session._console.file.getvalue()
    session._do("/save", str(tmp_path / "chat.jsonl"))
    asked = {"role": "user", "content": "Colour?"}
    assert saved(tmp_path / "chat.jsonl") == [
        {"model": "sft", "messages": [asked, {"role": "assistant", "content": "red, it is"}]},
        {"model": "dpo", "messages": [asked, {"role": "assistant", "content": "blue"}]},
    ]
    with pytest.raises(PipelineError, match="has this conversation already"):
        session._do("/save", str(tmp_path / "chat.jsonl"))
    session._do("/reset", "")
    with pytest.raises(PipelineError, match="nothing to take back"):
        session._do("/undo", "")


def test_answers_that_were_cut_are_saved_so_that_none_is_learned(policies, tmp_path):
    engine = Scripted(("red, it", CANCELLED), ("blue", LENGTH), ("because it", LENGTH), ("so it is", STOP))
    session = in_a_terminal([Conversation(one, engine, DRAWN, 4) for one in policies[:2]])
    session._ask("Colour?")
    with pytest.raises(PipelineError, match="No answer came to its end"):
        session._do("/save", str(tmp_path / "chat.jsonl"))
    session._ask("Why?")
    session._do("/save", str(tmp_path / "chat.jsonl"))
    (row,) = saved(tmp_path / "chat.jsonl")
    assert row["model"] == "dpo" and [one.get("weight") for one in row["messages"]] == [None, 0, None, None]
    told = session._console.file.getvalue()
    assert "sft is left out: none of its answers" in told and "dpo: 1 answer did not come to the end" in told
    checked = align("data", "check", tmp_path / "chat.jsonl", "--stage", "sft", cwd=tmp_path).stdout
    assert "1 read = 1 trained" in checked and "[so it is]" in checked and "[blue" not in checked


def test_ctrl_c_loses_nothing_of_what_was_answered(policies, monkeypatch):
    """Pressed at the worst moment: a piece is there, and not yet in the answer."""
    take, pressed = Asked.take, []

    def interrupted(asked, piece):
        if not pressed:
            pressed.append(os.kill(os.getpid(), signal.SIGINT))
        take(asked, piece)

    class Growing(Scripted):
        def ask(self, request, deliver):
            deliver(Piece("red, ", count=1))
            self.ticket = super().ask(request, deliver)
            return self.ticket

    monkeypatch.setattr(Asked, "take", interrupted)
    engine = Growing(("it is", CANCELLED))
    session = in_a_terminal([Conversation(policies[0], engine, DRAWN, 4)])
    before = signal.getsignal(signal.SIGINT)
    session._ask("Colour?")
    assert session._conversations[0].turns[-1]["content"] == "red, it is" and engine.ticket.cancelled
    assert signal.getsignal(signal.SIGINT) is before


def test_conversation_that_is_too_long_is_told_how_to_go_on(policies):
    session = in_a_terminal([Conversation(policies[0], Scripted((" word" * 30, STOP)), DRAWN, 4)])
    session._ask("Colour?")
    with pytest.raises(PipelineError, match="the model's context is 64") as told:
        session._ask("And?")
    assert "/undo" in told.value.fix and "shorter" not in told.value.fix


def test_line_that_is_no_text_is_a_bad_question_and_the_next_is_answered(chain):
    command = ["chat", "sft", "-r", "micro.yaml", "--max-new-tokens", "3", "--json"]
    asked = b"caf\xe9?\nColour?\n"
    done = subprocess.run([sys.executable, "-m", "pipeline.cli", *command], cwd=chain, input=asked, capture_output=True)
    bad, good = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 2 and b"Traceback" not in done.stderr and b"Half of a character" in done.stderr
    assert "Half of a character" in bad["error"] and good["question"] == "Colour?"
    assert [one["model"] for one in good["answers"]] == ["sft"] and good["answers"][0]["tokens"] <= 3


def test_json_has_every_question_with_its_answers(policies, monkeypatch, capsys):
    engine = Scripted(("red\n\nor 蓝色", STOP), ("blue", LENGTH))
    session = Session([Conversation(one, engine, DRAWN, 4) for one in policies[:2]], as_json=True)
    # As a file of Windows says it: a mark of its encoding first, and lines that end in two characters.
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeff\r\nColour?\r\n" + "word " * 80 + "\r\n", newline=""))
    assert session.run() == 2
    printed = capsys.readouterr().out
    assert "蓝色" in printed  # a person reads it, too
    answered, refused = map(json.loads, printed.splitlines())
    assert answered == {
        "question": "Colour?",
        "answers": [
            {"model": "sft", "text": "red\n\nor 蓝色", "finish": "stop", "tokens": 3},
            {"model": "dpo", "text": "blue", "finish": "length", "tokens": 3},
        ],
    }
    assert refused["question"].startswith("word ") and "context is 64" in refused["error"]


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


class Terminal:
    """The command in a terminal of 80 columns, for a person's keys."""

    def __init__(self, folder, *arguments: str):
        self._master, self._slave = pty.openpty()
        command = [sys.executable, "-m", "pipeline.cli", "chat", "-r", "micro.yaml", *arguments]
        environment = os.environ | {"COLUMNS": "80", "TERM": "xterm"}
        self._before = termios.tcgetattr(self._slave)
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),  # so that Ctrl-C becomes a signal
        )

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._slave)
        os.close(self._master)

    @property
    def whole(self) -> bool:
        """Whether it echoes and reads lines as it did before."""
        return termios.tcgetattr(self._slave) == self._before

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def read_until(self, said: str) -> str:
        told = ""
        while not told.endswith(said):
            assert select.select([self._master], [], [], 90)[0], told
            told += os.read(self._master, 1).decode(errors="replace")
        return told


def test_terminal_streams_and_ends_at_the_end_of_input(chain):
    with Terminal(chain, "--max-new-tokens", "4") as terminal:
        assert "ppo  " in terminal.read_until("> ")
        terminal.press("Colour?\n")
        assert "4 tokens, " in terminal.read_until("> ")
        terminal.press("\x04")
        assert terminal.process.wait(30) == 0


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(chain, endless):
    with Terminal(chain, str(endless)) as terminal:
        terminal.read_until("> ")
        for presses in (1, 3):
            terminal.press("Colour?\r")
            terminal.read_until("\x1b[?25l")  # the cursor is hidden while an answer grows
            time.sleep(0.3)
            terminal.press("\x03" * presses)
            told = terminal.read_until(", stopped")
            assert "tokens/s" in told and "Traceback" not in told
        terminal.press("/undo\r")
        terminal.read_until("Taken back: Colour?")
        terminal.press("/quit\r")
        assert terminal.process.wait(30) == 0 and terminal.whole


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
