"""Two critics, double Q, consistency, orders: hand-worked targets and penalties.

Legend: A action tokens of a decision, K bins, C critics.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from qseq.errors import ConfigError
from qseq.networks.head import HeadConfig
from qseq.robot import QObjective, QObjectiveConfig
from qseq.robot.token_order import make_token_order
from qseq.values import BoundedValue, CategoricalValue, LeastOf, consistency_penalty
from tests.robot.test_objective import DISCOUNT, LOGITS, FixedLogits, episode, objective_and_batch, sigmoid

OTHER = torch.tensor([[0.9, -0.5, 0.0, 0.2], [0.6, -1.0, 0.3, -2.0]])  # its best bins are 0 and 0, LOGITS' 1 and 1


class OrderedLogits(FixedLogits):
    """Logits by token, looked up by the order; token 0 chooses the order where there is one more than A."""

    def decode_in_order(self, context: Tensor, prefix_BP: Tensor, order_BT: Tensor) -> Tensor:
        return self.logits_AK[order_BT[:, : prefix_BP.shape[1] + 1]] + context[:, None]


def with_head(objective: QObjective, **options: object) -> QObjective:
    return QObjective(
        objective.tokenizer,
        objective.spec,
        objective.config,
        objective.instructions,
        head=HeadConfig(**options),  # type: ignore[arg-type]
    )


# --- two critics -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [BoundedValue(), CategoricalValue(num_atoms=11)])
def test_the_least_of_two_values_and_the_mean_of_their_losses(base: BoundedValue | CategoricalValue) -> None:
    twin = LeastOf(base)
    assert twin.atom_shape == (2, *base.atom_shape)
    logits = torch.randn(5, 3, *twin.atom_shape)
    first, second = logits[:, :, 0], logits[:, :, 1]
    targets, weights = torch.rand(5, 3), torch.rand(5, 1)
    torch.testing.assert_close(twin.values(logits), torch.minimum(base.values(first), base.values(second)))
    expected = (base.loss(first, targets) + base.loss(second, targets)) / 2 * weights
    torch.testing.assert_close(twin.loss(logits, targets, weights), expected)


def test_targets_are_made_of_the_smaller_value_and_both_critics_learn(tmp_path: Path) -> None:
    plain, batch, _ = objective_and_batch(tmp_path, [episode([0.25, 0.0], terminated=False)], step=0)
    objective = with_head(plain, dual_critics=True)
    both_AKC = torch.stack((LOGITS, OTHER), dim=-1)

    class Twin(FixedLogits):
        def decode(self, context: Tensor, prefix_BP: Tensor) -> Tensor:
            return self.logits_AK[: prefix_BP.shape[1] + 1] + context[:, None, :, None]

    targets = objective.targets(batch, Twin(both_AKC), torch.tensor([[0, 3]]))
    smaller = torch.minimum(LOGITS, OTHER).amax(1)
    expected = [sigmoid(smaller[1].item()), 0.25 + DISCOUNT * sigmoid(smaller[0].item() + 0.1)]
    torch.testing.assert_close(targets, torch.tensor([expected]))

    online = Twin(both_AKC)
    objective.loss(batch, online, Twin(both_AKC)).total.backward()
    assert online.logits_AK.grad is not None
    taken = online.logits_AK.grad[torch.arange(2), torch.tensor([0, 3])]
    # Each is pushed by its own distance to the one target, also the one that is not the smaller.
    alone = FixedLogits(OTHER)
    with_head(plain).values.loss(alone.logits_AK[torch.arange(2), torch.tensor([0, 3])], targets[0]).mean().backward()
    assert alone.logits_AK.grad is not None
    torch.testing.assert_close(taken[:, 1], 0.5 * 0.5 * alone.logits_AK.grad[torch.arange(2), torch.tensor([0, 3])])
    assert (taken != 0).all()


# --- double Q ----------------------------------------------------------------------------------------------------


def test_double_q_lets_the_online_network_choose_and_the_target_say_the_value(tmp_path: Path) -> None:
    objective, batch, _ = objective_and_batch(
        tmp_path, [episode([0.25, 0.0], terminated=False)], step=0, double_q=True, conservative_weight=0.0
    )
    losses = objective.loss(batch, FixedLogits(OTHER), FixedLogits(LOGITS))
    inside, after = sigmoid(LOGITS[1, 0].item()), 0.25 + DISCOUNT * sigmoid(LOGITS[0, 0].item() + 0.1)
    assert losses.terms["target"].item() == pytest.approx((inside + after) / 2, abs=1e-6)


# --- consistency -------------------------------------------------------------------------------------------------


def test_the_consistency_penalty_by_hand() -> None:
    values = torch.tensor([[[0.1, 0.5, 0.9], [0.3, 0.2, 0.1]]], requires_grad=True)
    chosen = torch.tensor([[1, 1]])
    weights = torch.tensor([[1.0, 1.0]])
    penalty = consistency_penalty(values, chosen, weights_BP=weights)
    assert penalty.item() == pytest.approx(((0.9 - 0.5) + (0.3 - 0.2)) / 2)
    penalty.backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad[0], torch.tensor([[0.0, -0.5, 0.5], [0.5, -0.5, 0.0]]))
    mask = torch.tensor([[True, True, False], [True, True, True]])
    masked = consistency_penalty(values, chosen, weights_BP=torch.tensor([[2.0, 0.0]]), token_mask_PK=mask)
    assert masked.item() == 0.0


@pytest.mark.parametrize("terminated", [True, False])
def test_choices_made_for_targets_are_held_inside_the_decision_and_after_it(tmp_path: Path, terminated: bool) -> None:
    objective, batch, _ = objective_and_batch(
        tmp_path, [episode([0.25], terminated=terminated)], step=0, consistency_weight=1.0
    )
    losses = objective.loss(batch, FixedLogits(OTHER), FixedLogits(LOGITS))

    def excess(token: int, shift: float) -> float:
        chosen = sigmoid(OTHER[token, 1].item() + shift)
        return sum(max(sigmoid(logit + shift) - chosen, 0.0) for logit in OTHER[token].tolist())

    expected = excess(1, 0.0) if terminated else (excess(1, 0.0) + excess(0, 0.1)) / 2
    assert losses.terms["inconsistency"].item() == pytest.approx(expected, abs=1e-6)
    agreed = objective.loss(batch, FixedLogits(LOGITS), FixedLogits(LOGITS))
    assert agreed.terms["inconsistency"].item() == 0.0


# --- orders ------------------------------------------------------------------------------------------------------


def test_in_another_order_the_backup_is_the_same_one(tmp_path: Path) -> None:
    plain, batch, _ = objective_and_batch(tmp_path, [episode([0.25, 0.0], terminated=False)], step=0)
    objective = with_head(plain, dimension_order="random")
    seen = set()
    for seed in range(20):
        torch.manual_seed(seed)
        sequence = objective.order.lay_out(torch.tensor([[0, 3]]), torch.ones(1, 2))
        assert sequence.order_BT is not None
        order = sequence.order_BT[0].tolist()
        seen.add(tuple(order))
        assert sequence.tokens_BT[0].tolist() == [[0, 3][token] for token in order]
        targets = objective._backup(batch, OrderedLogits(LOGITS), sequence).targets_BA  # type: ignore[arg-type]
        inside, after = sigmoid(LOGITS[order[1]].max().item()), sigmoid(LOGITS[order[0]].max().item() + 0.1)
        torch.testing.assert_close(targets, torch.tensor([[inside, 0.25 + DISCOUNT * after]]))
    assert seen == {(0, 1), (1, 0)}


def test_the_token_that_chooses_the_order_is_worth_the_best_that_can_follow_and_is_not_pulled_down(
    tmp_path: Path,
) -> None:
    plain, batch, _ = objective_and_batch(tmp_path, [episode([0.25, 0.0], terminated=False)], step=0)
    objective = with_head(plain, dimension_order="learned")
    # Bins 2 and 3 of the first token do not exist (two dimensions have two orders), however well they score.
    logits = torch.cat((torch.tensor([[0.4, -0.3, 5.0, 5.0]]), LOGITS))
    firsts = set()
    for seed in range(20):
        torch.manual_seed(seed)
        sequence = objective.order.lay_out(torch.tensor([[0, 3]]), torch.ones(1, 2))
        assert sequence.order_BT is not None
        order = sequence.order_BT[0].tolist()
        assert order[0] == 0
        assert sequence.tokens_BT[0, 0].item() == (0 if order == [0, 1, 2] else 1)
        firsts.add(order[1])
        targets = objective._backup(batch, OrderedLogits(logits), sequence).targets_BA  # type: ignore[arg-type]
        expected = [
            sigmoid(logits[order[1]].max().item()),
            sigmoid(logits[order[2]].max().item()),
            0.25 + DISCOUNT * sigmoid(0.4 + 0.1),
        ]
        torch.testing.assert_close(targets, torch.tensor([expected]))
    assert firsts == {1, 2}
    network = OrderedLogits(logits)
    objective.loss(batch, network, OrderedLogits(logits)).total.backward()
    assert network.logits_AK.grad is not None
    # Only the order that was drawn is trained: a regulariser would pull the other one down.
    assert (network.logits_AK.grad[0] != 0).sum() == 1
    assert (network.logits_AK.grad[0, 2:] == 0).all()
    assert (network.logits_AK.grad[1:].abs() > 0).all()


def test_random_orders_stay_inside_the_actions_of_a_chunk() -> None:
    from qseq.actions import make_tokenizer
    from tests.robot.bandit import ACTION_SPACE

    tokenizer = make_tokenizer(ACTION_SPACE, num_bins=4, chunk=3)
    weights = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    sequence = make_token_order(HeadConfig(dimension_order="random"), tokenizer).lay_out(
        torch.zeros(1, 6).long(), weights
    )
    assert torch.equal(sequence.weights_BT, weights)


def test_options_that_need_a_maximum_are_refused_without_one() -> None:
    for options in ({"double_q": True}, {"consistency_weight": 0.1}):
        with pytest.raises(ConfigError, match=f'objective.{next(iter(options))}: found .* objective.bootstrap="max"'):
            QObjectiveConfig(**options)  # type: ignore[arg-type]
