"""Whole runs: the command line, `QRLHF`, resuming, what a wrong request says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cli.tools import Command
from language.tiny import tiny
from qseq.errors import ConfigError, RequestError
from qseq.language import (
    QRLHF,
    LanguageModelConfig,
    LanguagePolicy,
    LoraConfig,
    QLanguageModel,
    TextDataConfig,
    TextObjectiveConfig,
)
from qseq.language.tokenizers import build_tokenizer
from qseq.registry import load_policy

ALGORITHMS = ("qrlhf", "ilql", "lm-bc", "lm-filtered-bc", "lm-mc")
TINY = [
    "model.settings={hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 32}",
    "training.batch_size=8",
    "training.trackers=[]",
    "training.threads=1",
    "training.checkpoint_every=4",
    "training.log_every=2",
]


@pytest.fixture
def qseq(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.delenv("QSEQ_DEBUG", raising=False)
    monkeypatch.setenv("QSEQ_PROGRESS", "0")
    return Command(capsys)


def rows(count: int = 40, letters: int = 3) -> list[dict[str, Any]]:
    """The policy says some letters. One that follows its predecessor in the alphabet earns 1, and "d" costs 1.5."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(count):
        prompt = str(random.choice(list("abc")))
        completion = "".join(random.choice(list("abcd"), letters))
        before = prompt + completion
        rewards = [float(ord(b) == ord(a) + 1) - 1.5 * (b == "d") for a, b in zip(before, completion, strict=False)]
        made.append({"prompt": prompt, "completion": completion, "rewards": rewards})
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows())))
    return path


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_train_resume_and_generate(algorithm: str, qseq: Command, data: Path, tmp_path: Path) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    train = ("train", "--algo", algorithm, "--data", data, *TINY)
    assert qseq(*train, "--out", run, "--steps", 8).status == 0
    assert qseq(*train, "--out", other, "--steps", 4).status == 0
    resumed = qseq(*train, "--out", other, "--steps", 8, "--resume")
    assert resumed.status == 0, resumed.err
    for name in ("model.safetensors", "optimizer.safetensors"):
        same = [(folder / "checkpoints" / "step_00000008" / name).read_bytes() for folder in (run, other)]
        assert same[0] == same[1], name
    answers = qseq("generate", run, "--prompt", "a", "--prompt", "b", "--json", "--max-new-tokens", 5)
    assert answers.status == 0, answers.err
    found = [json.loads(line) for line in answers.out.splitlines()]
    assert [answer["prompt"] for answer in found] == ["a", "b"]
    again = qseq("generate", run, "--prompt", "a", "--prompt", "b", "--json", "--max-new-tokens", 5)
    assert again.out == answers.out


def test_every_way_to_generate(qseq: Command, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert qseq("train", "--algo", "qrlhf", "--data", data, "--out", run, "--steps", 4, *TINY).status == 0
    generate = ("generate", run, "--prompt", "ab", "--max-new-tokens", 4)
    for more in (["--greedy"], ["--beams", 2], ["--best-of", 3], ["--beta", "inf"], ["--temperature", 0.5]):
        outcome = qseq(*generate, *more)
        assert outcome.status == 0, outcome.err
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"messages": [{"role": "user", "content": "b"}]}\n')
    assert qseq("generate", run, "--prompts", prompts).status == 0
    for more, message in {
        (): "--prompt: found none",
        ("--prompt", "a", "--best-of", 2, "--greedy"): "best_of: found 2 without sampling",
        ("--prompt", "a" * 40): "prompt: found 41 tokens, expected fewer than 32",
    }.items():
        outcome = qseq("generate", run, *more)
        assert outcome.status == 2
        assert message in outcome.error


def test_wrong_requests_are_one_line(qseq: Command, data: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"prompt": "a", "completion": "b", "rewards": [1, 2, 3, 4]}))
    for arguments, message in {
        ("--data", bad): "row 0: rewards: found 4 numbers",
        ("--data", tmp_path / "none.jsonl"): "no such file",
        ("--data", data, "objective.minimum_retrun=-1"): "nearest valid key is objective.minimum_return",
        ("--data", data, "objective.maximum_return=0.1"): "returns in the data span",
        ("--data", data, "model.architecture=gpt9"): "model.architecture: found 'gpt9'",
        ("--data", data, f"model.path={tmp_path / 'nothing'}"): "nothing",
        ("--data", data, "data.max_length=99"): "data.max_length: found 99, expected at most 32",
        ("--data", data, "objective.bootstrap=sarsa", "objective.carry=turn"): "objective.carry",
        ("--data", data, "model.train=heads"): "objective.cloning_weight",
    }.items():
        outcome = qseq("train", "--algo", "qrlhf", *arguments[:2], "--out", tmp_path / "x", *TINY, *arguments[2:])
        assert outcome.status == 2, outcome.err
        assert message in outcome.error
        assert not (tmp_path / "x").exists()


def test_qrlhf_trains_when_called_and_learns(tmp_path: Path) -> None:
    tokenizer = build_tokenizer("characters", ["abcd"])
    language_model = tiny("llama", vocabulary=len(tokenizer))
    learner = QRLHF(
        language_model,
        rows(300, letters=2),
        accelerate_kwargs={"cpu": True},
        ema_kwargs={"beta": 0.95, "update_every": 1},
        tokenizer=tokenizer,
        num_train_steps=400,
        objective=TextObjectiveConfig(carry="text"),
        learning_rate=3e-3,
        checkpoint_folder=tmp_path / "run",
        training_kwargs={"trackers": [], "threads": 1, "warmup_steps": 10},
    )
    checkpoint = learner()
    assert checkpoint is not None
    policy = load_policy(checkpoint, beta=float("inf"), sample=False)
    assert isinstance(policy, LanguagePolicy)
    answer = policy.respond(["a"])[0]
    assert answer == "bc"
    policy.save_pretrained(tmp_path / "policy")
    assert LanguagePolicy.from_pretrained(tmp_path / "policy", beta=float("inf")).respond(["a"]) == policy.respond(
        ["a"]
    )
    assert policy.describe()["trunk"] == "llama"


def test_the_policy_of_a_learner_ends_as_its_data_do() -> None:
    tokenizer = build_tokenizer("characters", ["abcd"])
    data = TextDataConfig(turn_end="\n", max_length=16)
    learner = QRLHF(tiny(vocabulary=len(tokenizer)), rows(3), tokenizer=tokenizer, data=data)
    assert learner.policy.end == tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert learner.policy.max_length == 16


def test_adapters_train_alone() -> None:
    tokenizer = build_tokenizer("characters", ["abcd"])
    language_model = tiny("qwen2", vocabulary=len(tokenizer))
    before = {name: p.detach().clone() for name, p in language_model.named_parameters()}
    heads = LanguageModelConfig(lora=LoraConfig(rank=2), average_trunk=True, rows="tied")
    learner = QRLHF(
        language_model,
        rows(),
        tokenizer=tokenizer,
        heads=heads,
        num_train_steps=3,
        training_kwargs={"trackers": [], "warmup_steps": 0},
    )
    assert learner() is None
    after = {name.replace(".base_layer", ""): p for name, p in learner.model.language_model.named_parameters()}
    assert all(torch.equal(after[name], p) for name, p in before.items())
    assert any("lora_B" in name and p.abs().sum() > 0 for name, p in after.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"accelerate_kwargs": {"gpu": True}}, "accelerate_kwargs: found 'gpu'"),
        ({"ema_kwargs": {"decay": 0.9}}, "ema_kwargs: found 'decay'"),
        ({"accelerate_kwargs": {"mixed_precision": "fp16"}}, "mixed_precision='fp16'"),
        ({"training_kwargs": {"steps": 3}}, "training_kwargs: found 'steps'"),
        ({"tokenizer": None}, "tokenizer: found none"),
    ],
)
def test_keywords_that_mean_nothing_are_refused(arguments: dict[str, Any], message: str) -> None:
    tokenizer = build_tokenizer("characters", ["abcd"])
    with pytest.raises(RequestError, match=message):
        QRLHF(tiny(vocabulary=len(tokenizer)), rows(3), **{"tokenizer": tokenizer, **arguments})


def test_models_whose_logits_are_scaled_are_refused() -> None:
    model: Any = tiny("llama")
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(RequestError, match="final_logit_softcapping"):
        QLanguageModel.on(model)


def test_objectives_that_contradict_themselves() -> None:
    with pytest.raises(ConfigError, match="carry"):
        TextObjectiveConfig(bootstrap="expectile", carry="turn")
    with pytest.raises(ConfigError, match="conservative_samples"):
        TextObjectiveConfig(conservative="softmax", conservative_samples=3)
