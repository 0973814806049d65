"""The proof refuses what is not what was trained, and says what is the matter; nothing of it is left."""

import json
import os
import shutil

import numpy
import pytest
import small_models
from conftest import PROJECT, attempt
from transformers import PreTrainedTokenizerFast

from pipeline.data.tokens.template_files import named
from pipeline.errors import PipelineError
from pipeline.recipe.reading import load_recipe
from pipeline.use import proof, questions
from pipeline.use.export import export, exports_of
from pipeline.use.loaded import tokenizer_of
from pipeline.use.merge import Merged
from pipeline.use.subject import find


@pytest.fixture(scope="module")
def dpo(chain):
    here = os.getcwd()
    os.chdir(chain)
    yield find("dpo", load_recipe(chain / "micro.yaml"), chain / "runs")
    os.chdir(here)


class Broken(Merged):
    """A merged folder that somebody changes before it is proven."""

    def __init__(self, subject, break_it, dtype=None):
        super().__init__(subject, questions.of(subject, tokenizer_of(subject), None), dtype)
        self.options = {"dtype": self.dtype, "broken": break_it.__name__}
        self.break_it = break_it

    def write(self, subject, folder):
        said = super().write(subject, folder)
        self.break_it(folder)
        return said


def swap_template(folder):
    (folder / "chat_template.jinja").write_text(named("qwen"))


def lose_stop(folder):
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": 0}))


def change_pre_tokenizer(folder):
    said = json.loads((folder / "tokenizer.json").read_text())
    said["pre_tokenizer"] |= {"add_prefix_space": True}
    (folder / "tokenizer.json").write_text(json.dumps(said))


def lose_a_tensor(folder):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.layers.1.mlp.up_proj.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (swap_template, "its chat template writes 15 of 15 prompts otherwise"),
        (lose_stop, "it does not stop at </s>"),
        (change_pre_tokenizer, "its tokenizer splits .* texts otherwise"),
        (lose_a_tensor, "tensors are missing or have no place"),
    ],
)
def test_what_is_broken_is_refused_and_nothing_is_kept(dpo, break_it, says):
    before = exports_of(dpo.attempt)
    with pytest.raises(PipelineError, match=says) as error:
        export(dpo, Broken(dpo, break_it))
    assert "Nothing was kept" in error.value.fix
    assert exports_of(dpo.attempt) == before and not list(dpo.attempt.folder.glob("exports/.*unfinished*"))


def test_adapter_that_was_not_merged_is_refused_in_any_dtype(dpo, monkeypatch):
    """However little it learned: here less than the limit of 16 bits."""
    monkeypatch.setattr("pipeline.use.weights._wrappers", lambda model: [])
    for dtype in ("float32", "bfloat16"):
        weights = Merged(dpo, questions.of(dpo, tokenizer_of(dpo), None), dtype)
        weights.options = {"dtype": dtype, "broken": "not merged"}
        with pytest.raises(PipelineError, match=r"what was learned is lost|nats off"):
            export(dpo, weights)


def test_force_keeps_it_marked_and_it_is_never_up_to_date(dpo, chain):
    kept = export(dpo, Broken(dpo, lose_stop), force=True)
    assert not kept.proven and "does not stop" in kept.proof["differs"][0]
    with pytest.raises(PipelineError, match="does not stop"):
        export(dpo, Broken(dpo, lose_stop))
    assert kept.folder in [one.folder for one in exports_of(dpo.attempt)]  # what was kept is not taken away
    assert attempt(chain, "dpo") in kept.folder.parents
    shutil.rmtree(kept.folder)


def test_proof_asks_the_held_out_rows_of_the_stage_and_judges_them_as_the_recipe_does(dpo, chain):
    recipe = load_recipe(chain / "micro.yaml")
    asked = questions.of(dpo, tokenizer_of(dpo), recipe)
    held_out = dpo.manifest["data"]["rows"]["held_out"]
    assert asked.origin == "held-out rows of dpo" and len(asked.rows) == min(held_out, questions.MOST)
    assert asked.max_new_tokens == 6 and asked.evaluation.answer_pattern
    pretrained = find("pretrain", recipe, chain / "runs")
    assert questions.of(pretrained, tokenizer_of(pretrained), recipe).rows[0].messages is None


def test_proof_of_a_stage_that_held_out_no_row_asks_what_else_there_is(dpo, monkeypatch):
    mapped = questions.table.mapped
    monkeypatch.setattr(questions.table, "mapped", lambda file: mapped(file).slice(0, 0))
    asked = questions.of(dpo, tokenizer_of(dpo), None)
    assert asked.rows and asked.origin in ("samples of dpo", "built-in prompts")


def test_the_page_on_exports_says_what_is_allowed():
    page = (PROJECT / "docs" / "how-to" / "use-and-export.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| ") and line.endswith("% |")]
    limits = (proof.EXACT, proof.HALF, proof.EIGHT_BITS, proof.FEW_BITS)
    assert len(lines) == len(limits)
    for line, one in zip(lines, limits, strict=True):
        kl, gap, rest = line.strip("| ").split(" | ")[1:]
        assert [kl.split()[0], gap.split()[0], rest] == [
            f"{one.kl:g}",
            f"{one.gap:g}",
            f"{1 - one.sure:.1%}".replace(".0%", "%"),
        ]
    exact = proof.NEARLY_EXACT
    assert f"(GGUF: {exact.kl:g})" in lines[0] and f"(GGUF: {exact.gap:g})" in lines[0]


def test_divergence_of_what_is_known_in_part_is_a_lower_bound():
    logits = numpy.random.default_rng(0).normal(size=(2, 5, 40)).astype(numpy.float32) * 3
    right, found = (one - numpy.log(numpy.exp(one).sum(1, keepdims=True)) for one in logits)
    exact = proof.divergence(right, found)
    assert exact == pytest.approx((numpy.exp(right) * (right - found)).sum(1), rel=1e-4)
    assert proof.divergence(right, right) == pytest.approx(0, abs=1e-12)
    found[:, 10:] = numpy.nan
    part = proof.divergence(right, found)
    assert (part >= 0).all() and (part < exact).all()


def test_questions_of_elsewhere_are_built_in_and_said_to_be(tmp_path):
    from pipeline.model.base import Base
    from pipeline.recipe.sections import Model
    from pipeline.use.subject import Subject

    base = small_models.base(tmp_path / "base")
    subject = Subject("base", base, Base(None, str(base)), Model(id=str(base)))
    asked = questions.of(subject, PreTrainedTokenizerFast.from_pretrained(base), None)
    assert asked.origin == "built-in prompts" and len(asked.rows) == len(questions.BUILT_IN)
    assert asked.rows[0].text == f"<|im_start|>user\n{questions.BUILT_IN[0]}<|im_end|>\n<|im_start|>assistant\n"
