"""What a person sees: a moving bar on a terminal, plain lines on a pipe."""

import io
import os
import pty
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
from conftest import align, write_micro
from rich.console import Console
from typer.main import get_command

from pipeline import installing
from pipeline.cli.main import app
from pipeline.console import tables
from pipeline.console.clock import Clock
from pipeline.console.display import Display
from pipeline.console.for_programs import show_json
from pipeline.errors import PipelineError
from pipeline.plan.step import EVALUATE, Step


@dataclass
class Screen:
    """A display, and what stands on its terminal (or came through its pipe, where it has no width)."""

    width: int | None = None
    display: Display = field(init=False)

    def __post_init__(self):
        console = Console(
            file=io.StringIO(), width=self.width or 160, force_terminal=bool(self.width), color_system=None
        )
        self.display, self.display.stage = Display(console), "sft"

    def shows(self, kind: str, **fields: object) -> None:
        self.display.event({"kind": kind, "at": 0.0} | fields)

    def trains(self) -> None:
        """A stage in the middle of its training."""
        self.shows("phase", name="data")
        self.shows("rows", read=2604)
        self.shows("phase", name="evaluation before")
        self.shows("train", step=0, steps=1608)
        self.shows("step", step=1, tokens=100, at=1.0)
        self.shows("step", step=1000, tokens=12_000_100, at=1001.0)
        self.shows("log", step=1000, loss=4.778123, mean_token_accuracy=0.34712)

    def said(self) -> str:
        return self.display.console.file.getvalue()

    def bar(self) -> str:
        """The progress line as it stands now."""
        console = Console(file=io.StringIO(), width=self.width, force_terminal=True, color_system=None)
        console.print(self.display.bar.get_renderable())
        return console.file.getvalue().rstrip()


def test_a_pipe_gets_a_line_for_each_logging_step_and_no_control_codes(tmp_path):
    write_micro(tmp_path)
    said = align("run", "sft", "-r", "micro.yaml", cwd=tmp_path).stdout
    assert "\x1b" not in said and "\r" not in said
    for stage in ("pretrain", "sft"):
        assert [line.split()[1] for line in said.splitlines() if line.startswith(f"  {stage} ")] == [
            "4/12",
            "8/12",
            "12/12",
        ]
    assert "rows: 120 read = 116 trained + 4 held out + 0 dropped" in said
    assert "What was learned" in said and "exact match" in said and "Sample answers" in said


def test_a_terminal_gets_a_bar(tmp_path):
    write_micro(tmp_path)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "run", "pretrain", "-r", "micro.yaml", "--set", "train.max_steps=60"],
        cwd=tmp_path,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"},
    )
    os.close(theirs)
    seen = b""
    try:
        while block := os.read(ours, 65536):
            seen += block
    except OSError:
        pass  # the other end is closed
    text = seen.decode()
    assert process.wait() == 0, text
    assert "Traceback" not in text and "━" in text and "/60 " in text and "tokens/s" in text


def test_what_libraries_print_goes_to_the_stages_log(chain):
    logs = list((chain / "runs").rglob("stage.log"))
    assert len(logs) == 5 and all("evaluation before" in log.read_text() for log in logs)


def test_at_80_columns_the_bar_and_the_time_left_stay_and_no_figure_is_cut():
    narrow, wide = Screen(80), Screen(140)
    for screen in (narrow, wide):
        screen.trains()
        line = screen.bar()
        assert "\n" not in line and len(line) <= screen.width and "…" not in line
        assert "━" in line and "1000/1608" in line and "10:08 left" in line and "loss 4.778" in line
        screen.display.end()
    assert "token accuracy 0.3471  12,000 tokens/s" in line


def test_each_phase_begins_with_a_counter_of_its_own():
    screen = Screen(80)
    screen.shows("phase", name="data")
    screen.shows("rows", read=2604)
    assert "2,604 rows" in screen.bar()
    screen.shows("phase", name="evaluation before")
    assert "evaluation before" in screen.bar() and "rows" not in screen.bar()
    screen.trains()
    screen.shows("phase", name="checkpoint", step=1000)
    assert "checkpoint" in screen.bar() and "1000/1608" in screen.bar()  # training goes on after it
    screen.shows("phase", name="evaluation after")
    assert "evaluation after" in screen.bar() and not {"1000/1608", "loss", "left"} & set(screen.bar().split())
    screen.display.end()


def test_messages_break_between_words_on_a_terminal_and_never_on_a_pipe():
    path = "runs/" + "very_long_name_of_a_folder/" * 5
    text = f"the whole story of what went wrong here, as far as anybody could tell, is in {path} and nowhere else"
    for width in (40, 80, None):
        screen = Screen(width)
        screen.shows("note", text=text)
        screen.display.error(PipelineError(text, "Read it."))
        lines = screen.said().splitlines()
        assert set(text.split()) <= set(screen.said().split())
        assert all(len(line) <= width for line in lines if path not in line) if width else len(lines) == 3


def test_a_stage_that_logs_nothing_has_no_last_loss():
    screen = Screen()
    screen.trains()
    screen.shows("train", step=0, steps=12)  # the next stage
    screen.shows("step", step=12, tokens=10, at=1.0)
    screen.shows("phase", name="evaluation after")
    assert "trained to step 12" in screen.said() and "last loss" not in screen.said()


def test_what_is_rewarded_ends_with_its_reward_and_rounding_is_no_loss():
    screen = Screen()
    screen.display.stage = "rloo"
    screen.shows("train", step=0, steps=2)
    screen.shows("step", step=2, tokens=10, at=1.0)
    screen.shows("log", step=2, loss=-3.9e-9, reward=0.25, kl=0.046)
    screen.shows("phase", name="evaluation after")
    assert "rloo 2/2  loss 0  reward 0.25  KL a token 0.046" in screen.said()
    assert "; last reward 0.25" in screen.said() and "last loss" not in screen.said()


def test_the_kl_of_a_rollout_is_no_figure_of_held_out_rows():
    metrics = {"before": {"mean_reward": 1.0, "n": 8}, "after": {"mean_reward": 2.0, "n": 8, "kl": 2.2}}
    screen = Screen()
    tables.learned(screen.display, [{"stage": "rloo", "metrics": metrics}])
    row = next(line for line in screen.said().splitlines() if "KL" in line)
    assert row.split() == "KL of a response - 2.200 in the last rollout".split()


def test_held_out_figures_in_between_are_a_line():
    for screen in (Screen(), Screen(80)):
        screen.trains()
        screen.shows("evaluated", step=1000, metrics={"loss": 4.4251, "perplexity": 83.0, "n": 40, "exact_match": 0.5})
        screen.display.end()
        assert "held out at 1000/1608: loss 4.425  exact match 0.500" in screen.said()


def test_a_figure_that_reads_the_same_is_not_called_worse():
    metrics = {"before": {"loss": 0.6788, "n": 7}, "after": {"loss": 0.6791, "n": 7}}
    screen = Screen()
    tables.learned(screen.display, [{"stage": "reward", "metrics": metrics}])
    row = next(line for line in screen.said().splitlines() if "loss" in line)
    assert row.split() == "reward loss 0.679 0.679 7 few rows".split()


def test_few_held_out_rows_are_said_to_be_few():
    few, enough = (
        {"stage": stage, "metrics": {"before": {"loss": 2.0, "n": n}, "after": {"loss": 3.0, "n": n}}}
        for stage, n in (("sft", 8), ("dpo", 30))
    )
    screen = Screen()
    tables.learned(screen.display, [few, enough])
    rows = {line.split()[0]: line for line in screen.said().splitlines() if line.startswith(("sft", "dpo", "few"))}
    assert rows["sft"].rstrip().endswith("worse, few rows") and rows["dpo"].rstrip().endswith("worse")
    assert "of sft fewer than 30 held-out rows were measured" in rows["few"]
    screen = Screen()
    tables.learned(screen.display, [enough])
    assert "few" not in screen.said()


def test_rows_that_are_held_out_and_not_measured_are_not_called_none():
    none, asked = ({"max_rows": most} for most in (0, 200))
    for held_out, settings, words in (
        (7, none, "nothing measured"),
        (0, none, "no held-out"),
        (0, asked, "no held-out"),
    ):
        screen = Screen()
        manifest = {"stage": "sft", "metrics": {"before": {}, "after": {}}, "data": {"rows": {"held_out": held_out}}}
        tables.learned(screen.display, [manifest | {"evaluation": {"settings": settings}}])
        assert words in screen.said()


def test_hints_name_the_command_as_it_can_be_typed(tmp_path, monkeypatch):
    scripts = tmp_path / ".venv" / "bin"
    scripts.mkdir(parents=True)
    for name in ("align", "python"):
        (scripts / name).write_text("#!/bin/sh\n")
        (scripts / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.executable", str(scripts / "python"))
    error = PipelineError(
        "sft: align what you like.", "Run it: align run sft; `align gc` makes room.\nalign data check x"
    )

    def said() -> str:
        screen = Screen()
        screen.display.error(error)
        return screen.said()

    monkeypatch.setenv("PATH", "/nowhere")
    here = ".venv/bin/align"
    assert said() == (
        f"error: sft: align what you like.\nRun it: {here} run sft; `{here} gc` makes room.\n{here} data check x\n"
    )
    monkeypatch.setenv("PATH", str(scripts))
    assert "Run it: align run sft; `align gc`" in said()


def test_the_clock_of_the_speed_stands_still_while_something_else_is_done():
    screen = Screen()
    screen.display.stage = "sft"
    for kind, at, more in (
        ("train", 0, {"step": 0, "steps": 3}),
        ("step", 1, {"step": 1, "tokens": 100}),
        ("phase", 1, {"name": "evaluation", "step": 1}),
        ("phase", 91, {"name": "training", "step": 1}),
        ("step", 92, {"step": 2, "tokens": 200}),
        ("log", 92, {"step": 2, "loss": 1.5}),
        ("phase", 92, {"name": "evaluation after"}),
    ):
        screen.display.event({"kind": kind, "at": at} | more)
    assert "sft 2/3  loss 1.5  100 tokens/s  00:01 left" in screen.said()
    assert "trained to step 2 in 00:02, 100 tokens/s; last loss 1.5" in screen.said()


@pytest.mark.parametrize("last", [2, 4])  # of four steps: a pause with more of them to come, or behind the last
def test_an_evaluation_is_no_part_of_the_training(last):
    clock = Clock(at=100.0, steps=4)
    for step in range(1, last + 1):
        clock.stepped(100.0 + 10 * step, step, 50 * step)
    clock.pause(100.0 + 10 * last)
    clock.go_on(1100.0 + 10 * last)
    assert clock.taken == 10 * last and clock.speed == 5
    assert clock.left == (20 if last == 2 else None)
    for step in range(last + 1, 5):
        clock.stepped(1100.0 + 10 * step, step, 50 * step)
    assert clock.taken == 40 and clock.speed == 5


def test_a_stage_that_is_only_evaluated_is_not_said_to_be_trained():
    screen = Screen()
    screen.trains()
    screen.display.begin(Step("dpo", EVALUATE, "the evaluation changed"))
    screen.shows("phase", name="evaluation after")
    assert "trained to" not in screen.said()


def test_a_hint_of_every_command_is_told_as_it_is_typed(monkeypatch):
    monkeypatch.setattr(installing, "command", lambda: "here/align")
    for name in get_command(app).commands:
        assert installing.as_typed(f"Run `align {name} x`.") == f"Run `here/align {name} x`."


@pytest.mark.parametrize(("encoding", "printed"), [("utf-8", "问候 ✓"), ("gbk", "\\u95ee\\u5019 \\u2713")])
def test_json_can_be_read_and_is_escaped_where_the_output_has_no_such_characters(monkeypatch, encoding, printed):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    show_json({"question": "问候 ✓"}, indent=None)
    assert sys.stdout.buffer.getvalue().decode(encoding) == f'{{"question": "{printed}"}}\n'
