"""The server, asked by OpenAI's own client, by hand, and by a browser."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
import torch
import uvicorn
from answers import collected, text_of, tokens_of
from browser import browser

from pipeline.cli.main import app
from pipeline.errors import PipelineError
from pipeline.use.asking import chat_request
from pipeline.use.engine.engine import Engine
from pipeline.use.engine.lane import Answer
from pipeline.use.engine.request import Request as Asked
from pipeline.use.engine.request import Sampling, Ticket
from pipeline.use.serve import vllm
from pipeline.use.serve.app import make_app
from pipeline.use.serve.start import Place, check_installed, key_of
from pipeline.use.subject import all_of

DRAWN = {"temperature": 1.5, "seed": 3, "max_tokens": 12}
ASK = [{"role": "user", "content": "Which colour has bana?"}]


class Running:
    def __init__(self, policies, engine, **options):
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        config = uvicorn.Config(make_app(policies, engine, **options), log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._server.install_signal_handlers = lambda: None
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def client(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=key, max_retries=0, timeout=60)

    def post(self, path: str, body: object, **headers: str) -> tuple[int, dict]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, headers)
        reply = connection.getresponse()
        return reply.status, json.load(reply)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()


@pytest.fixture(scope="module")
def running(policies, engine):
    running = Running(policies, engine, page=True)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def client(running):
    return running.client()


def test_every_model_is_listed(client):
    assert [one.id for one in client.models.list()] == ["sft", "dpo", "base"]
    assert client.models.retrieve("dpo").id == "dpo"


def test_chat_answers_as_the_engine_does_and_each_model_otherwise(client, policies, engine):
    answers = [client.chat.completions.create(model=name, messages=ASK, **DRAWN) for name in ("sft", "dpo", "base")]
    for policy, answer in zip(policies, answers, strict=True):
        asked = chat_request(policy, ASK, 12, Sampling(temperature=1.5, seed=3))
        pieces = collected(engine, asked)[0]
        assert answer.choices[0].message.content == text_of(pieces)
        assert answer.choices[0].finish_reason == pieces[-1].finish
        assert answer.usage.prompt_tokens == len(asked.ids) and answer.usage.completion_tokens == pieces[-1].count
    assert len({one.choices[0].message.content for one in answers}) == 3


def test_stream_says_what_the_whole_answer_says(client):
    options = {"model": "dpo", "messages": ASK, "n": 3, "logprobs": True, "top_logprobs": 2, **DRAWN}
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].usage == whole.usage and not chunks[-1].choices
    for choice in whole.choices:
        parts = [part for chunk in chunks for part in chunk.choices if part.index == choice.index]
        assert parts[0].delta.role == "assistant" and len(parts) > 4
        assert "".join(part.delta.content or "" for part in parts) == choice.message.content
        assert [part.finish_reason for part in parts if part.finish_reason] == [choice.finish_reason]
        streamed = [one for part in parts if part.logprobs for one in part.logprobs.content]
        assert [one.token for one in streamed] == [one.token for one in choice.logprobs.content]
        assert all(len(one.top_logprobs) == 2 for one in streamed)
    assert len({choice.message.content for choice in whole.choices}) == 3
    again = client.chat.completions.create(**options)
    assert [one.message.content for one in again.choices] == [one.message.content for one in whole.choices]


def test_completions_go_on_in_texts_and_tokens(client, policies):
    ids = policies[0].tokenizer("The colour of").input_ids
    made = client.completions.create(model="base", prompt=["The colour of", "Green"], n=2, logprobs=1, **DRAWN)
    assert [one.index for one in made.choices] == [0, 1, 2, 3] and made.usage.completion_tokens <= 48
    first = made.choices[0]
    assert client.completions.create(model="base", prompt=ids, **DRAWN).choices[0].text == first.text
    assert len(first.logprobs.tokens) == len(first.logprobs.token_logprobs) == len(first.logprobs.top_logprobs)
    streamed = client.completions.create(model="base", prompt="The colour of", stream=True, **DRAWN)
    assert "".join(chunk.choices[0].text for chunk in streamed) == first.text
    assert client.completions.create(model="base", prompt=ids, temperature=0).usage.completion_tokens == 16


def test_stop_texts_end_answers_in_both_forms(client):
    options = {"model": "sft", "messages": ASK, **DRAWN, "max_tokens": 30}
    whole = client.chat.completions.create(**options).choices[0].message.content
    stop = whole[6:9]
    stopped = client.chat.completions.create(**options, stop=[stop]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (whole[: whole.index(stop)], "stop")
    chunks = client.chat.completions.create(**options, stop=stop, stream=True)
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == stopped.message.content


BAD = [
    ({"temperature": 3}, 400, "temperature", "less than or equal to 2"),
    ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
    ({"temperature": "hot"}, 400, "temperature", "valid number"),
    ({"tools": [{"type": "function"}]}, 400, "tools", "tools is not supported"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format", "would be ignored"),
    ({"temprature": 1}, 400, "temprature", "did you mean temperature"),
    ({"top_logprobs": 3}, 400, None, "needs logprobs"),
    ({"stop": ""}, 400, "stop", "at least 1 character"),
    ({"stream_options": {"include_usage": True}}, 400, None, "needs stream: true"),
    ({"model": "spt"}, 404, "model", "there are sft, dpo, base"),
    ({"messages": []}, 400, "messages", "at least 1 item"),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages", "the role 'robot'"),
    ({"messages": [*ASK, {"role": "assistant", "content": "red"}]}, 400, "messages", "ends with an assistant's turn"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages", "'image_url'"),
    ({"messages": [{"role": "user", "content": "word " * 90}]}, 400, "messages", "the model's context is 64"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, None, "Half of a character ('\\ud800')"),
    ({"stop": "\udfff"}, 400, None, "Half of a character"),
    ({"frequency_penalty": 3}, 400, "frequency_penalty", "less than or equal to 2"),
    ({"echo": True}, 400, "echo", "echo is not supported"),
]


@pytest.mark.parametrize(
    ("change", "status", "param", "says"), BAD, ids=[f"{next(iter(one[0]))}-{number}" for number, one in enumerate(BAD)]
)
def test_bad_request_is_refused_by_name(running, change, status, param, says):
    code, told = running.post("/v1/chat/completions", {"model": "sft", "messages": ASK} | change)
    assert (code, told["error"]["param"], told["error"]["type"]) == (status, param, "invalid_request_error"), told
    assert says in told["error"]["message"]


def test_what_clients_send_anyway_is_taken_where_it_changes_nothing(client):
    neutral = {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "user": "someone", "tools": []}
    neutral |= {"response_format": {"type": "text"}, "store": False}
    options = {"model": "sft", "messages": ASK, **DRAWN}
    answers = {client.chat.completions.create(**options, **more).choices[0].message.content for more in ({}, neutral)}
    assert len(answers) == 1


def test_penalties_change_what_is_said(client, policies, engine):
    options = {"model": "sft", "messages": ASK, "temperature": 0, "max_tokens": 20}
    plain = client.chat.completions.create(**options)
    for key in ("frequency_penalty", "presence_penalty"):
        answer = client.chat.completions.create(**options, **{key: 2})
        pieces = collected(engine, chat_request(policies[0], ASK, 20, Sampling(**{key: 2.0})))[0]
        assert answer.choices[0].message.content == text_of(pieces) != plain.choices[0].message.content


def test_echo_has_the_prompt_and_what_the_model_makes_of_it(client, policies):
    """As a harness reads it that scores given texts: a token for each of the prompt's, and those generated after them."""
    tokenizer, model = policies[2].tokenizer, policies[2].transformer
    ids = tokenizer("The colour of bana is green.").input_ids
    options = {"model": "base", "echo": True, "logprobs": 2, "temperature": 0}
    with policies[2].acting() as base, torch.no_grad():
        scores = base(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [scores[at - 1, ids[at]].item() for at in range(1, len(ids))]
    (one,) = client.completions.create(prompt=ids, max_tokens=0, **options).choices
    assert one.text == tokenizer.decode(ids, skip_special_tokens=True) and one.finish_reason == "length"
    assert one.logprobs.token_logprobs[0] is None and one.logprobs.top_logprobs[0] is None
    assert one.logprobs.token_logprobs[1:] == pytest.approx(expected, abs=1e-4)
    assert all(
        max(top.values()) == pytest.approx(scores[at].max().item(), abs=1e-4)
        for at, top in enumerate(one.logprobs.top_logprobs[1:])
    )
    for token, at in zip(one.logprobs.tokens[1:], one.logprobs.text_offset[1:], strict=True):
        assert one.text[at:].lstrip().startswith(token.strip())
    more = client.completions.create(prompt=[ids, ids[:4]], max_tokens=3, **options)
    for choice, length in zip(more.choices, (len(ids), 4), strict=True):
        assert length < len(choice.logprobs.tokens) <= length + 3
        assert choice.logprobs.token_logprobs[1:length] == pytest.approx(expected[: length - 1], abs=1e-4)
    assert more.usage.prompt_tokens == len(ids) + 4 and more.usage.completion_tokens <= 6
    streamed = client.completions.create(prompt=ids, max_tokens=3, stream=True, **options)
    parts = [chunk.choices[0] for chunk in streamed]
    assert "".join(part.text for part in parts) == more.choices[0].text
    assert [at for part in parts if part.logprobs for at in part.logprobs.text_offset] == more.choices[
        0
    ].logprobs.text_offset
    text = client.completions.create(model="base", prompt="The colour", echo=True, max_tokens=4, temperature=0)
    assert text.choices[0].text.startswith("The colour") and len(text.choices[0].text) > len("The colour")
    assert model is policies[0].transformer  # one base in memory


def test_token_that_ends_an_echoed_answer_is_counted(policies):
    """A harness leaves the last token out as the one that was generated."""
    end, pieces = policies[0].tokenizer.eos_token_id, []
    for echo, told in (("so far", [end]), (None, [])):
        asked = Asked("sft", [5, 6], 1, Sampling(), logprobs=1, continues=True, echo=echo)
        answer = Answer(asked, policies[0], Ticket(), pieces.append)
        assert answer.take(end, (-0.5, [end], [-0.5])) and pieces[-1].finish == "stop"
        assert [token.id for token in tokens_of(pieces[-1:])] == told
    assert not sum(token.letters for token in tokens_of(pieces))


def test_nothing_is_generated_only_where_the_prompt_is_told(running):
    code, told = running.post("/v1/completions", {"model": "sft", "prompt": "x", "max_tokens": 0})
    assert code == 400 and "max_tokens: 0 needs echo" in told["error"]["message"]


def test_server_that_is_ended_tells_who_is_still_being_answered(chain, endless):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pipeline.cli", "serve", str(endless), "-r", "micro.yaml", "--port", str(port)]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=chain, **piped) as process, ThreadPoolExecutor(2) as pool:
        try:
            while "OpenAI clients take" not in (line := process.stdout.readline()):
                assert line
            client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)

            def ask(stream: bool):
                made = client.chat.completions.create(model=str(endless), messages=ASK, stream=stream)
                return list(made) if stream else made

            asked = [pool.submit(ask, stream) for stream in (True, False)]
            with_health = f"http://127.0.0.1:{port}/health"
            waits_until(lambda: json.load(urllib.request.urlopen(with_health))["requests"] == 2)
            process.send_signal(signal.SIGTERM)
            errors = [str(one.exception(30)) for one in asked]
            said, complaints = process.communicate(timeout=30)
        finally:
            process.kill()
    assert all("The server was ended before the answer was" in error for error in errors), errors
    assert "Ending: 2 answers under way" in said and "Traceback" not in complaints


def test_errors_of_every_kind_have_openais_shape(running, client):
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="sft", prompt=list(range(70)))
    assert error.value.code == "context_length_exceeded" and error.value.param == "prompt"
    for path, body, status in (("/v1/chat/completions", b"{", 400), ("/v1/nothing", {}, 404), ("/health", {}, 405)):
        code, told = running.post(path, body)
        assert (
            code == status and told["error"]["message"] and set(told["error"]) == {"message", "type", "param", "code"}
        )
    code, told = running.post("/v1/completions", {"model": "sft", "prompt": [99999]})
    assert code == 400 and "99999 is no token" in told["error"]["message"]


def test_only_who_has_the_key_is_let_in_and_no_page_of_another_site(policies, engine, running):
    guarded = Running(policies, engine, key="right-key")
    assert guarded.client("right-key").models.list().data
    for key in ("wrong", ""):
        with pytest.raises(openai.AuthenticationError, match="API key is missing or wrong"):
            guarded.client(key or "x").models.list()
    with urllib.request.urlopen(f"http://127.0.0.1:{guarded.port}/health") as reply:
        assert json.load(reply)["status"] == "ok"
    guarded.stop()
    body = {"model": "sft", "messages": ASK, "max_tokens": 1}
    assert running.post("/v1/chat/completions", body, Origin="https://elsewhere.example")[0] == 403
    assert running.post("/v1/chat/completions", body, Host="elsewhere.example")[0] == 403
    assert running.post("/v1/chat/completions", body, Origin=f"http://127.0.0.1:{running.port}")[0] == 200


def waits_until(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
def test_client_that_hangs_up_frees_its_place(policies, stream, monkeypatch):
    from pipeline.use.engine.lane import Lane

    real, steps = Lane._advance, []

    def slow(self, model):
        steps.append(len(self))
        time.sleep(0.05)
        real(self, model)

    monkeypatch.setattr(Lane, "_advance", slow)
    engine = Engine(policies[:1], most_rows=1)
    running = Running(policies[:1], engine)
    body = json.dumps({"model": "sft", "messages": ASK, "stream": stream, **DRAWN, "max_tokens": 40}).encode()
    connections = []
    for _ in range(2):  # one is answered, the other waits
        connections.append(http.client.HTTPConnection("127.0.0.1", running.port))
        connections[-1].request("POST", "/v1/chat/completions", body)
    waits_until(lambda: engine.under_way == 2 and steps)
    for connection in connections:
        connection.sock.close()
        connection.close()
    waits_until(lambda: engine.under_way == 0)
    assert len(steps) < 30
    running.stop()
    engine.close()


def test_two_hundred_at_once_are_all_answered(client):
    def ask(number: int) -> str:
        answer = client.chat.completions.create(
            model=("sft", "dpo")[number % 2], messages=ASK, temperature=1.5, seed=number % 4, max_tokens=4
        )
        return answer.choices[0].message.content

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(ask, range(200)))
    assert len(answers) == 200 and all(answers[number] == answers[number % 4] for number in range(200))


def test_more_than_may_wait_are_told_to_come_back(policies, monkeypatch):
    from pipeline.use.engine.lane import Lane

    held, real = threading.Event(), Lane.step
    monkeypatch.setattr(Lane, "step", lambda self: (held.wait(30), real(self))[1])
    engine = Engine(policies[:1], most_rows=1, most_waiting=2)
    running = Running(policies[:1], engine)
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(running.client().chat.completions.create, model="sft", messages=ASK, **DRAWN) for _ in range(2)
        ]
        waits_until(lambda: engine.waiting == 2)
        with pytest.raises(openai.RateLimitError, match="2 requests wait"):
            running.client().chat.completions.create(model="sft", messages=ASK, n=2)
        assert engine.waiting == 2
        held.set()
        assert all(one.result(30).choices for one in asked)
    running.stop()
    engine.close()


def test_place_and_key(tmp_path, monkeypatch):
    monkeypatch.delenv("ALIGN_API_KEY", raising=False)
    for host in ("0.0.0.0", "::", "192.168.1.2", "some.name"):
        with pytest.raises(PipelineError, match="there is no key"):
            Place(host, 8000, key_of(None))
    (tmp_path / "key").write_text(" secret-word\n")
    assert Place("0.0.0.0", 8000, key_of(tmp_path / "key")).key == "secret-word" not in Place("::1", 80).url
    (tmp_path / "key").write_text("")
    with pytest.raises(PipelineError, match="holds no API key"):
        key_of(tmp_path / "key")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PipelineError, match=f"--port {port + 1}"):
            Place("127.0.0.1", port).bound()


def test_missing_packages_are_named_with_what_installs_them(monkeypatch):
    monkeypatch.setattr("pipeline.use.serve.start.find_spec", lambda name: None)
    with pytest.raises(PipelineError, match="starlette and uvicorn are not installed") as error:
        check_installed()
    assert "make serve" in error.value.fix and error.value.exit_code == 2


def test_vllm_is_told_all_that_was_trained(chain, monkeypatch, recipe):
    monkeypatch.chdir(chain)
    subjects = all_of(["sft", "dpo"], recipe, Path("runs"), "serve")
    made = vllm.command("/there/vllm", subjects, Place("127.0.0.1", 8100), 16)
    assert made[:3] == ["/there/vllm", "serve", subjects[0].base.source]
    assert {"--enable-lora", "--max-lora-rank", "8"} < set(made)
    assert made[made.index("--tokenizer") + 1] == str(subjects[0].folder)
    modules = [json.loads(one) for one in made[made.index("--lora-modules") + 1 :]]
    assert modules == [{"name": one.name, "path": str(one.folder)} for one in subjects]
    whole = vllm.command("/there/vllm", all_of(["pretrain"], recipe, Path("runs"), "serve"), Place("::1", 80), 4)
    assert "--enable-lora" not in whole and whole[whole.index("--served-model-name") + 1] == "pretrain"


def test_vllm_is_refused_what_it_would_not_take(chain, monkeypatch, recipe, tmp_path):
    monkeypatch.chdir(chain)
    subject = all_of(["sft"], recipe, Path("runs"), "serve")[0]
    config = json.loads((subject.folder / "adapter_config.json").read_text())
    for change, says in {"trainable_token_indices": "tokens that the base has not", "use_dora": "DoRA"}.items():
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | {change: [1]}))
        monkeypatch.setattr("pipeline.use.subject.Subject.is_adapter", True)
        with pytest.raises(PipelineError, match=says):
            vllm._rank(type(subject)(**{**subject.__dict__, "folder": tmp_path}))
    monkeypatch.setenv("VLLM", "/nowhere/vllm")
    with pytest.raises(PipelineError, match="vLLM is not installed"):
        app(["serve", "sft", "-r", "micro.yaml", "--engine", "vllm"], standalone_mode=False)


def test_killed_server_starts_again_at_its_port(chain):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pipeline.cli", "serve", "-r", "micro.yaml", "--port", str(port)]
    for end in (signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen(command, cwd=chain, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
            try:
                said = ""
                while "OpenAI clients take" not in said:
                    line = process.stdout.readline()
                    assert line, said
                    said += line
                answer = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=3)
                made = answer.chat.completions.create(model="ppo", messages=ASK, max_tokens=3)
                assert made.usage.completion_tokens <= 3 and "pretrain  runs/micro" in said
            finally:
                process.send_signal(end)
                process.wait(30)


def test_page_streams_two_models_side_by_side_in_a_browser(running, tmp_path):
    with browser() as page:
        page.open(f"http://127.0.0.1:{running.port}/")
        page.wait_for("document.getElementById('first').options.length === 3")
        choose = "const s = document.getElementById('{}'); s.value = '{}'; s.dispatchEvent(new Event('change'))"
        assert page.run("return document.getElementById('locked').offsetParent") is None  # no key is asked for
        page.run(choose.format("first", "sft"))
        page.run(choose.format("second", "dpo"))
        for name, value in (("temperature", "1.5"), ("seed", "3"), ("max_tokens", "20")):
            page.type(f"#{name}", value)
        page.type("#question", ASK[0]["content"] + "\n")
        page.wait_for("[...document.querySelectorAll('small')].filter(one => one.textContent).length === 2")
        texts = page.run("return [...document.querySelectorAll('.assistant')].map(one => one.textContent)")
        options = DRAWN | {"max_tokens": 20}
        expected = [
            running.client().chat.completions.create(model=name, messages=ASK, **options).choices[0].message.content
            for name in ("sft", "dpo")
        ]
        assert texts == expected and texts[0] != texts[1]
        page.type("#question", "<b>word</b> " * 40 + "\n")  # neither mark-up nor short enough
        page.wait_for("document.querySelectorAll('.error').length === 2")
        assert "context is 64" in page.run("return document.querySelector('.error').textContent")
        page.wait_for("document.getElementById('question').value.includes('word')")  # to be mended, not typed anew
        assert page.run("return document.querySelectorAll('b').length") == 0
        page.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 5000
