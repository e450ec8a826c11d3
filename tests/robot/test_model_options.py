"""`QRoboticTransformer`, `QLearner` and the policy with the options of the head and of decoding."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qseq import QLearner, QRoboticTransformer
from qseq.errors import ConfigError, RequestError
from qseq.robot import QObjectiveConfig, QTransformerPolicy
from tests.robot.bandit import DISCRETE_SPACE, corner_episodes, write_view
from tests.robot.test_model import A, B, K, make_model

HEADS: list[dict[str, Any]] = [
    {"dueling": True},
    {"dueling": True, "weight_tie_action_bin_embed": True},
    {"dual_critics": True, "dueling": True},
    {"dimension_order": "random"},
    {"dimension_order": "learned", "num_orders": 3},
    {"dimension_order": "learned", "dual_critics": True},
]


@pytest.mark.parametrize("options", HEADS, ids=str)
@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_prefix_is_kept_and_q_is_that_of_forward(options: dict[str, Any], length: int) -> None:
    model, state = make_model(**options), torch.randn(B, 4)
    prefix = torch.randint(0, K, (B, length))
    tokens, values = model.get_optimal_actions(state, actions=prefix, return_q_values=True)
    assert torch.equal(tokens[:, :length], prefix)
    assert values.shape == (B, A, K)
    assert torch.equal(tokens[:, length:], values.argmax(-1)[:, length:])
    if options.get("dimension_order") != "learned" or length:
        torch.testing.assert_close(values, model(state, actions=tokens), atol=1e-5, rtol=0)
    assert model(state, actions=prefix).shape == (B, min(length + 1, A), K)


def test_an_order_of_decoding_is_kept_to_and_refused_where_it_was_not_trained() -> None:
    model, state = make_model(dimension_order="random"), torch.randn(B, 4)
    for order in permutations(range(A)):
        tokens, values = model.get_optimal_actions(state, order=order, return_q_values=True)
        along = model(state, actions=tokens[:, list(order)], order=order)
        torch.testing.assert_close(values[:, list(order)], along, atol=1e-5, rtol=0)
        assert torch.equal(tokens, values.argmax(-1))
    prefix = torch.full((B, 1), 5)
    assert (model.get_optimal_actions(state, actions=prefix, order=(2, 0, 1))[:, 2] == 5).all()
    with pytest.raises(RequestError, match=r"order: found \[0, 0, 1\], expected each of the 3 dimensions"):
        model.get_optimal_actions(state, order=(0, 0, 1))
    with pytest.raises(RequestError, match='trained with dimension_order "fixed"'):
        make_model().get_optimal_actions(state, order=(0, 1, 2))


def test_the_first_token_chooses_the_order() -> None:
    model, state = make_model(dimension_order="learned", num_orders=6), torch.randn(B, 4)
    assert model.orders_MA is not None
    assert len(model.orders_MA) == 6
    for choice, order in enumerate(model.orders_MA):
        with torch.no_grad():
            model.decoder.output_bias_AK[0] = torch.nn.functional.one_hot(torch.tensor(choice), K) * 50.0
        tokens, values = model.get_optimal_actions(state, return_q_values=True)
        torch.testing.assert_close(values[:, order], along(model, state, tokens, choice), atol=1e-5, rtol=0)
        assert torch.equal(tokens, values.argmax(-1))


def test_a_full_beam_finds_the_best_of_all_decisions_in_all_orders() -> None:
    model, state = make_model(dimension_order="learned", num_orders=4, action_bins=4), torch.randn(B, 4)
    decisions = torch.tensor(list(product(range(4), repeat=A)))
    tokens, values = model.get_optimal_actions(state, return_q_values=True, beam_width=16)
    for row in range(B):
        repeated = state[row].expand(len(decisions), -1)
        best = []
        for choice, order in enumerate(model.orders_MA):  # type: ignore[arg-type]
            last = along(model, repeated, decisions, choice)[:, -1].gather(1, decisions[:, order[-1:]])[:, 0]
            best.append((last.max().item(), decisions[last.argmax()].tolist()))
        assert tokens[row].tolist() == max(best)[1]
        assert values[row].amax(-1).max().item() >= max(best)[0] - 1e-5


def along(model: QRoboticTransformer, state: torch.Tensor, tokens: torch.Tensor, choice: int) -> torch.Tensor:
    """Q of the dimensions, laid out in the order of that number, from one pass over the decision."""
    assert model.orders_MA is not None
    order = model.orders_MA[choice]
    sequence = torch.cat((torch.full((len(tokens), 1), choice), tokens[:, order]), dim=1)
    order_BT = torch.cat((torch.zeros(1, dtype=torch.long), order + 1)).expand(len(tokens), -1)
    logits = model.decode_in_order(model.encode_state(state), sequence[:, :-1], order_BT)
    return model.values.values(logits)[:, 1:]


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("n_step", [False, True])
def test_one_token_learns_in_one_and_several_steps_with_texts(
    tmp_path: Path, dueling: bool, pooled: bool, n_step: bool
) -> None:
    """The same state asks for another action where the text is another."""
    from qseq.episodes import Episode

    random = np.random.default_rng(0)
    episodes = []
    for number in range(300):
        text, best = (("left", 1), ("right", 3))[number % 2]
        choice = random.integers(1, 4, size=2)
        success = bool(choice[1] == best)
        states = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], np.float32)
        episodes.append(
            Episode(
                observations={"state": states},
                actions=choice,
                rewards=np.array([0.0, float(success)], np.float32),
                terminated=True,
                truncated=False,
                success=success,
                instruction=text,
            )
        )
    view = write_view(tmp_path / "store", episodes, DISCRETE_SPACE)
    torch.manual_seed(0)
    model = QRoboticTransformer(
        state_dim=2, num_actions=1, action_bins=3, dim=16, heads=2, dim_head=8, dueling=dueling, pooled=pooled
    )
    QLearner(
        model,
        dataset=view,
        num_train_steps=120,
        batch_size=64,
        learning_rate=5e-3,
        objective=QObjectiveConfig(bootstrap="max", bootstrap_steps=(2 if n_step else 1,)),
        training_kwargs={"trackers": (), "warmup_steps": 0},
    )()
    state = torch.tensor([[1.0, 0.0]] * 2)
    values = model.eval()(state, ["left", "right"])
    assert values.shape == (2, 1, 3)
    assert values.argmax(-1)[:, 0].tolist() == [0, 2]
    first = model(torch.tensor([[0.0, 1.0]]), ["left"])
    assert first.max() > 0.05  # worth something, although the reward comes a step later


def test_two_critics_stay_two(tmp_path: Path) -> None:
    view = write_view(tmp_path / "store", corner_episodes(300))
    torch.manual_seed(0)
    model = QRoboticTransformer(
        state_dim=2, num_actions=2, action_bins=4, dim=16, heads=2, dim_head=8, dual_critics=True
    )
    objective = QObjectiveConfig(bootstrap="max", bootstrap_steps=(1,))
    before = [p.detach().clone() for p in model.decoder.parameters()]
    QLearner(
        model, dataset=view, num_train_steps=60, batch_size=64, learning_rate=3e-3, objective=objective,
        training_kwargs={"trackers": ()},
    )()  # fmt: skip
    assert all(not torch.equal(p, old) for p, old in zip(model.decoder.parameters(), before, strict=True))
    model.eval()
    context = model.encode_state(torch.randn(50, 2))
    logits = model.decode(context, torch.randint(4, (50, 1)))
    assert logits.shape == (50, 2, 4, 2)
    first, second = (model.state_value.values(logits[..., critic]) for critic in (0, 1))
    assert (first - second).abs().mean() > 1e-3
    torch.testing.assert_close(model.values.values(logits), torch.minimum(first, second))


def test_decoding_options_are_stored_and_noise_falls_over_the_life_of_a_policy(tmp_path: Path) -> None:
    from qseq.configuration import from_dict
    from qseq.robot import QTransformerConfig
    from qseq.robot.algorithm import make_trainer
    from qseq.training import save_tensors, tensors_of

    view = write_view(tmp_path / "store", corner_episodes(20))
    config = from_dict(
        QTransformerConfig,
        {"network": {"dim": 16}, "decoding": {"temperature": 4.0, "anneal_decisions": 10}},
    )
    trainer = make_trainer(config, view, run=tmp_path / "run", seed=0)
    (tmp_path / "policy").mkdir()
    assert trainer.save_model is not None
    trainer.save_model(trainer.model, tmp_path / "policy")
    save_tensors(tensors_of(trainer.model), tmp_path / "policy" / "model.safetensors")
    policy = QTransformerPolicy.from_pretrained(tmp_path / "policy")
    assert policy.decoding == config.decoding
    states = {"state": np.zeros((50, 2), np.float32)}
    spread = []
    for decision in range(12):
        policy.seed(decision)  # as at the start of each episode
        spread.append(policy.act(states).std(0).mean())
    assert spread[0] > 0.3
    assert spread[10] == spread[11] == 0.0
    greedy = QTransformerPolicy.from_pretrained(tmp_path / "policy", temperature=0.0)
    assert greedy.act(states).std(0).max() == 0.0
    with pytest.raises(ConfigError, match=r"decoding\.temperature and decoding\.beam_width"):
        QTransformerPolicy.from_pretrained(tmp_path / "policy", beam_width=2)


@pytest.mark.parametrize("options", [{}, *HEADS], ids=str)
def test_guidance_goes_with_every_head_and_with_beams(options: dict[str, Any]) -> None:
    model, state = make_model(action_bins=4, cond_drop_prob=0.1, **options).eval(), torch.randn(B, 4)
    texts = ["push the puck"] * B
    plain, guided = (model.get_optimal_actions(state, texts, return_q_values=True, cond_scale=c)[1] for c in (1.0, 3.0))
    torch.testing.assert_close(plain, model.get_optimal_actions(state, texts, return_q_values=True)[1])
    assert not torch.allclose(plain, guided, atol=1e-4)
    wide: dict[str, Any] = {"cond_scale": 3.0, "beam_width": 4 ** (A - 1), "return_q_values": True}
    tokens, values = model.get_optimal_actions(state, texts, **wide)
    uncached_tokens, uncached_values = model.get_optimal_actions(state, texts, use_cache=False, **wide)
    assert torch.equal(tokens, uncached_tokens)
    torch.testing.assert_close(values, uncached_values, atol=1e-5, rtol=0)
    if options.get("dimension_order") != "learned":
        decisions = torch.tensor(list(product(range(4), repeat=A)))
        for row in range(B):
            q = model(state[row].expand(len(decisions), -1), texts[:1], decisions, cond_scale=3.0)
            assert tokens[row].tolist() == decisions[q[:, -1].gather(1, decisions[:, -1:])[:, 0].argmax()].tolist()
