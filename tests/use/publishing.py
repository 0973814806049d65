"""A hub of this test's own, and `align` called in this process as a user calls it."""

import pytest
from hub import TOKEN, Hub
from typer import Typer

from pipeline.cli import publishing
from pipeline.cli.main import app
from pipeline.errors import PipelineError


@pytest.fixture(name="hub")
def own_hub(tmp_path, monkeypatch):
    """An empty hub, which this process asks with the token of its owner."""
    from huggingface_hub import constants

    hub = Hub()
    cache = str(tmp_path / "cache")
    said = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": cache,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(tmp_path / "token"),
    }
    for name, value in said.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_HUB_CACHE", cache)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield hub
    hub.close()


@pytest.fixture(name="call")
def in_this_process(chain, capsys, monkeypatch):
    """`align` in the folder of the micro chain: (exit code, what it says)."""
    monkeypatch.chdir(chain)
    monkeypatch.setattr(publishing, "_quiet", lambda: None)  # it is of the whole process

    def called(*arguments: object, of: Typer = app) -> tuple[int, str]:
        code = 0
        try:
            code = of([*map(str, arguments)], standalone_mode=False) or 0
        except PipelineError as error:
            code = error.exit_code
            print(error)
        return code, capsys.readouterr().out

    return called
