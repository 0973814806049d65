"""A GGUF file run by llama.cpp says what was trained: every architecture, tokenizer and template that can be written."""

import json
from itertools import combinations

import pytest
import small_models
from conftest import align, attempt
from prepared import tokenizer_with
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from pipeline.cli.exports import summary
from pipeline.data.tokens.template import Template
from pipeline.errors import PipelineError
from pipeline.model.base import Base
from pipeline.recipe.sections import Model
from pipeline.use import packages, questions
from pipeline.use.export import export
from pipeline.use.gguf import adapter as adapters
from pipeline.use.gguf import shapes
from pipeline.use.gguf.adapter import GgufAdapter
from pipeline.use.gguf.llama_cpp import LlamaCpp, checkout
from pipeline.use.gguf.modelfile import derived, sampling
from pipeline.use.gguf.vocabulary import KNOWN, TRIED, Vocabulary
from pipeline.use.gguf.writer import Gguf
from pipeline.use.loaded import tokenizer_of
from pipeline.use.subject import Subject

written = pytest.mark.skipif(not packages.installed("gguf"), reason="the package gguf is not installed")
run = pytest.mark.skipif(
    not (packages.installed("gguf") and packages.installed("xllamacpp")), reason="gguf or xllamacpp is not installed"
)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def subject(folder, base=None) -> Subject:
    base = base or folder
    return Subject("model", folder, Base(None, str(base)), Model(id=str(base)))


def asked(one: Subject) -> questions.Questions:
    return questions.of(one, tokenizer_of(one), None)


def to_gguf(one: Subject, to, kind="f32", make=Gguf, **options):
    return export(one, make(one, asked(one), kind, **options), to=to)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return small_models.base(tmp_path_factory.mktemp("llama") / "base", "llama")


@run
@pytest.mark.parametrize(
    ("model_type", "shape"),
    [
        ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": False}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("gemma2", {"query_pre_attn_scalar": 16, "sliding_window": 32}),
        ("gemma3_text", {"query_pre_attn_scalar": 16, "sliding_window": 32, "num_hidden_layers": 6}),
    ],
)
def test_every_architecture_is_computed_alike_by_llama_cpp(tmp_path, model_type, shape):
    base = small_models.base(tmp_path / "base", model_type, **shape)
    made = to_gguf(subject(base), tmp_path / "gguf")
    assert made.proven and made.proof["kl"] < 1e-5 and "llama.cpp" in made.proof["runtime"]["exported"]
    assert made.proof["texts"]["equal"] == made.proof["texts"]["n"] > 7


@run
@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q4_0"])
def test_types_are_as_near_as_their_bits_allow(llama, tmp_path, kind):
    made = to_gguf(subject(llama), tmp_path / "gguf", kind)
    full = 4 * sum(one.numel() for one in small_models.weights(llama))
    assert made.proven and made.said["type"] == kind
    assert (made.folder / "model.gguf").stat().st_size < full * {"q8_0": 0.4, "q4_0": 0.35}.get(kind, 0.6)
    assert 0 < made.proof["kl"] < {"f16": 1e-4, "bf16": 5e-3, "q8_0": 5e-3}.get(kind, 0.5)


@run
def test_lora_is_written_by_itself_and_refused_where_its_rows_are_not_reordered(llama, tmp_path, monkeypatch):
    options = {"use_rslora": True, "rank_pattern": {"q_proj": 8}, "alpha_pattern": {"down_proj": 32}}
    one = subject(small_models.adapter(tmp_path / "adapter", llama, **options), llama)
    made = to_gguf(one, tmp_path / "gguf", None, GgufAdapter)
    assert made.proven and made.proof["kl"] < 1e-5 and made.proof["kl_of_base"] > 0.1
    assert [path.suffix for path in sorted(made.folder.iterdir())] == [".gguf", ".json", ".json"]
    monkeypatch.setattr(adapters, "changed", lambda name, tensor, shape, config: tensor)
    with pytest.raises(PipelineError, match=r"its next tokens are .* nats off"):
        to_gguf(one, tmp_path / "broken", None, GgufAdapter)
    assert not (tmp_path / "broken").exists()


@run
def test_weights_that_are_not_reordered_are_refused(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, "permuted", lambda tensor, heads: tensor)
    with pytest.raises(PipelineError, match="nats off"):
        to_gguf(subject(llama), tmp_path / "gguf")


@run
def test_prompts_that_are_longer_than_the_context_are_cut_and_counted(tmp_path, monkeypatch):
    """As an evaluation cuts them: llama.cpp would refuse them, and the export with them."""
    monkeypatch.setattr(questions, "BUILT_IN", ("Who is it? " * 60, "Who?"))
    base = small_models.base(tmp_path / "base", "llama", max_position_embeddings=128)
    one = asked(subject(base))
    assert one.cut == 1 and len(one.rows[0].ids) == 128 - one.max_new_tokens - questions.SPARE
    made = to_gguf(subject(base), tmp_path / "gguf")
    assert made.proven and made.proof["prompts"] == 2 and made.proof["prompts_cut"] == 1
    assert "1 of them lost their beginning" in " ".join(summary(made))


@run
def test_stage_becomes_a_file_with_its_template_and_its_stop(chain):
    said = align("export", "dpo", "--type", "f32", "-r", "micro.yaml", cwd=chain).stdout
    folder = next((attempt(chain, "dpo") / "exports").glob("gguf-*"))
    assert "15 of 15 greedy answers" in said and "proven" not in said.lower()
    assert (folder / "Modelfile").read_text() == (
        'FROM ./model.gguf\nTEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}{{ .Content }}\n'
        '{{ else if eq .Role "user" }}User: {{ .Content }}\nAssistant:{{ else if eq .Role "assistant" }} {{ .Content }}'
        '</s>\n{{ end }}{{ end }}"""\nPARAMETER stop "</s>"\n'
        "PARAMETER temperature 0\nPARAMETER repeat_penalty 1\n"
    )
    assert f"{folder.name}  proven, f32, " in align("status", "dpo", "-r", "micro.yaml", cwd=chain).stdout


def test_ollama_is_told_to_answer_as_the_model_does_elsewhere():
    drawn = GenerationConfig(do_sample=True, temperature=0.6, top_k=20, top_p=0.95, repetition_penalty=1.05)
    told = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.0, "repeat_penalty": 1.05, "repeat_last_n": -1}
    assert sampling(drawn) == told
    assert sampling(GenerationConfig(temperature=0.6)) == {"temperature": 0, "repeat_penalty": 1}


@run
def test_real_sentencepiece_like_tokenizer_is_split_alike(tmp_path, shared):
    base = shared / "models" / "stories260K-hf"
    made = to_gguf(subject(base), tmp_path / "gguf")
    assert made.proven and made.proof["texts"]["equal"] == made.proof["texts"]["n"]


@run
def test_real_tokenizer_with_two_scripts_is_split_alike(tmp_path, shared):
    words = AutoTokenizer.from_pretrained(shared / "data" / "tokenizers" / "minimind")
    base = small_models.base(tmp_path / "base", words=words)
    assert to_gguf(subject(base), tmp_path / "gguf").proven


def test_known_rules_are_told_apart_and_found_by_what_they_do():
    def byte_level(name: str) -> PreTrainedTokenizerFast:
        patterns, whole = KNOWN[name]
        made = Tokenizer(models.BPE(ignore_merges=whole))
        steps = [pre_tokenizers.Split(Regex(one), "isolated") for one in patterns]
        made.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(False, use_regex=False)])
        return PreTrainedTokenizerFast(tokenizer_object=made)

    assert {name: Vocabulary(byte_level(name), 0, "it").pre for name in KNOWN} == {name: name for name in KNOWN}
    cuts = {
        name: [byte_level(name).backend_tokenizer.pre_tokenizer.pre_tokenize_str(text) for text in TRIED]
        for name in KNOWN
    }
    alike = [pair for pair in combinations(KNOWN, 2) if cuts[pair[0]] == cuts[pair[1]]]
    assert alike == [("llama-bpe", "dbrx")]  # which differ in whether a whole piece is looked up first


def test_unknown_tokenizers_and_architectures_are_refused_by_name(tmp_path):
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\p{L}+|."), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    with pytest.raises(PipelineError, match=r"by no rule that is known here .*the nearest, .* cuts"):
        Vocabulary(PreTrainedTokenizerFast(tokenizer_object=words), 0, "mine")
    unigram = Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))
    with pytest.raises(PipelineError, match="mine: its tokenizer is Unigram, not BPE"):
        Vocabulary(PreTrainedTokenizerFast(tokenizer_object=unigram), 0, "mine")
    config = type("Config", (), {"model_type": "gpt_neox"})()
    with pytest.raises(PipelineError, match="mine: is a gpt_neox model"):
        shapes.shape_of(config, "mine")


@pytest.mark.parametrize("name", ["chatml", "gemma", "llama3", "mistral", "plain", "qwen", "qwen3", "raw"])
def test_ollamas_template_is_derived_from_ours(name):
    tokenizer = tokenizer_with(name)
    turns = derived(Template(tokenizer), tokenizer.bos_token)
    talk = [{"role": role, "content": role * 3} for role in ("system", "user", "assistant", "user")]
    assert turns.render(talk) == Template(tokenizer).render(talk, ask=True).removeprefix(tokenizer.bos_token)
    assert turns.go().count("{{ end }}") == (3 if turns.default else 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("{{ 'Long' if message.content|length > 14 else 'Short' }}{{ message.content }}", "not write every"),
        ("{{ loop.index }}{{ message.content }}", "depends on more than"),
        ("{{ message.content }}{{ message.content }}", "not write each turn once"),
    ],
)
def test_template_that_depends_on_more_than_roles_gets_no_modelfile(change, says):
    tokenizer = tokenizer_with("plain")
    tokenizer.chat_template = f"{{% for message in messages %}}{change}{{% endfor %}}"
    assert says in derived(Template(tokenizer), None)


@written
def test_what_gguf_has_no_form_for_is_refused_before_anything_is_written(llama, chain, tmp_path):
    done = align("export", "reward", "-r", "micro.yaml", cwd=chain, check=False)
    assert done.returncode == 2 and "reward: is a reward model, whose score llama.cpp has no form for" in done.stdout
    one = subject(small_models.adapter(tmp_path / "adapter", llama, use_dora=True), llama)
    with pytest.raises(PipelineError, match="its adapter has use_dora"):
        to_gguf(one, tmp_path / "gguf", None, GgufAdapter)
    with pytest.raises(PipelineError, match="q4_k_m"):
        to_gguf(one, tmp_path / "gguf", "q4_k_m")
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_missing_package_is_told_with_its_command(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(PipelineError, match=r"pip install -c constraints.txt -e .\[gguf\]") as error:
        to_gguf(subject(llama), tmp_path / "gguf")
    assert error.value.exit_code == 2


@written
def test_without_llama_cpp_nothing_is_proven(llama, tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None if name == "xllamacpp" else name)
    with pytest.raises(PipelineError, match=r"llama.cpp is not installed, which has to run it"):
        to_gguf(subject(llama), tmp_path / "gguf")
    one = subject(llama)
    assert not export(one, Gguf(one, asked(one), "f32"), to=tmp_path / "gguf", force=True).proven


@run
def test_checkout_of_llama_cpp_does_the_writing_and_the_proof_stays_ours(llama, tmp_path, monkeypatch):
    """With a stand-in for its converter, which says how it was called and copies what ours has written."""
    ours = to_gguf(subject(llama), tmp_path / "ours")
    (tmp_path / "llama.cpp").mkdir()
    (tmp_path / "llama.cpp/convert_hf_to_gguf.py").write_text(
        "import os, shutil, sys\nmerged, _, into, _, kind = sys.argv[1:]\n"
        "assert kind == 'f16' and os.path.isfile(merged + '/model.safetensors')\n"
        f"shutil.copy({str(ours.folder / 'model.gguf')!r}, into)\n"
    )
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path / "nowhere"))
    with pytest.raises(PipelineError, match=r"has no convert_hf_to_gguf.py"):
        checkout()
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path / "llama.cpp"))
    made = to_gguf(subject(llama), tmp_path / "theirs", "f16", LlamaCpp, folder=checkout())
    assert made.proven and made.said["written_by"].startswith("llama.cpp")
    with pytest.raises(PipelineError, match="needs llama-quantize, which is not built"):
        to_gguf(subject(llama), tmp_path / "few", "q4_k_m", LlamaCpp, folder=checkout())
    assert json.loads((made.folder / "proof.json").read_text())["proven"]
