"""Decoding with values: inside `generate`, beside another policy, merged into a plain checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LogitsProcessorList

from language.tiny import ARCHITECTURES, larger_weights, tiny
from qseq.errors import DataError, RequestError
from qseq.language import (
    GuidanceConfig,
    LanguageModelConfig,
    LoraConfig,
    QLanguageModel,
    QLogitsProcessor,
    SupportConfig,
    TextObjectiveConfig,
    merge_q_head,
)
from qseq.language.rescoring import best_of_each, values_of_answers
from qseq.language.support import choose_support
from qseq.language.values import ReturnRange

V = 20
IDS = torch.tensor([[0, 0, 2, 5, 6], [2, 7, 8, 9, 10]])
MASK = (IDS != 0).long()
SUPPORT = SupportConfig(top_k=6, top_p=1.0, min_p=0.0)
LINEAR = TextObjectiveConfig(value="unbounded")


def model_on(
    architecture: str = "gpt2", objective: TextObjectiveConfig = LINEAR, beta: float = 2.0, **heads: Any
) -> QLanguageModel:
    lm = tiny(architecture, vocabulary=V)
    model = QLanguageModel.on(
        lm,
        LanguageModelConfig(**heads),
        objective,
        returns=ReturnRange(-3.0, 5.0),
        guidance=GuidanceConfig(beta=beta, support=SUPPORT),
    )
    larger_weights(model)
    model.generation_config.eos_token_id = None
    return model.eval()


def generate(model: Any, **options: Any) -> torch.Tensor:
    arguments = {
        "attention_mask": MASK,
        "max_new_tokens": 6,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": None,
    }
    return model.generate(IDS, **{**arguments, **options})


@torch.no_grad()
def slowly(model: QLanguageModel, steps: int = 6) -> torch.Tensor:
    """Greedy decoding without a cache, by the formula."""
    ids, mask = IDS, MASK.bool()
    for _ in range(steps):
        hidden_BD = model.encode(ids, mask)[:, -1]
        logits_BV = model.policy_logits(hidden_BD)
        q_BV = model.returns.from_unit(model.values.values(model.q_logits(hidden_BD)))
        kept = logits_BV >= logits_BV.topk(6).values[:, -1:]
        best = (logits_BV + 2.0 * q_BV).masked_fill(~kept, -torch.inf).argmax(-1, keepdim=True)
        ids, mask = torch.cat([ids, best], 1), torch.cat([mask, torch.ones_like(best, dtype=torch.bool)], 1)
    return ids


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_generate_follows_the_formula_with_its_cache(architecture: str) -> None:
    for heads in ({}, {"rows": "tied", "dueling": True, "twin_critics": True}, {"lora": LoraConfig(rank=2)}):
        model = model_on(architecture, **heads)
        assert torch.equal(generate(model), slowly(model))
        assert not torch.equal(generate(model), generate(model.guided(beta=0.0)))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_beams_and_samples_stay_within_the_support(architecture: str) -> None:
    model = model_on(architecture)
    torch.manual_seed(0)
    for options in ({"num_beams": 3}, {"do_sample": True, "top_k": 0, "num_return_sequences": 4}):
        whole = generate(model, **options)
        count = len(whole) // len(IDS)
        mask = torch.cat([MASK.repeat_interleave(count, 0), torch.ones_like(whole[:, 5:])], 1).bool()
        with torch.no_grad():
            logits = model.policy_logits(model.encode(whole, mask)[:, 4:-1].flatten(0, 1))
        tokens_NK, _ = choose_support(logits, SUPPORT)
        assert (tokens_NK == whole[:, 5:].reshape(-1, 1)).any(1).all()


def test_an_infinite_beta_takes_the_greatest_q_of_the_support() -> None:
    model = model_on(beta=float("inf"))
    with torch.no_grad():
        hidden_BD = model.encode(IDS, MASK.bool())[:, -1]
        tokens_BK, _ = choose_support(model.policy_logits(hidden_BD), SUPPORT)
        q_BK = model.q_values_at(hidden_BD, tokens_BK)
        best = tokens_BK.gather(1, q_BK.argmax(1, keepdim=True))
    torch.manual_seed(0)
    for options in ({}, {"do_sample": True}):
        assert torch.equal(generate(model, max_new_tokens=1, **options)[:, -1:], best)


def test_support_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
    cases = {
        (2, 1.0, 0.0): [0, 1],
        (0, 0.7, 0.0): [0, 1],
        (0, 0.75, 0.0): [0, 1],
        (0, 0.76, 0.0): [0, 1, 2],
        (0, 1.0, 0.4): [0, 1],
        (0, 0.0, 0.0): [0],
        (0, 1.0, 0.0): [0, 1, 2, 3],
    }
    for (top_k, top_p, min_p), expected in cases.items():
        tokens, inside = choose_support(logits, SupportConfig(top_k=top_k, top_p=top_p, min_p=min_p))
        assert tokens[inside].tolist() == expected


@pytest.mark.parametrize("heads", [{}, {"rows": "tied"}, {"dueling": True}, {"rows": "tied", "dueling": True}])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_merged_head_is_a_plain_checkpoint(architecture: str, heads: dict[str, Any], tmp_path: Path) -> None:
    model = model_on(architecture, **heads)
    merge_q_head(model).save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not isinstance(plain, QLanguageModel)
    with torch.no_grad():
        hidden = model.encode(IDS, MASK.bool())
        q = model.returns.from_unit(model.values.values(model.q_logits(hidden.flatten(0, 1)))).unflatten(0, IDS.shape)
        expected = (model.policy_logits(hidden) + 2.0 * q).log_softmax(-1)
        positions = (MASK.cumsum(-1) - 1).clamp_min(0)
        found = plain(IDS, attention_mask=MASK, position_ids=positions).logits.log_softmax(-1)
    assert (found - expected)[MASK.bool()].abs().max() < 1e-4


def test_merging_takes_adapters_along(tmp_path: Path) -> None:
    model = model_on("llama", lora=LoraConfig(rank=2))
    merge_q_head(model, beta=0.0).save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = model.policy_logits(model.encode(IDS[1:]))
        assert torch.allclose(plain(IDS[1:]).logits, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("objective", "heads"), [(TextObjectiveConfig(), {}), (LINEAR, {"twin_critics": True})], ids=["bounded", "twin"]
)
def test_what_is_not_linear_is_not_merged(objective: TextObjectiveConfig, heads: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="merge: found"):
        merge_q_head(model_on(objective=objective, **heads))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_files_keep_outputs_and_the_language_model_loads_alone(architecture: str, tmp_path: Path) -> None:
    objective = TextObjectiveConfig(bootstrap="expectile", value="categorical", value_atoms=11)
    for number, heads in enumerate(({}, {"rows": "tied", "dueling": True, "twin_critics": True})):
        model = model_on(architecture, objective, **heads)
        folder = tmp_path / str(number)
        model.save_pretrained(folder)
        with torch.no_grad():
            expected = model(IDS).logits
            assert torch.equal(QLanguageModel.from_pretrained(folder)(IDS).logits, expected)
            assert torch.equal(AutoModelForCausalLM.from_pretrained(folder)(IDS).logits, expected)
            assert not torch.equal(QLanguageModel.from_pretrained(folder, beta=0.0)(IDS).logits, expected)
            model.language_model.save_pretrained(folder / "plain")
            plain = AutoModelForCausalLM.from_pretrained(folder / "plain")
            assert torch.allclose(plain(IDS).logits, model.policy_logits(model.encode(IDS)), atol=1e-5)
        description = folder / "config.json"
        description.write_text(description.read_text().replace('"rows"', '"rows'))
        with pytest.raises(DataError, match=r"config\.json"):
            QLanguageModel.from_pretrained(folder)


def test_ends_of_a_turn_that_only_the_generation_settings_name_are_kept(tmp_path: Path) -> None:
    language_model: Any = tiny(vocabulary=V)
    language_model.generation_config.eos_token_id = [1, 7]
    model = QLanguageModel.on(language_model)
    assert model.generation_config.eos_token_id == [1, 7]
    model.save_pretrained(tmp_path)
    assert QLanguageModel.from_pretrained(tmp_path).generation_config.eos_token_id == [1, 7]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 0}])
def test_processor_beside_a_policy_equals_the_shared_trunk(options: dict[str, Any]) -> None:
    """With the same weights in both places: the cache of its own follows rows, also where beams move them."""
    model = model_on("llama")
    processor = QLogitsProcessor(model, pad_token_id=0)
    torch.manual_seed(0)
    inside = generate(model, **options)
    torch.manual_seed(0)
    beside = generate(model.language_model, logits_processor=LogitsProcessorList([processor]), **options)
    assert torch.equal(inside, beside)
    torch.manual_seed(0)
    assert torch.equal(generate(model.language_model, logits_processor=[processor], **options), beside)  # used again


def test_processor_refuses_another_vocabulary() -> None:
    processor = QLogitsProcessor(model_on(), pad_token_id=0)
    with pytest.raises(RequestError, match="found 20 tokens, expected 7"):
        processor(IDS, torch.zeros(2, 7))


def test_best_of_takes_the_answer_whose_last_token_is_worth_most() -> None:
    model = model_on()
    whole = torch.tensor([[2, 5, 6, 1, 0], [2, 5, 7, 8, 1], [2, 6, 3, 3, 3], [2, 6, 1, 0, 0]])
    mask = torch.ones(4, 2, dtype=torch.bool)
    with torch.no_grad():
        values = values_of_answers(model, whole, mask, ends={1})
        for row, last in enumerate([3, 4, 4, 2]):
            hidden = model.encode(whole[row : row + 1, :last])[:, -1]
            assert values[row] == pytest.approx(float(model.q_values_at(hidden, whole[row, last].view(1, 1))), abs=1e-4)
        best = best_of_each(model, whole, mask, candidates=2, ends={1})
    chosen = [int(values[0] < values[1]), 2 + int(values[2] < values[3])]
    assert torch.equal(best, whole[chosen])
