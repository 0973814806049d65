"""To the hub, with its own client: one commit, so that a repository is what it was or what was meant, and nothing between."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifact.digests import file_sha256
from pipeline.errors import MachineError, PipelineError
from pipeline.plan.parents import where_it_lies
from pipeline.use import lineage
from pipeline.use.card import TAG
from pipeline.use.known import CARD
from pipeline.use.publication import OnTheHub, Publication

_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_EMPTY = {".gitattributes"}  # what a new repository has


@dataclass(frozen=True)
class Pushed:
    url: str
    commit: str
    new: bool  # False: all of it was there already


class Hub:
    """One repository of models. What is private is read, and all is written, with the token of HF_TOKEN or `hf auth login`."""

    def __init__(self, name: str):
        from huggingface_hub import HfApi, constants

        if not _NAME.fullmatch(name):
            raise PipelineError(f"{name}: is no repository of the hub.", "Write it as owner/name.")
        if constants.HF_HUB_OFFLINE:
            raise PipelineError(f"{name}: HF_HUB_OFFLINE is set, so the hub is not asked.", "Unset it.")
        self.name, self.api = name, HfApi()

    def state(self):
        """What the hub says of the repository; None where there is none that this account can see."""
        from huggingface_hub.errors import RepositoryNotFoundError

        with self._asking("cannot be asked for"):
            try:
                return self.api.model_info(self.name, files_metadata=True)
            except RepositoryNotFoundError:
                return None

    def check(self, state, publication: Publication, public: bool, force: bool) -> None:
        """Refuse to write over what is not an earlier state of the same, or to show what was meant to be private."""
        if state is None:
            return
        files = {one.rfilename for one in state.siblings or ()}
        if not (files <= _EMPTY or force):
            self._check_holds(publication, self._card(state.sha) if CARD in files else {})
        if state.private and public:
            raise PipelineError(
                f"{self.name}: exists and is private; --public makes new repositories public, and changes none.",
                "Leave --public out, or make it public on its settings page first.",
            )
        if not state.private and not public:
            raise PipelineError(
                f"{self.name}: exists and is public: everybody would see what is published there.",
                "Say --public if that is meant, or name another repository.",
            )

    def check_account(self) -> None:
        """There has to be a token, it has to be somebody's, and the repository theirs or their organization's."""
        from huggingface_hub import constants, get_token

        if not get_token():
            raise PipelineError(
                "publish: there is no token for the hub.",
                "Log in with `hf auth login`, or set HF_TOKEN to a token that may write "
                f"({constants.ENDPOINT}/settings/tokens).",
            )
        with self._asking("cannot be asked for"):
            account = self.api.whoami()
        names = [account["name"], *(one["name"] for one in account.get("orgs") or ())]
        owner = self.name.partition("/")[0]
        if owner not in names:
            raise PipelineError(
                f"{self.name}: is not yours: it belongs to {owner}, and the token is of {' and '.join(names)}.",
                f"Name a repository of your own: --repo {names[0]}/{self.name.partition('/')[2]}.",
            )

    def _check_holds(self, publication: Publication, said: dict) -> None:
        if TAG not in (said.get("tags") or ()):
            raise PipelineError(
                f"{self.name}: exists, and its card does not say that it was published from here.",
                "Name another repository, or write over it with --force.",
            )
        theirs, ours = said.get("align") or {}, publication.marks
        if differs := [key for key in ours if theirs.get(key) != ours[key]]:
            what = ", ".join(f"{key} {theirs.get(key)} where this has {ours[key]}" for key in differs)
            raise PipelineError(
                f"{self.name}: exists, and holds something else: {what}.",
                "Name another repository, or write over it with --force.",
            )

    def push(self, publication: Publication, state, public: bool) -> Pushed:
        """Make the repository where there is none, send what it has not, and commit it all at once.

        Files of an earlier publication that have no place any more are removed in the same commit; others stay.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with self._asking("cannot be made"):
            if state is None:
                self.api.create_repo(self.name, private=not public, exist_ok=True)
                state = self.api.model_info(self.name)
        adding = [
            CommitOperationAdd(
                path_in_repo=name, path_or_fileobj=content if isinstance(content, bytes) else str(content)
            )
            for name, content in publication.files.items()
        ]
        there = {one.rfilename for one in state.siblings or ()}
        earlier = self._earlier(state.sha) if lineage.FILE in there else set()
        removing = [CommitOperationDelete(name) for name in sorted(there & earlier - publication.files.keys())]
        for number, one in enumerate(adding):
            as_it_was = f"{number} of {len(adding)} files are there, none can be seen, and the repository is as it was"
            with self._asking("could not be written", as_it_was):
                self.api.preupload_lfs_files(self.name, additions=[one], free_memory=False)
        unknown = "All files are there, but whether they were committed is not known: all of them were, or none"
        with self._asking("could not be written", unknown):
            done = self.api.create_commit(
                self.name,
                operations=[*adding, *removing],
                commit_message=f"Publish the {publication.lineage['what']} of {publication.lineage['stage']}",
                parent_commit=state.sha,
            )
        return Pushed(f"{self.api.endpoint}/{self.name}", done.oid, done.oid != state.sha)

    def base(self, publication: Publication) -> OnTheHub:
        """The repository as the base of an adapter: its weights have to be those of the base here, by their SHA-256."""
        state = self.state()
        if state is None:
            raise PipelineError(
                f"--base {self.name}: there is no such repository, or it is private.", "Publish it first."
            )
        here = Path(where_it_lies(publication.chosen.attempt.manifest["base"]["source"], publication.chosen.attempt))
        theirs = {one.lfs.sha256 for one in state.siblings or () if one.lfs and one.rfilename.endswith(".safetensors")}
        ours = {file_sha256(file) for file in here.glob("*.safetensors")}
        if not ours or ours != theirs:
            raise PipelineError(
                f"--base {self.name}: its weights are not those of {here}, on which the adapter stands.",
                "Publish that base, and name its repository.",
            )
        return OnTheHub(self.name, state.sha)

    def _card(self, commit: str) -> dict:
        from huggingface_hub import ModelCard

        try:
            return ModelCard(self._text(CARD, commit), ignore_metadata_errors=True).data.to_dict()
        except ValueError:
            return {}

    def _earlier(self, commit: str) -> set[str]:
        """The files of an earlier publication."""
        try:
            return set(json.loads(self._text(lineage.FILE, commit))["files"])
        except (ValueError, KeyError, TypeError):
            return set()

    def _text(self, name: str, commit: str) -> str:
        with self._asking("cannot be read"):
            return Path(self.api.hf_hub_download(self.name, name, revision=commit)).read_text(encoding="utf-8")

    @contextmanager
    def _asking(self, what: str, so_far: str = "") -> Iterator[None]:
        """What goes wrong at the hub, as a PipelineError with what became of the repository."""
        import httpx
        from huggingface_hub.errors import HfHubHTTPError

        try:
            yield
        except (OSError, RuntimeError, ValueError, httpx.HTTPError) as error:
            if isinstance(error, ValueError) and "metadata" in str(error):
                raise PipelineError(
                    f"{self.name}: the hub does not accept the card: {' '.join(str(error).split())}. Nothing was committed.",
                    "Mend what it names: --license takes the hub's own words, such as apache-2.0.",
                ) from None
            cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
            status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
            if status in (401, 403):
                raise PipelineError(
                    f"{self.name}: {what}: the hub does not accept the token, or it may not write there ({status}).",
                    "Log in with a token that may write there: `hf auth login`.",
                ) from None
            if status == 412:
                raise PipelineError(
                    f"{self.name}: somebody else changed it at the same time; nothing of it was changed from here.",
                    "Give the same command again.",
                ) from None
            raise MachineError(
                f"{self.name}: {what}: {_plainly(cause)}.{so_far and f' {so_far}.'}",
                "Look at the network, and give the same command again: what is there is not sent again.",
            ) from None


def _plainly(error: BaseException) -> str:
    """The first line of it, without what the addresses of uploads are signed with."""
    first = next(iter(str(error).splitlines()), "") or type(error).__name__
    return re.sub(r"\?[^\s'\"]*", "", first).rstrip(".")
