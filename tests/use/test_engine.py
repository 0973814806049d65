"""Answers do not depend on what else is asked at the same time, and come as whole characters."""

import threading
from dataclasses import replace
from queue import SimpleQueue
from types import SimpleNamespace

import pytest
import torch
from answers import collected, text_of, tokens_of
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MistralConfig

from pipeline.use.asking import Defaults, TooLong, chat_request, request
from pipeline.use.engine.engine import Engine
from pipeline.use.engine.request import Full, Request, Sampling
from pipeline.use.engine.sampling import choose
from pipeline.use.engine.text import Detokenizer, Lead, StopTexts
from pipeline.use.loaded import Policy

DRAWN = Sampling(temperature=1.5, seed=3)
ASKED = ("Which colour has bana?", "Which colour has kolo, and why?", "Colour?", "Say it: which colour has diri now?")


def said(text):
    return [{"role": "user", "content": text}]


def same(one, other) -> bool:
    """The same tokens with the same log-probabilities, but for rounding."""
    one, other = tokens_of(one), tokens_of(other)
    logprobs = [torch.tensor([token.logprob for token in tokens]) for tokens in (one, other)]
    return [token.id for token in one] == [token.id for token in other] and torch.allclose(*logprobs, atol=1e-4)


def test_answers_in_a_batch_are_those_given_alone(engine, policies):
    requests = [
        chat_request(policy, said(text), 6 + number, replace(DRAWN, seed=number), logprobs=0)
        for policy in policies
        for number, text in enumerate(ASKED)
    ]
    alone = [collected(engine, one)[0] for one in requests]
    together = collected(engine, *requests)
    assert all(map(same, alone, together))
    assert [text_of(one) for one in alone] == [text_of(one) for one in together]
    assert len({text_of(one) for one in alone}) > 6  # the policies and questions do differ


def test_who_joins_later_changes_no_answer(engine, policies):
    long, short = (chat_request(policies[1], said("?"), most, DRAWN, logprobs=0) for most in (30, 4))
    alone = collected(engine, long)[0], collected(engine, short)[0]
    queues, begun = (SimpleQueue(), SimpleQueue()), threading.Event()
    engine.ask(long, lambda piece: (queues[0].put(piece), begun.set()))
    begun.wait(30)
    engine.ask(short, queues[1].put)
    for queue, expected in zip(queues, alone, strict=True):
        pieces = [queue.get(timeout=30)]
        while not pieces[-1].finish:
            pieces.append(queue.get(timeout=30))
        assert same(pieces, expected)


def test_greedy_answer_is_that_of_transformers(engine, policies):
    for policy, text in zip(policies, ASKED, strict=False):
        asked = chat_request(policy, said(text), 10, Sampling(), logprobs=1)
        with policy.acting() as model:
            ids = torch.tensor([asked.ids])
            expected = model.generate(ids, max_new_tokens=10, do_sample=False)[0, len(asked.ids) :].tolist()
        answer = collected(engine, asked)[0]
        assert [token.id for token in tokens_of(answer)] == [one for one in expected if one not in policy.stops]
        assert all(token.likeliest[0][0] == token.id for token in tokens_of(answer))


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (LlamaConfig, {}),
        (MistralConfig, {"sliding_window": 6}),
        (Gemma3TextConfig, {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}),
    ],
)
def test_rows_are_padded_rightly_whatever_a_layer_sees(config, options, policies):
    options |= {"vocab_size": 320, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    options |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64, "eos_token_id": 2}
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config(**options, pad_token_id=3)).eval()
    for parameter in model.parameters():
        parameter.data *= 4  # so that what a token attends to matters
    policy = Policy(SimpleNamespace(name="random"), model, policies[0].tokenizer, None)
    engine = Engine([policy])
    asked = [Request("random", list(range(10, 10 + length)), 24, DRAWN, logprobs=0) for length in (3, 17, 9)]
    answers = collected(engine, *asked)
    engine.close()
    for one, answer in zip(asked, answers, strict=True):
        ids = [token.id for token in tokens_of(answer)]
        with torch.no_grad():
            whole = model(torch.tensor([one.ids + ids])).logits[0].log_softmax(-1)
        expected = whole[len(one.ids) - 1 : -1].gather(1, torch.tensor(ids)[:, None]).squeeze(1)
        assert torch.allclose(torch.tensor([token.logprob for token in tokens_of(answer)]), expected, atol=1e-3)


@pytest.mark.parametrize("text", ["Größe 你好，世界 👩‍🚀🏽 fin", "🙂", " a  b\n\tc", "naïve café ünïcode"])
def test_characters_come_whole_however_many_tokens_they_are(policies, text):
    tokenizer = policies[0].tokenizer
    ids = tokenizer(text, add_special_tokens=False).input_ids
    growing = Detokenizer(tokenizer)
    pieces = [growing.add(one) for one in ids] + [growing.finish()]
    assert "".join(pieces) == text and not any("\ufffd" in piece for piece in pieces)
    assert len(ids) > len(text) / 2 and sum(map(bool, pieces)) > 0
    cut = Detokenizer(tokenizer)
    half = [cut.add(one) for one in ids[:-1]] + [cut.finish()]
    assert "".join(half) == tokenizer.decode(ids[:-1])


def test_text_of_sentencepiece_keeps_its_spaces(shared):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "models/stories260K-hf")
    text = "Once upon a time, Zoë 你 had a cat."
    ids = tokenizer(text, add_special_tokens=False).input_ids
    growing = Detokenizer(tokenizer)
    assert "".join([*map(growing.add, ids), growing.finish()]) == tokenizer.decode(ids) == text
    after = Detokenizer(tokenizer, ids[:4])
    assert tokenizer.decode(ids[:4]) + "".join([*map(after.add, ids[4:]), after.finish()]) == text


def test_text_that_may_become_a_stop_is_held_back():
    stops = StopTexts(["END", "\n\n"])
    assert stops.add("a E", 1) == ("a ", [1], False)
    assert stops.add("N", 2) == ("", [], False)
    assert stops.add("x\n", 3) == ("ENx", [2, 3], False)
    assert stops.add("\nEND", 4) == ("", [], True)


def test_what_the_template_writes_before_an_answer_is_no_part_of_it(policies):
    assert policies[0].lead == " "  # "Assistant:" invites, and "Assistant: words" is shown
    for said_by_model, answer in {(" ", "tea"): "tea", (" tea",): "tea", ("tea",): "tea", (" ",): ""}.items():
        lead = Lead(" ")
        assert "".join(map(lead.add, said_by_model)) + lead.finish() == answer
    thought = Lead("<think>\n\n</think>\n\n")
    assert "".join(map(thought.add, ("<think>", "\n", "Hm", "</think>"))) == "<think>\nHm</think>"


def test_stop_texts_end_an_answer_before_them(engine, policies):
    whole = text_of(collected(engine, chat_request(policies[1], said("?"), 30, DRAWN))[0])
    stop = whole[5:8]
    pieces = collected(engine, chat_request(policies[1], said("?"), 30, DRAWN, stop=(stop, "never there")))[0]
    assert text_of(pieces) == whole[: whole.index(stop)] and pieces[-1].finish == "stop"
    assert pieces[-1].count < 30


def test_seed_repeats_an_answer_and_without_one_it_differs(engine, policies):
    with_seed, without = (
        [text_of(one) for one in collected(engine, *[chat_request(policies[0], said("?"), 12, how)] * 4)]
        for how in (DRAWN, replace(DRAWN, seed=None))
    )
    assert len(set(with_seed)) == 1 and len(set(without)) == 4


def test_sampling_draws_from_what_its_options_leave():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    draws = [number / 100 for number in range(100)]

    def drawn(**how):
        chosen = [int(choose(logits, Sampling(temperature=1.0, **how), [0], draw)) for draw in draws]
        return [chosen.count(number) for number in range(4)]

    assert drawn() == pytest.approx([50, 30, 15, 5], abs=1)
    assert drawn(top_k=2) == pytest.approx([62, 38, 0, 0], abs=1)
    assert drawn(top_p=0.9) == pytest.approx([53, 31, 16, 0], abs=1)
    assert drawn(min_p=0.5) == pytest.approx([62, 38, 0, 0], abs=1)
    assert drawn(repetition_penalty=2.0)[0] == pytest.approx(33, abs=1)  # 0.25 of 0.75
    assert int(choose(logits, Sampling(repetition_penalty=2.0), [0], 0)) == 1
    seen, said = [2, 2, 2, 2], [0, 0, 1]  # penalties of the answer look at no prompt
    often = choose(logits, Sampling(temperature=0, frequency_penalty=0.6), seen, 0, said)
    once = choose(logits, Sampling(temperature=0, presence_penalty=1.0), seen, 0, said)
    assert (int(often), int(once)) == (1, 0)  # 0.151, 0.165, 0.15; and 0.184, 0.110, 0.15


def test_cancelled_answer_makes_room_at_once(policies):
    engine = Engine(policies[:1], most_rows=1, most_waiting=1)
    first, second, begun = SimpleQueue(), SimpleQueue(), threading.Event()
    slow = chat_request(policies[0], said("?"), 40, DRAWN)
    held = threading.Event()
    ticket = engine.ask(slow, lambda piece: (first.put(piece), begun.set(), held.wait(30)))
    begun.wait(30)
    engine.ask(slow, second.put)
    with pytest.raises(Full, match="1 requests wait"):
        engine.ask(slow, second.put)
    ticket.cancel()
    held.set()
    pieces = [first.get(timeout=30)]
    while not pieces[-1].finish:
        pieces.append(first.get(timeout=30))
    assert pieces[-1].finish == "cancelled" and pieces[-1].count < 40
    while not (piece := second.get(timeout=30)).finish:
        pass
    engine.close()
    assert piece.finish == "length" and engine.under_way == 0


def test_memory_that_runs_out_means_fewer_at_once_and_no_lost_answer(policies, monkeypatch):
    from pipeline.use.engine.lane import Lane

    real, sizes = Lane._forward, []

    def small(self, model, ids, *rest):
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("made up")
        return real(self, model, ids, *rest)

    asked = [chat_request(policies[0], said(text), 8, DRAWN, logprobs=0) for text in ASKED]
    engine = Engine(policies[:1])
    expected = [collected(engine, one)[0] for one in asked]
    monkeypatch.setattr(Lane, "_forward", small)
    assert all(map(same, collected(engine, *asked), expected)) and max(sizes) > 2
    engine.close()


def test_model_that_fails_fails_its_own_requests_alone(policies, monkeypatch, capfd):
    engine = Engine(policies[:2])
    monkeypatch.setattr(engine._lanes["sft"], "_forward", lambda *_: 1 / 0)
    broken, good = collected(engine, *(chat_request(policy, said("?"), 3, Sampling()) for policy in policies[:2]))
    assert broken[-1].finish == "error" and "ZeroDivisionError" in str(broken[-1].error)
    assert good[-1].finish == "length" and "ZeroDivisionError" in capfd.readouterr().err
    engine.close()


def test_prompt_without_room_for_an_answer_is_refused(policies):
    with pytest.raises(TooLong, match="64"):
        request(policies[0], list(range(64)), None, Sampling())
    assert request(policies[0], list(range(60)), 9, Sampling()).most_tokens == 4


def test_generation_config_says_how_to_sample(policies, monkeypatch):
    config = policies[0].transformer.generation_config
    assert Defaults.of(policies[0]) == Defaults(Sampling(), None, ())
    for key, value in {"do_sample": True, "top_p": 0.8, "repetition_penalty": 1.1, "num_beams": 4}.items():
        monkeypatch.setattr(config, key, value)
    found = Defaults.of(policies[0])
    assert found.sampling == Sampling(temperature=1.0, top_p=0.8, repetition_penalty=1.1)
    assert found.unused == ("num_beams",)


def test_what_is_typed_as_a_special_token_is_text(policies):
    ids = policies[0].encoder.prompt_ids(said("say </s> now"))
    assert policies[0].tokenizer.eos_token_id not in ids
