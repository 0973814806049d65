"""The chain's tokenizer: fixed at its first stage, with a pad token that is not EOS and a chat template."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline.data.source import Data
from pipeline.data.tokens import in_use
from pipeline.data.tokens.template import Template
from pipeline.data.tokens.template_files import MARKER, file_of, named
from pipeline.errors import PipelineError
from pipeline.hub import commit_of
from pipeline.model.base import is_local, repository_of
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.sections import Model
from pipeline.stage import specs

# Special tokens that models carry without using them in training; any of them can stand for padding.
UNUSED = """
    <pad> [PAD] <|pad|> <|finetune_right_pad_id|> <|fim_pad|> <|reserved_special_token_0|> <|vision_pad|> <unk> [UNK]
""".split()


@dataclass(frozen=True)
class Prepared:
    tokenizer: PreTrainedTokenizerFast
    new_tokens: tuple[str, ...] = ()  # grown into the embeddings, and trained
    notes: tuple[str, ...] = ()  # what a person should know of it


def load(source: str | Path, wanted: Model, revision: str | None = None) -> PreTrainedTokenizerFast:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=wanted.trust_remote_code)
    except (OSError, ValueError) as error:
        raise PipelineError(f"{source}: its tokenizer cannot be loaded: {str(error).splitlines()[0]}") from None
    if not tokenizer.is_fast:
        raise PipelineError(f"{source}: has only a slow tokenizer, which cannot say where in the text a token stands.")
    return tokenizer


def of_recipe(recipe: Recipe, runs: Path) -> Prepared:
    """The one that the recipe's first stage would have, without training anything.

    Of a model from scratch it is that of its newest pretraining, else a folder's, else it is learned again from the texts.
    Raises PipelineError where the hub has to be asked, and cannot be.
    """
    if recipe.model.config is None:
        name = recipe.model.id
        commit = None if is_local(name) else commit_of(repository_of(recipe), runs / recipe.name)
        return prepare(load(name, recipe.model, commit), recipe)
    first = next(iter(recipe.stages))
    trained = runs / recipe.name / first / "latest" / "model"
    if (trained / "tokenizer_config.json").is_file():
        return Prepared(load(trained, recipe.model))
    return from_scratch(recipe, first, recipe.stage(first).data.pinned(runs / recipe.name))


def from_scratch(recipe: Recipe, stage: str, data: Data) -> Prepared:
    """Of a model that starts from a config: a folder's, or learned from the rows that its first stage trains on."""
    from pipeline.data.prepare.work import good_rows

    if recipe.model.tokenizer.path:
        return prepare(load(recipe.model.tokenizer.path, recipe.model), recipe)
    rows = good_rows(data, specs()[stage].row_kind, recipe.rows_needed(stage))
    return prepare(train((one.prompt for _, one in rows), recipe.model.tokenizer.vocab_size), recipe)


def train(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with <unk>, <s>, </s> and <pad>, learned from `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    specials = ["<unk>", "<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(specials) + len(alphabet):
        raise PipelineError(
            f"model.tokenizer.vocab_size: {vocab_size} is less than {len(specials) + len(alphabet)}, the bytes alone."
        )
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def inherited(parent: Path, wanted: Model, *, tried: bool) -> Prepared:
    """That of an adapter or a model to go on from; its template is tried out where no stage has done so."""
    tokenizer = load(parent, wanted)
    notes = () if tried else in_use.check(Template(tokenizer, f"{parent}: its chat template"))
    return Prepared(tokenizer, notes=tuple(notes))


def prepare(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> Prepared:
    """Give the first stage's tokenizer its template, pad token and stop token; later stages inherit them."""
    notes, new = [], []
    wanted = recipe.model.template
    name = f"{tokenizer.name_or_path}: the model's own chat template"
    if wanted or not tokenizer.chat_template:
        name = str(file_of(wanted or "plain"))
        tokenizer.chat_template = named(wanted or "plain")
        if not wanted:
            notes.append("the model has no chat template: the plain-text one is used (model.template names another)")
    if tokenizer.eos_token is None:
        raise PipelineError(f"{recipe.model.id}: its tokenizer has no EOS token, so an answer could never end.")
    Template(tokenizer, name).check()
    vocabulary = tokenizer.get_vocab()
    if wanted:
        new = [token for token in dict.fromkeys(MARKER.findall(tokenizer.chat_template)) if token not in vocabulary]
        if new:
            told = ", ".join(token + in_use.misspelled(token, vocabulary) for token in new)
            notes.append(f"new tokens, written by the chat template and still to be learned: {told}")
        tokenizer.add_special_tokens({"additional_special_tokens": new}, replace_extra_special_tokens=False)
    pad = _pad(tokenizer, recipe)
    if pad not in vocabulary:
        new.append(pad)
    if pad != tokenizer.pad_token:
        had = "none" if tokenizer.pad_token is None else f"{tokenizer.pad_token}, which is EOS"
        notes.append(f"pad token: {pad} ({'new' if pad in new else 'taken from the vocabulary'}; the model had {had})")
        if pad in new:  # which a mere assignment would give the id of <unk>
            tokenizer.add_special_tokens({"pad_token": pad})
        tokenizer.pad_token = pad
    stop = Template(tokenizer).stop
    if stop != tokenizer.eos_token:
        notes.append(f"answers end in {stop}, which becomes the tokenizer's EOS (it was {tokenizer.eos_token})")
        tokenizer.eos_token = stop
    tokenizer.padding_side = "right"
    notes += in_use.check(Template(tokenizer, name))
    return Prepared(tokenizer, tuple(new), tuple(notes))


def _pad(tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> str:
    """A pad token that is neither EOS nor used: padding is masked, and a masked EOS is never learned."""
    taken, vocabulary = {tokenizer.eos_token, Template(tokenizer).stop}, tokenizer.get_vocab()
    unused = next((token for token in UNUSED if token in vocabulary and token not in taken), "<|pad|>")
    own = tokenizer.pad_token if tokenizer.pad_token and tokenizer.pad_token not in taken else unused
    wanted = recipe.model.pad_token
    if wanted in taken:
        raise PipelineError(
            f"{recipe.place('model', 'pad_token')}: {wanted} ends answers; as padding it would be masked and never learned.",
            f"Leave it out ({own} is taken then), or name another token.",
        )
    return wanted or own
