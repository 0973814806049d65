"""What trackers are told of a log, by whom it is begun and ended, and what becomes of a stage when one fails."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from read_back import in_tensorboard, in_wandb
from transformers import TrainerCallback
from transformers.integrations import integration_utils
from wandb_service import Service

from pipeline.artifact.attempt import Attempt
from pipeline.train.trackers import tracking
from pipeline.train.trackers.tracker import About
from pipeline.train.trackers.tracking import Tracking

LINES = [
    {"step": 2, "loss": 3.0},
    {"step": 4, "loss": 2.0},
    {"step": 4, "eval_loss": 2.5},
    {"step": 4, "train_runtime": 1.0, "train_loss": 2.5},
]
MANIFEST = {
    "metrics": {"before": {"loss": 4.0}, "after": {"loss": 2.5, "kl": 0.1}},
    "samples": [{"prompt": "a|b", "before": "<script>\n\\", "after": "x" * 3000}],
    "steps": 4,
    "tokens": 9,
    "seconds": {"training": 1.5},
}
WHOLE = [(0, {"eval/loss": 4.0}), (2, {"train/loss": 3.0}), (4, {"train/loss": 2.0, "eval/loss": 2.5, "eval/kl": 0.1})]


class Told:
    """A tracker that keeps what it is told, or fails."""

    def __init__(self, about, note):
        self.held, self.rows, self.ended, self.described = -1, [], None, {"where": "here"}
        self.breaks_at = None

    def open(self):
        pass

    def row(self, step, figures):
        if step == self.breaks_at:
            raise ConnectionError(f"no network, and the key is {'k' * 40}")
        self.rows.append((step, dict(figures)))

    def caught_up(self):
        pass

    def finish(self, manifest):
        self.ended = manifest

    def close(self, finished):
        self.closed = finished


@pytest.fixture
def about(tmp_path) -> About:
    folder = tmp_path / "micro" / "stage" / "0123456789ab"
    folder.mkdir(parents=True)
    return About("micro", "stage", Attempt(folder), {"fingerprint": "0123456789ab"})


@pytest.fixture
def told(about, monkeypatch):
    """(a tracking of one tracker, that tracker, what was reported)"""
    reports = []
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setitem(tracking.KINDS, "tensorboard", "Told")
    monkeypatch.setattr(tracking.importlib, "import_module", lambda _: SimpleNamespace(Told=Told))
    made = Tracking(["tensorboard"], about, lambda kind, **said: reports.append(said["text"]))
    made.begin({"loss": 4.0})
    return made, made._open["tensorboard"], reports


def log(about: About, lines: list[dict]) -> None:
    (about.attempt.folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def live(made: Tracking, lines: list[dict], steps: int = 4) -> None:
    for line in lines:
        logs = {key: value for key, value in line.items() if key != "step"}
        made.on_log(None, SimpleNamespace(global_step=line["step"], max_steps=steps), None, logs=logs)


def test_a_step_is_told_whole_and_the_figures_before_and_after_are_those_of_its_ends(told):
    made, tracker, _ = told
    made.catch_up(4)
    live(made, LINES)
    assert tracker.rows == WHOLE[:2]
    made.finish(MANIFEST)
    assert tracker.rows == WHOLE and tracker.ended is MANIFEST and tracker.closed is True


@pytest.mark.parametrize("logged", [0, 1, 3])
@pytest.mark.parametrize("held", [-1, 0, 2])
def test_what_is_logged_already_is_told_as_far_as_the_tracker_lacks_it(told, about, logged, held):
    made, tracker, _ = told
    tracker.held = held
    log(about, LINES[:logged])
    made.catch_up(4)
    live(made, LINES[logged:])
    made.finish(MANIFEST)
    assert tracker.rows == [row for row in WHOLE if row[0] > held]


def test_a_step_that_may_not_be_whole_is_left_to_the_run_that_goes_on(told):
    made, tracker, _ = told
    made.catch_up(4)
    live(made, LINES[:2])
    made.close()
    assert tracker.rows == WHOLE[:2] and tracker.closed is False


def test_a_tracker_that_fails_stops_nothing_and_is_told_of_once(told, capsys):
    made, tracker, reports = told
    tracker.breaks_at = 2
    made.catch_up(4)
    live(made, LINES)
    made.finish(MANIFEST)
    said = "tensorboard failed (ConnectionError: no network, and the key is ***); the stage goes on without it"
    assert reports == [said] and made.summary() == {"tensorboard": {"where": "here", "failed": said}}
    assert tracker.rows == WHOLE[:1] and tracker.ended is None
    assert "Traceback" in (output := capsys.readouterr().out) and "k" * 40 not in output


def test_tensorboard_is_written_anew_and_shows_text_as_it_is(about):
    for _ in range(2):
        log(about, LINES)
        made = Tracking(["tensorboard"], about, lambda kind, **said: pytest.fail(said["text"]))
        made.begin({"loss": 4.0})
        made.catch_up(4)
        made.finish(MANIFEST)
    points, texts = in_tensorboard(about.attempt.curves)
    assert points == sorted(
        (name, step, pytest.approx(value)) for step, figures in WHOLE for name, value in figures.items()
    )
    assert r"| a\|b | &lt;script&gt;<br>\\ | " + "x" * 2000 + "… |" in texts["samples"]
    assert len(list(about.attempt.curves.iterdir())) == 1


@pytest.fixture
def service(monkeypatch):
    """Stands for W&B's; W&B itself is the real one."""
    service = Service()
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", service.address)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr("pipeline.train.trackers.wandb.PATIENCE", 5)
    wandb.teardown()  # it has read its settings before
    yield service
    wandb.teardown()
    service.close()


def told_online(about: About, lines: list[dict], *, ends: bool) -> tuple[Tracking, list[str]]:
    reports = []
    made = Tracking(["wandb"], about, lambda kind, **said: reports.append(said["text"]))
    made.begin({"loss": 4.0})
    made.catch_up(4)
    live(made, lines)
    made.finish(MANIFEST | {"samples": []}) if ends else made.close()
    return made, reports


def test_online_a_resumed_run_goes_on_behind_what_the_service_has(about, service):
    _, wrong = told_online(about, LINES[:2], ends=False)
    assert service.rows("0123456789ab") == WHOLE[:2] and not wrong
    made, wrong = told_online(about, LINES, ends=True)
    assert service.rows("0123456789ab") == WHOLE and not wrong
    assert made.summary()["wandb"]["mode"] == "online" and service.runs["0123456789ab"]["exit"] == 0
    summary = json.loads(service.runs["0123456789ab"]["summary"])
    assert summary["before/loss"] == 4.0 and summary["after/kl"] == 0.1 and summary["tokens"] == 9


def test_online_another_attempt_of_the_same_name_is_another_run(about, service):
    service.runs["0123456789ab"] = {"history": ['{"_step": 4}'], "summary": "{}"}
    told_online(about, LINES[:2], ends=False)
    made, wrong = told_online(about, LINES, ends=True)
    name = made.summary()["wandb"]["id"]
    assert name.startswith("0123456789ab-") and service.rows(name) == WHOLE and len(service.runs) == 2 and not wrong


def test_without_its_service_wandb_keeps_all_on_this_machine_and_says_so(about, service):
    service.close()
    made, (said,) = told_online(about, LINES, ends=True)
    kept = made.summary()["wandb"]
    assert said.startswith("wandb could not be reached") and said.endswith(f"wandb sync {kept['folder']}")
    assert kept["mode"] == "offline" and kept["failed"] == said
    points, summary, _ = in_wandb(about.attempt.folder.parent.parent / "wandb", "0123456789ab")
    assert points == sorted((name, step, value) for step, figures in WHOLE for name, value in figures.items())
    assert summary["after/loss"] == 2.5


def test_a_service_that_goes_away_in_the_middle_costs_a_moment_and_is_told_of(about, service):
    reports = []
    made = Tracking(["wandb"], about, lambda kind, **said: reports.append(said["text"]))
    made.begin({"loss": 4.0})
    made.catch_up(4)
    live(made, LINES[:2])
    service.close()
    live(made, LINES[2:])
    made.finish(MANIFEST | {"samples": []})
    (said,) = reports
    assert "wandb failed (TimeoutError" in said and ".venv/bin/wandb sync" in said
    points, *_ = in_wandb(about.attempt.folder.parent.parent / "wandb", "0123456789ab")
    assert points == sorted((name, step, value) for step, figures in WHOLE for name, value in figures.items())


def test_transformers_integrations_are_told_once_and_may_fail(about, monkeypatch):
    told = []

    class Their(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            told.append(state.global_step)
            if state.global_step == 3:
                raise RuntimeError("no server")

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "mlflow", Their)
    reports = []
    for steps in ((1, 2), (1, 2, 3, 4)):
        added = []
        state = SimpleNamespace(global_step=0, max_steps=0)
        trainer = SimpleNamespace(add_callback=added.append, state=state, args=None, control=None)
        made = Tracking(["mlflow"], about, lambda kind, **said: reports.append(said["text"]))
        with made.of(trainer, {}):
            for step in steps:
                for one in added:
                    one.on_log(None, SimpleNamespace(global_step=step), None, logs={"loss": 1.0})
    assert told == [1, 2, 3]
    assert reports == ["mlflow failed (RuntimeError: no server); the stage goes on without it"]
    assert Path(about.attempt.folder / "told.json").is_file()
