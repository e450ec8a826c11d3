"""Rows to tokens: every form of data, and one clear line for every kind of bad one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qseq.errors import ConfigError, DataError, RequestError
from qseq.language.batch import TokenisedText
from qseq.language.batches import GROUP, TextBatches
from qseq.language.config import LanguageModelConfig, RepeatConfig, TextDataConfig, TextObjectiveConfig
from qseq.language.encoding import TextEncoder
from qseq.language.preparation import best_texts, choose_tokenizer, gather_rows, range_of, repeated_texts
from qseq.language.rows import read_rows
from qseq.language.tokenizers import build_tokenizer, checked_tokenizer

TOKENIZER = build_tokenizer("characters", ["abcdefgh: <|>userassistant"])
ENCODER = TextEncoder(TOKENIZER, max_length=40)
CHAT = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": "bc"},
    {"role": "user", "content": "de"},
    {"role": "assistant", "content": "f"},
]
CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def said(text: TokenisedText) -> str:
    return str(TOKENIZER.decode(text.input_ids[text.actions]))


def whole(text: TokenisedText) -> str:
    return str(TOKENIZER.decode(text.input_ids))


def test_prompt_and_completion() -> None:
    text = ENCODER({"prompt": "ab", "completion": "cd", "reward": -2.5}, 0)
    assert (whole(text), said(text)) == ("<s>abcd</s>", "cd</s>")
    assert text.rewards.tolist() == [0.0, 0.0, -2.5]
    assert text.turn_ends.tolist() == [False, False, True]
    assert text.terminated


def test_a_cut_off_completion_has_no_end() -> None:
    for row in ({"truncated": True}, {"terminated": False}):
        text = ENCODER({"prompt": "a", "completion": "cd", "reward": 1.0, **row}, 0)
        assert said(text) == "cd"
        assert not text.terminated


def test_rewards_of_tokens_with_and_without_the_end() -> None:
    row = {"prompt": "a", "completion": "cd"}
    assert ENCODER({**row, "rewards": [1, -2]}, 0).rewards.tolist() == [1.0, -2.0, 0.0]
    assert ENCODER({**row, "rewards": [1, -2, 3]}, 0).rewards.tolist() == [1.0, -2.0, 3.0]
    assert ENCODER({**row, "rewards": [4]}, 0).rewards.tolist() == [0.0, 0.0, 4.0]


@pytest.mark.parametrize("template", [None, CHATML])
def test_conversations(template: str | None) -> None:
    tokenizer = build_tokenizer("characters", ["abcdefgh: <|>userassistant"])
    if template is not None:
        tokenizer.chat_template = template
    text = TextEncoder(tokenizer, max_length=99)({"messages": CHAT, "rewards": [1.0, -1.0]}, 0)
    assert said(text) == "bc</s>f</s>"
    assert text.rewards.tolist() == [0.0, 0.0, 1.0, 0.0, -1.0]
    assert text.turn_ends.tolist() == [False, False, True, False, True]
    rendered = tokenizer.apply_chat_template(CHAT, tokenize=False)
    assert rendered.startswith(whole(text).rstrip("\n"))


def test_marks_of_the_template_say_the_same_as_its_prefixes() -> None:
    """Both ways to find the assistant's tokens; with marks a conversation is rendered once."""
    marked = CHATML.replace(
        "<|{{ m['role'] }}|>{{ m['content'] }}{{ eos_token }}\n",
        "<|{{ m['role'] }}|>{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{{ eos_token }}\n"
        "{% endgeneration %}{% else %}{{ m['content'] }}{{ eos_token }}\n{% endif %}",
    )
    found = []
    for template in (CHATML, marked):
        tokenizer = build_tokenizer("characters", ["abcdefgh: <|>userassistant"])
        tokenizer.chat_template = template
        encoder = TextEncoder(tokenizer, max_length=199)
        texts = [
            encoder({"messages": messages, "reward": 1.0, "truncated": truncated}, 0)
            for messages in (CHAT, CHAT[:3], [*CHAT[:2], CHAT[1]])
            for truncated in (False, True)
        ]
        prompts = [encoder.conversation_tokens(messages) for messages in (CHAT, CHAT[:3])]
        found.append((texts, prompts))
    for plain, with_marks in zip(found[0][0], found[1][0], strict=True):
        for name in ("input_ids", "actions", "rewards", "turn_ends"):
            assert np.array_equal(getattr(plain, name), getattr(with_marks, name)), name
    assert found[0][1] == found[1][1]


def test_a_last_word_of_the_environment_is_state() -> None:
    text = ENCODER({"messages": [*CHAT, {"role": "user", "content": "gh"}], "reward": 1.0, "truncated": True}, 0)
    assert whole(text).endswith("f</s>gh\n")
    assert said(text) == "bc</s>f</s>"


def test_a_conversation_cut_off_ends_where_the_policy_would_speak() -> None:
    """What it goes on from must be a state that others train: with the template's mark of the policy's turn."""
    tokenizer = build_tokenizer("characters", ["abcdefgh: <|>userassistant"])
    tokenizer.chat_template = CHATML
    encoder = TextEncoder(tokenizer, max_length=199)
    last = {"role": "user", "content": "gh"}
    cut_off = whole(encoder({"messages": [*CHAT, last], "reward": 1.0, "truncated": True}, 0))
    goes_on = whole(encoder({"messages": [*CHAT, last, CHAT[1]], "reward": 1.0}, 0))
    assert cut_off.endswith("<|assistant|>")
    assert goes_on.startswith(cut_off)
    assert not whole(encoder({"messages": [*CHAT, last], "reward": 1.0}, 0)).endswith("<|assistant|>")


@pytest.mark.parametrize("template", [None, CHATML])
def test_a_message_cut_off_is_not_over(template: str | None) -> None:
    """The end token that the template puts there was never said, and the value goes on within the turn."""
    tokenizer = build_tokenizer("characters", ["abcdefgh: <|>userassistant"])
    if template is not None:
        tokenizer.chat_template = template
    encoder = TextEncoder(tokenizer, max_length=199)
    text = encoder({"messages": CHAT, "rewards": [1.0, -1.0], "truncated": True}, 0)
    assert said(text) == "bc</s>f"
    assert text.actions[-1] == len(text.input_ids) - 1
    assert text.rewards.tolist() == [0.0, 0.0, 1.0, -1.0]
    assert text.turn_ends.tolist() == [False, False, True, False]
    assert not ENCODER({"prompt": "a", "completion": "b", "reward": 1.0, "truncated": True}, 0).turn_ends.any()
    cut_off = {"input_ids": [1, 5, 6], "action_mask": [0, 1, 1], "reward": 1.0, "truncated": True}
    assert not ENCODER(cut_off, 0).turn_ends.any()


def test_a_text_goes_on_in_another() -> None:
    cut = {"reward": 1.0, "truncated": True}
    text = ENCODER({"messages": CHAT[:2], "next_messages": CHAT[2:3], **cut}, 0)
    assert (whole(text), said(text), text.terminated) == ("<s>a\nbc</s>", "bc</s>", False)
    assert text.turn_ends[-1]  # this turn is over
    assert text.next_ids is not None
    assert TOKENIZER.decode(text.next_ids) == "<s>de\n"
    assert text.next_ids.tolist() == ENCODER.conversation_tokens(CHAT[2:3])  # as the policy will see it
    text = ENCODER({"prompt": "a", "completion": "b", "next_prompt": "c", **cut}, 0)
    assert said(text) == "b</s>"
    assert text.next_ids is not None
    assert TOKENIZER.decode(text.next_ids) == "<s>c"


def test_a_text_too_long_is_cut_where_the_policy_decides() -> None:
    """What a value goes on from is learnt only in states in which the policy decides."""
    row = {"input_ids": [1, 5, 6, 7, 8, 5, 6], "action_mask": [0, 1, 1, 0, 0, 1, 1], "rewards": [0, 1, 2, 0, 0, 3, 4]}
    found = {}
    for length in (2, 3, 4, 5, 6):
        text = TextEncoder(TOKENIZER, max_length=length, cut=True)(row, 0)
        found[length] = (len(text.input_ids), text.rewards.tolist())
        assert len(text.input_ids) in (1, 2, 5, 6)  # the positions of the policy's tokens
        assert not text.terminated
    assert found == {2: (2, [1.0]), 3: (2, [1.0]), 4: (2, [1.0]), 5: (5, [1.0, 2.0]), 6: (6, [1.0, 2.0, 3.0])}


def test_pretokenised_rows() -> None:
    row = {"input_ids": [1, 5, 6, 7, 8], "action_mask": [0, 1, 1, 0, 1], "rewards": [0, 0, -1, 0, 2.0]}
    text = ENCODER(row, 0)
    assert text.actions.tolist() == [1, 2, 4]
    assert text.rewards.tolist() == [0.0, -1.0, 2.0]
    assert text.turn_ends.tolist() == [False, True, True]


def test_long_texts_are_refused_or_cut() -> None:
    row = {"prompt": "a" * 30, "completion": "b" * 30, "rewards": [1.0] * 30}
    with pytest.raises(DataError, match=r"row 3: found 62 tokens, expected at most 40"):
        ENCODER(row, 3)
    text = TextEncoder(TOKENIZER, max_length=40, cut=True)(row, 3)
    assert (len(text.input_ids), len(text.actions), text.terminated) == (40, 9, False)
    with pytest.raises(DataError, match="row 3"):
        TextEncoder(TOKENIZER, max_length=20, cut=True)(row, 3)


GOOD = {"prompt": "a", "completion": "b", "reward": 1.0}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "misnamed completion": ({"prompt": "a", "completions": "b", "reward": 1}, r"'completion' is missing; found 'compl"),
    "misnamed reward": ({"prompt": "a", "completion": "b", "reward_": 1}, r"'reward' .*missing; found 'reward_'"),
    "no reward": ({"prompt": "a", "completion": "b"}, r"column 'reward' \(or 'rewards'\) is missing; found completion"),
    "misnamed messages": ({"message": CHAT, "reward": 1}, r"'messages' is missing; found 'message'"),
    "nothing": ({}, r"is missing; found no columns"),
    "both rewards": ({**GOOD, "rewards": [1]}, "found both"),
    "too many rewards": (
        {"prompt": "a", "completion": "bc", "rewards": [1] * 5},
        r"found 5 numbers, expected 1 \(one a",
    ),
    "NaN": ({**GOOD, "reward": float("nan")}, "reward: found nan, expected a finite number"),
    "NaN among": ({"prompt": "a", "completion": "bc", "rewards": [1, float("nan")]}, r"rewards\[1\]: found nan"),
    "text for reward": ({**GOOD, "reward": "much"}, "reward: found 'much'"),
    "empty completion": ({**GOOD, "completion": ""}, "completion: found no tokens"),
    "number for prompt": ({**GOOD, "prompt": 3}, "prompt: found a int, expected a text"),
    "goes on after its end": ({**GOOD, "next_prompt": "b"}, "next_prompt: found it beside a text that ended"),
    "goes on too long": (
        {**GOOD, "truncated": True, "next_prompt": "b" * 60},
        "next_prompt: found 61 tokens, expected 1 to 40",
    ),
    "goes on without a role": (
        {**GOOD, "truncated": True, "next_messages": [{"content": "b"}]},
        r"next_messages\[0\]: found .* expected a role and a content",
    ),
    "two ends": ({**GOOD, "terminated": True, "truncated": True}, "terminated and truncated"),
    "odd end": ({**GOOD, "truncated": "no"}, "truncated: found 'no'"),
    "nobody spoke": ({"messages": CHAT[:1], "reward": 1}, "found none of the assistant"),
    "no role": ({"messages": [{"content": "a"}], "reward": 1}, r"messages\[0\]: found"),
    "turns": ({"messages": CHAT, "rewards": [1, 2, 3]}, r"found 3 numbers, expected 2 \(one a turn\) or 5"),
    "mask length": ({"input_ids": [1, 2], "action_mask": [1], "reward": 1}, "action_mask: found 1 numbers, expected 2"),
    "no action": ({"input_ids": [1, 2], "action_mask": [0, 0], "reward": 1}, "found no token of the policy"),
    "first action": ({"input_ids": [1, 2], "action_mask": [1, 0], "reward": 1}, "the first token is the policy's"),
    "token range": ({"input_ids": [1, 999], "action_mask": [0, 1], "reward": 1}, "input_ids: found 1 to 999"),
    "reward of others": (
        {"input_ids": [1, 2, 3], "action_mask": [0, 1, 0], "rewards": [0, 1, 2]},
        "rewards: found 2 at token 2, which is not the policy's",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows_are_named(name: str) -> None:
    row, message = BAD[name]
    with pytest.raises(DataError, match=message) as caught:
        ENCODER(row, 17)
    assert str(caught.value).startswith("row 17")
    assert "\n" not in str(caught.value)


def test_a_turn_ends_with_one_token() -> None:
    """Decoding stops at a token: an end of several, or an unknown one, would stop it anywhere."""
    encoder = TextEncoder(TOKENIZER, max_length=40, turn_end="\n")
    assert said(encoder({"prompt": "a", "completion": "b", "reward": 1.0}, 0)) == "b\n"
    for end in ("ab", "", "#"):
        with pytest.raises(ConfigError, match=r"data\.turn_end: found .* expected one token"):
            TextEncoder(TOKENIZER, max_length=40, turn_end=end)


def test_tokenizers_without_what_is_needed() -> None:
    tokenizer = build_tokenizer("characters", ["ab"])
    tokenizer.chat_template = None
    with pytest.raises(DataError, match=r"row 2: messages: the tokenizer has no chat template"):
        TextEncoder(tokenizer, max_length=9)({"messages": CHAT, "reward": 1.0}, 2)
    tokenizer.pad_token = None
    assert checked_tokenizer(tokenizer).pad_token == tokenizer.eos_token
    tokenizer.eos_token = None
    with pytest.raises(RequestError, match="found no end token"):
        checked_tokenizer(tokenizer)


@pytest.mark.parametrize("kind", ["characters", "words"])
def test_built_tokenizers_decode_what_they_encode(kind: str) -> None:
    text = "Move up, then\tleft!\n  (twice) naïve 3.5"
    tokenizer = build_tokenizer(kind, [text])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id not in ids


def test_files_of_every_kind_hold_the_same_rows(tmp_path: Path) -> None:
    import datasets
    import pyarrow
    import pyarrow.parquet

    rows = [GOOD, {**GOOD, "reward": -1.0}]
    lines = tmp_path / "a.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    dataset = datasets.Dataset.from_list(rows)
    dataset.save_to_disk(str(tmp_path / "saved"))
    for source in (lines, tmp_path / "a.parquet", tmp_path / "saved", dataset, rows):
        assert [dict(row) for row in read_rows(source)] == rows
    (tmp_path / "bad.jsonl").write_text(json.dumps(GOOD) + "\n{oops\n")
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    for name, message in {
        "bad.jsonl": "row 1: not valid JSON",
        "list.jsonl": "row 0: found a list",
        "bad.parquet": "cannot be read as Parquet",
        "none.jsonl": "no such file",
        "a.txt": "no such file",
    }.items():
        with pytest.raises(RequestError, match=message):
            read_rows(tmp_path / name)
    with pytest.raises(DataError, match="found no rows"):
        gather_rows([[]], TextDataConfig())


def test_the_tokenizer_is_the_models_or_built() -> None:
    assert len(choose_tokenizer(TextDataConfig(), LanguageModelConfig(), [GOOD])) == 4 + 3  # specials, \n, a, b
    with pytest.raises(ConfigError, match=r"data\.tokenizer"):
        choose_tokenizer(TextDataConfig(tokenizer="words"), LanguageModelConfig(path="x"), [GOOD])
    with pytest.raises(RequestError, match="found no tokenizer at"):
        choose_tokenizer(TextDataConfig(tokenizer="/nowhere"), LanguageModelConfig(), [GOOD])


def texts(count: int) -> list[TokenisedText]:
    random = np.random.default_rng(0)
    return [
        ENCODER({"prompt": "a" * int(random.integers(1, 20)), "completion": "b", "reward": float(number)}, number)
        for number in range(count)
    ]


def test_batches_are_full_repeatable_and_show_every_text_once_an_epoch() -> None:
    arguments: dict[str, Any] = {"discount": 1.0, "per": "turn", "minimum_return": 0.0, "pad_token": 1}
    batches = TextBatches(texts(50), batch_size=4, seed=3, **arguments)
    again = TextBatches(texts(50), batch_size=4, seed=3, **arguments)
    rows = [batches.rows_at(index) for index in range(4 * GROUP)]
    assert all(len(batch) == 4 for batch in rows)
    for index in (37, 5, 0):  # in any order
        assert np.array_equal(again.rows_at(index), rows[index])
    counts = np.bincount(np.concatenate(rows), minlength=50)
    assert counts.min() >= 4 * GROUP * 4 // 50 - 1
    assert counts.max() <= 4 * GROUP * 4 // 50 + 2
    lengths = np.array([len(text.input_ids) for text in batches.texts])
    spread = np.mean([np.ptp(lengths[batch]) for batch in rows])
    shuffled = np.random.default_rng(1).permutation(np.concatenate(rows)).reshape(-1, 4)
    assert spread < np.mean([np.ptp(lengths[batch]) for batch in shuffled]) / 2
    assert batches.batch_at(0).input_ids.shape[0] == 4


def test_best_share_repetition_and_range() -> None:
    found = texts(20)
    assert [text.total for text in best_texts(found, 0.1)] == [18.0, 19.0]
    assert len(best_texts(found, 1.0)) == 20
    more = [text.total for text in repeated_texts(found, RepeatConfig(share=0.1, times=3))]
    assert sorted(more) == [*map(float, range(18)), 18.0, 18.0, 18.0, 19.0, 19.0, 19.0]
    assert repeated_texts(found, RepeatConfig()) == found
    for wrong in ({"share": 0.1}, {"times": 2}):
        with pytest.raises(ConfigError, match=r"data\.repeat: found share=.* expected a share above 0 and at least 2"):
            RepeatConfig(**wrong)  # type: ignore[arg-type]
    estimated = range_of(found, TextObjectiveConfig())
    assert (estimated.low, estimated.high) == (0.0, pytest.approx(19.0 * 1.05))
    told = range_of(found, TextObjectiveConfig(minimum_return=-5.0, maximum_return=30.0))
    assert (told.low, told.high) == (-5.0, 30.0)
    with pytest.raises(ConfigError, match=r"returns in the data span \[0, 19\]"):
        range_of(found, TextObjectiveConfig(maximum_return=10.0))
