"""What a person sees: a moving bar on a terminal, plain lines on a pipe."""

import os
import pty
import subprocess
import sys

from conftest import align, write_micro


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
    assert "Traceback" not in text and "━" in text and "60/60" in text and "tokens/s" in text


def test_what_libraries_print_goes_to_the_stages_log(chain):
    logs = list((chain / "runs").rglob("stage.log"))
    assert len(logs) == 5 and all("evaluation before" in log.read_text() for log in logs)
