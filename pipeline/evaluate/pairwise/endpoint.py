"""A model behind an OpenAI-compatible address (https://platform.openai.com/docs/api-reference/chat), asked one thing at a time."""

import os
import time

import httpx

from pipeline.errors import PipelineError
from pipeline.recipe.judging import Judge

WAIT, LONGEST_WAIT = 0.5, 20.0  # seconds before another try: doubled each time, or what the server asks for
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}  # HTTP codes after which another try may go well
SHOWN = 200  # characters of what a server says

TIMED_OUT, REFUSED, UNREACHABLE, NONSENSE = "timed out", "refused", "unreachable", "nonsense"


class NoAnswer(Exception):
    """`reason` is one of the four above."""

    def __init__(self, reason: str, said: str):
        super().__init__(f"{reason}: {said}")
        self.reason, self.said = reason, said


class Endpoint:
    """Threads may share it. The key is read from the environment, and is in no message."""

    def __init__(self, judge: Judge):
        self.judge = judge
        self._key = os.environ.get(judge.key_from, "").strip() if judge.key_from else ""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=judge.at_once)
        self._client = httpx.Client(headers=headers, timeout=judge.timeout, limits=limits)

    def check(self) -> None:
        """That there is someone who answers. Raises PipelineError with the fix."""
        where = f"evaluation.judge: {self.judge.url}"
        try:
            self.once("Answer with one word: yes.")
        except NoAnswer as error:
            code = error.__cause__.response.status_code if isinstance(error.__cause__, httpx.HTTPStatusError) else 0
            fix = "Start the judge, or correct evaluation.judge.url: an OpenAI-compatible address, which often ends in /v1."
            if code in (401, 403):
                fix = "Put its key into an environment variable, and name that in evaluation.judge.key_from."
            elif code in (400, 404, 422):
                fix = "Correct evaluation.judge: url, model, or options, which go into each request as they are."
            elif error.reason == TIMED_OUT:
                fix = "Raise evaluation.judge.timeout (seconds), or look what the judge does."
            elif error.reason == NONSENSE:
                return  # it answers; what its answers are worth is seen later
            raise PipelineError(f"{where}: {error}.", fix) from None

    def ask(self, question: str, understood=lambda text: True) -> str:
        """Its answer, where need be after another try. Raises NoAnswer.

        An answer that `understood` is false of is nonsense.
        """
        for tried in range(1, self.judge.tries + 1):
            try:
                text = self.once(question)
                if understood(text):
                    return text
                raise NoAnswer(NONSENSE, f'"{self._shown(text)}"')
            except NoAnswer as error:
                if tried == self.judge.tries or error.reason == REFUSED:
                    raise
                if error.reason != NONSENSE:
                    time.sleep(min(self._wait(error, tried), LONGEST_WAIT))
        raise AssertionError("a try either answers or raises")

    def once(self, question: str) -> str:
        body = self.judge.options | {"model": self.judge.model, "messages": [{"role": "user", "content": question}]}
        try:
            response = self._client.post(f"{self.judge.url}/chat/completions", json=body)
            response.raise_for_status()
        except httpx.TimeoutException as error:
            raise NoAnswer(TIMED_OUT, f"no answer in {self.judge.timeout:g} s") from error
        except httpx.HTTPStatusError as error:
            code = error.response.status_code
            said = f"HTTP {code}: {self._shown(error.response.text)}"
            raise NoAnswer(UNREACHABLE if code in _AGAIN else REFUSED, said) from error
        except httpx.HTTPError as error:
            raise NoAnswer(UNREACHABLE, self._shown(str(error) or type(error).__name__)) from error
        try:
            message = response.json()["choices"][0]["message"]
            refusal, text = message.get("refusal"), message["content"]
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise NoAnswer(NONSENSE, f"no chat completion: {self._shown(response.text)}") from None
        if refusal:
            raise NoAnswer(REFUSED, self._shown(str(refusal)))
        if not isinstance(text, str):
            raise NoAnswer(NONSENSE, "an answer without text")
        return text

    def close(self) -> None:
        self._client.close()

    def _shown(self, text: str) -> str:
        """A server may say back what it was sent."""
        text = text.replace(self._key, "***") if self._key else text
        return " ".join(text.split())[:SHOWN]

    @staticmethod
    def _wait(error: NoAnswer, tried: int) -> float:
        response = getattr(error.__cause__, "response", None)
        asked = response.headers.get("retry-after", "") if response is not None else ""
        return float(asked) if asked.isdigit() else WAIT * 2 ** (tried - 1)
