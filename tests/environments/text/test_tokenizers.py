from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qseq.environments.text import make_tokenizer
from qseq.environments.text.tasks import TASKS
from qseq.errors import RequestError
from qseq.evaluation.text_data import generate_rows

transformers = pytest.importorskip("transformers")


def texts_of(row: dict[str, Any]) -> list[str]:
    if "messages" in row:
        return [message["content"] for message in row["messages"]]
    return [row["prompt"], row["completion"]]


@pytest.mark.parametrize("level", ["words", "characters"])
@pytest.mark.parametrize("task", list(TASKS))
def test_everything_said_is_known_and_decodes_to_itself(task: str, level: str) -> None:
    if level == "words" and task in ("random-walks", "toll-road"):
        pytest.skip("their answers are letters without spaces")
    tokenizer = make_tokenizer(f"text:{task}", level=level)
    for row in generate_rows(f"text:{task}", games=20):
        for text in texts_of(row):
            tokens = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in tokens
            assert tokenizer.decode(tokens, skip_special_tokens=True) == text


def test_vocabularies_are_small() -> None:
    sizes = {
        task: len(make_tokenizer(f"text:{task}", {"style": "short"} if "maze" in task else None)) for task in TASKS
    }
    assert sizes == {"maze": 43, "maze-partial": 15, "wordle": 32, "random-walks": 28, "toll-road": 11, "market": 24}


def test_the_chat_template_marks_what_the_assistant_says() -> None:
    tokenizer = make_tokenizer("text:maze", {"style": "short"})
    messages = [
        {"role": "user", "content": "at 1,1 goal 8,6 walls above"},
        {"role": "assistant", "content": "move right"},
        {"role": "user", "content": "at 1,2 goal 8,6 walls above below"},
    ]
    found = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    said = [token for token, mine in zip(found["input_ids"], found["assistant_masks"], strict=True) if mine]
    assert tokenizer.convert_ids_to_tokens(said) == ["move", "right", "<eos>"]
    whole = tokenizer.convert_ids_to_tokens(found["input_ids"])
    assert whole[:8] == ["<user>", "at", "1,1", "goal", "8,6", "walls", "above", "<assistant>"]
    assert whole[-1] == "<assistant>"  # where the value of a game that was cut off goes on from


@pytest.mark.parametrize("asks", [True, False])
def test_the_template_lays_out_a_game_as_the_continuation_of_its_beginning(asks: bool) -> None:
    tokenizer = make_tokenizer("text:market")
    row = next(generate_rows("text:market", games=1))
    shown = ""
    for end in range(1, len(row["messages"]) + 1):
        text = tokenizer.apply_chat_template(row["messages"][:end], tokenize=False, add_generation_prompt=asks)
        assert text.startswith(shown)
        shown = text


def test_saved_and_loaded(tmp_path: Path) -> None:
    tokenizer = make_tokenizer("text:wordle")
    tokenizer.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded("crane")["input_ids"] == tokenizer("crane")["input_ids"]
    assert len({loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id, loaded.unk_token_id}) == 4
    assert loaded.decode(loaded("crane")["input_ids"] + [loaded.eos_token_id], skip_special_tokens=True) == "crane"


def test_wrong_requests() -> None:
    with pytest.raises(RequestError, match="expected words or characters"):
        make_tokenizer("text:maze", level="letters")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="names no vocabulary"):
        make_tokenizer("text:environments.text.test_data_and_evaluation:Counting")
