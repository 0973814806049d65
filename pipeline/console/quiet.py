"""One of many runs of a command: a bar on a terminal, and nothing more; who started it says what came of it."""

from pipeline.console.display import Display


class Quiet(Display):
    """Shows where a run stands, under the name that it was given."""

    name = ""

    def event(self, event: dict) -> None:
        if event["kind"] == "train" and self.console.is_terminal:
            self._steps = event["steps"]
            self._show(self.name, total=event["steps"], completed=event["step"])
        elif event["kind"] == "step":
            self._update(completed=event["step"], count=f"{event['step']}/{self._steps}" if self.bar else "")
