"""The Q-Transformer objective on hand-worked windows. Each test names the defect of earlier code it would catch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qseq.actions import ActionTokenizer, make_tokenizer
from qseq.episodes import Episode, EpisodeView, Windows, WindowSpec
from qseq.networks.text import Instruction
from qseq.robot import QObjective, QObjectiveConfig
from tests.robot.bandit import ACTION_SPACE, write_view

K = 4
DISCOUNT = 0.9
PLAIN = {
    "discount": DISCOUNT,
    "bootstrap_steps": (1,),
    "bootstrap": "max",
    "value_loss": "mse",
    "monte_carlo_bound": False,
    "carry": False,
}


class FixedLogits(nn.Module):
    """Stands in for the network: logits `[A, K]` of every prefix, shifted by the first entry of the state."""

    def __init__(self, logits_AK: Tensor) -> None:
        super().__init__()
        self.logits_AK = nn.Parameter(logits_AK.clone())

    def embed_instructions(self, inputs: Tensor, rows_B: Tensor) -> Instruction:
        return Instruction(torch.zeros(len(rows_B), 1))

    def see(self, observation: dict[str, Tensor], instruction: Instruction) -> dict[str, Tensor]:
        return {}

    def encode(
        self, observation: dict[str, Tensor], instruction: Instruction, seen: dict[str, Tensor] | None = None
    ) -> Tensor:
        return observation["state"][:, -1, :1]

    def decode(self, context: Tensor, prefix_BP: Tensor) -> Tensor:
        return self.logits_AK[: prefix_BP.shape[1] + 1] + context[:, None]


class ValuedLogits(FixedLogits):
    """With values of the state beside the bins, one a fold."""

    def __init__(self, logits_AK: Tensor, *value_logits: float) -> None:
        super().__init__(logits_AK)
        self.value_logits_K = nn.Parameter(torch.tensor(value_logits or (0.3,)))

    def state_values(self, observation: dict[str, Tensor], instruction: Instruction, seen: dict[str, Tensor]) -> Tensor:
        return (self.value_logits_K + observation["state"][:, -1, :1]).expand(len(instruction), -1)


def episode(rewards: list[float], *, terminated: bool) -> Episode:
    steps = len(rewards)
    return Episode(
        observations={"state": 0.1 * np.arange(steps + 1, dtype=np.float32)[:, None]},
        actions=np.tile(np.array([[-0.9, 0.9]], np.float32), (steps, 1)),  # tokens (0, 3)
        rewards=np.array(rewards, np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=False,
    )


def objective_and_batch(
    tmp_path: Path, episodes: list[Episode], step: int, **options: object
) -> tuple[QObjective, object, ActionTokenizer]:
    config = QObjectiveConfig(
        **(PLAIN | options)  # type: ignore[arg-type]
    )
    view = write_view(tmp_path / "store", episodes)
    spec = WindowSpec(bootstrap_steps=config.bootstrap_steps)
    tokenizer = make_tokenizer(ACTION_SPACE, num_bins=K)
    windows = Windows(view, spec, batch_size=1, seed=0, discount=DISCOUNT)
    objective = QObjective(tokenizer, spec, config, torch.ones(1, 1, dtype=torch.long))
    return objective, windows.windows_at(np.array([0]), np.array([step])), tokenizer


LOGITS = torch.tensor([[0.0, 0.5, -1.0, 0.2], [-0.5, 1.0, 0.3, -2.0]])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_inside_a_decision_the_next_dimension_and_at_its_end_the_reward_and_the_next_state(tmp_path: Path) -> None:
    objective, batch, _ = objective_and_batch(tmp_path, [episode([0.25, 0.0], terminated=False)], step=0)
    targets = objective.targets(batch, FixedLogits(LOGITS), torch.tensor([[0, 3]]))
    # The state's entry is 0 at step 0 and 0.1 at step 1. The best bin of dimension 1 has logit 1, of dimension 0, 0.5.
    expected = [sigmoid(1.0), 0.25 + DISCOUNT * sigmoid(0.5 + 0.1)]
    torch.testing.assert_close(targets, torch.tensor([expected]))


def test_the_reward_enters_the_loss(tmp_path: Path) -> None:
    losses = []
    for index, reward in enumerate((0.0, 1.0)):
        objective, batch, _ = objective_and_batch(tmp_path / str(index), [episode([reward], terminated=True)], step=0)
        network = FixedLogits(LOGITS)
        objective.loss(batch, network, FixedLogits(LOGITS)).total.backward()
        assert network.logits_AK.grad is not None
        losses.append(network.logits_AK.grad[1, 3].item())
    assert losses[1] < 0 < losses[0]  # a reward pushes the taken bin of the last dimension up, none pulls it down


def test_terminated_stops_the_bootstrap_and_truncated_does_not(tmp_path: Path) -> None:
    values = {}
    for terminated in (True, False):
        objective, batch, _ = objective_and_batch(
            tmp_path / str(terminated), [episode([0.0, 0.5], terminated=terminated)], step=1
        )
        values[terminated] = objective.targets(batch, FixedLogits(LOGITS), torch.tensor([[0, 3]]))[0, 1].item()
    assert values[True] == pytest.approx(0.5)
    assert values[False] == pytest.approx(0.5 + DISCOUNT * sigmoid(0.5 + 0.2))  # of the true last observation


def test_n_steps_skip_the_decisions_between(tmp_path: Path) -> None:
    rewards = [0.1, 0.0, 0.2, 0.0, 0.0]
    objective, batch, _ = objective_and_batch(
        tmp_path, [episode(rewards, terminated=False)], step=0, bootstrap_steps=(3,)
    )
    targets = objective.targets(batch, FixedLogits(LOGITS), torch.tensor([[0, 3]]))
    expected = 0.1 + DISCOUNT**2 * 0.2 + DISCOUNT**3 * sigmoid(0.5 + 0.3)
    assert targets[0, 1].item() == pytest.approx(expected)
    # Near the end fewer steps are taken, and discounted as such.
    _, late, _ = objective_and_batch(
        tmp_path / "late", [episode(rewards, terminated=False)], step=4, bootstrap_steps=(3,)
    )
    assert objective.targets(late, FixedLogits(LOGITS), torch.tensor([[0, 3]]))[0, 1].item() == pytest.approx(
        DISCOUNT * sigmoid(0.5 + 0.5)
    )


def test_the_monte_carlo_bound_is_each_transitions_own_and_holds_for_every_dimension(tmp_path: Path) -> None:
    low = torch.full((2, K), -9.0)
    for step, expected in ((0, DISCOUNT), (1, 1.0)):
        objective, batch, _ = objective_and_batch(
            tmp_path / str(step), [episode([0.0, 1.0], terminated=True)], step=step, monte_carlo_bound=True
        )
        targets = objective.targets(batch, FixedLogits(low), torch.tensor([[0, 3]]))
        torch.testing.assert_close(targets, torch.full((1, 2), expected))


def test_carry_brings_the_reward_to_the_first_dimension_at_once(tmp_path: Path) -> None:
    low = torch.full((2, K), -9.0)
    objective, batch, _ = objective_and_batch(tmp_path, [episode([1.0], terminated=True)], step=0, carry=True)
    assert objective.targets(batch, FixedLogits(low), torch.tensor([[0, 3]])).tolist() == [[1.0, 1.0]]


def test_the_regulariser_pulls_q_to_the_floor_not_to_a_half_and_by_its_weight_only(tmp_path: Path) -> None:
    terms = {}
    for weight in (0.0, 1.0):
        objective, batch, _ = objective_and_batch(
            tmp_path / str(weight), [episode([0.0], terminated=True)], step=0, conservative_weight=weight
        )
        network = FixedLogits(torch.zeros(2, K))
        losses = objective.loss(batch, network, FixedLogits(LOGITS))
        losses.total.backward()
        assert network.logits_AK.grad is not None
        terms[weight] = (losses, network.logits_AK.grad)
    not_taken = terms[1.0][1][0, 1:]
    assert (not_taken > 0).all()  # gradient descent lowers them, although their Q is 0.5 already
    assert (terms[0.0][1][0, 1:] == 0).all()
    assert terms[1.0][0].terms["conservative"].item() == pytest.approx(0.25)
    assert terms[1.0][0].total.item() == pytest.approx(terms[0.0][0].total.item() + 0.5 * 0.25)


def test_the_target_network_gets_no_gradient(tmp_path: Path) -> None:
    objective, batch, _ = objective_and_batch(tmp_path, [episode([0.0, 1.0], terminated=True)], step=0)
    target = FixedLogits(LOGITS)
    objective.loss(batch, FixedLogits(LOGITS), target).total.backward()
    assert target.logits_AK.grad is None


@pytest.mark.parametrize("value", ["bounded", "unbounded", "categorical"])
def test_every_value_head_gives_a_finite_loss_with_gradient(tmp_path: Path, value: str) -> None:
    objective, batch, _ = objective_and_batch(tmp_path, [episode([0.0, 1.0], terminated=True)], step=0, value=value)
    logits = LOGITS[..., None].repeat(1, 1, 51) if value == "categorical" else LOGITS

    class Network(FixedLogits):
        def decode(self, context: Tensor, prefix_BP: Tensor) -> Tensor:
            shift = context[:, None, :, None] if value == "categorical" else context[:, None]
            return self.logits_AK[: prefix_BP.shape[1] + 1] + shift

    network = Network(logits)
    losses = objective.loss(batch, network, Network(logits))
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert network.logits_AK.grad is not None
    assert network.logits_AK.grad.abs().sum() > 0


def test_a_chunk_cut_short_by_the_end_trains_only_its_real_tokens(tmp_path: Path) -> None:
    view: EpisodeView = write_view(tmp_path / "store", [episode([0.0, 0.0, 1.0], terminated=True)])
    spec = WindowSpec(bootstrap_steps=(2,))
    tokenizer = make_tokenizer(ACTION_SPACE, num_bins=K, chunk=2)
    config = QObjectiveConfig(**(PLAIN | {"bootstrap_steps": (2,)}))  # type: ignore[arg-type]
    objective = QObjective(tokenizer, spec, config, torch.ones(1, 1, dtype=torch.long))
    batch = Windows(view, spec, batch_size=1, seed=0, discount=DISCOUNT).windows_at(np.array([0, 0]), np.array([0, 2]))
    network = FixedLogits(LOGITS.repeat(2, 1))
    targets = objective.targets(batch, network, torch.tensor([[0, 3, 0, 3]] * 2))
    inside, last_of_first = sigmoid(1.0), DISCOUNT**2 * sigmoid(0.5 + 0.2)
    torch.testing.assert_close(targets[0], torch.tensor([inside, sigmoid(0.5), inside, last_of_first]))
    assert targets[1, 1].item() == pytest.approx(1.0)  # the reward of the one step left, at its last token
    objective.loss(batch, network, FixedLogits(LOGITS.repeat(2, 1))).total.backward()
    grad = network.logits_AK.grad
    assert grad is not None
    assert grad[2, 0] != 0  # from the first window


@pytest.mark.parametrize("value", ["bounded", "unbounded"])
@pytest.mark.parametrize("bootstrap", ["max", "expectile"])
def test_chunks_beyond_the_end_leave_the_loss_finite(tmp_path: Path, value: str, bootstrap: str) -> None:
    view = write_view(tmp_path / "store", [episode([0.0, 0.0, 0.0, 1.0], terminated=True)])
    spec = WindowSpec(bootstrap_steps=(3,))
    tokenizer = make_tokenizer(ACTION_SPACE, num_bins=K, chunk=3)
    options = {"bootstrap_steps": (3,), "value": value, "bootstrap": bootstrap, "carry": True}
    objective = QObjective(tokenizer, spec, QObjectiveConfig(**(PLAIN | options)), torch.ones(1, 1, dtype=torch.long))  # type: ignore[arg-type]
    batch = Windows(view, spec, batch_size=4, seed=0, discount=DISCOUNT).windows_at(np.zeros(4, int), np.arange(4))
    network = ValuedLogits(LOGITS.repeat(3, 1))
    losses = objective.loss(batch, network, ValuedLogits(LOGITS.repeat(3, 1)))
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert all(torch.isfinite(term) for term in losses.terms.values())
    assert torch.isfinite(network.logits_AK.grad).all()  # type: ignore[arg-type]


def test_the_in_sample_value_is_bootstrapped_and_shared_by_the_tokens_of_a_decision(tmp_path: Path) -> None:
    rewards = [0.25, 0.0]
    objective, batch, _ = objective_and_batch(
        tmp_path, [episode(rewards, terminated=False)], step=0, bootstrap="expectile"
    )
    targets = objective.targets(batch, ValuedLogits(LOGITS), torch.tensor([[0, 3]]))
    # The state's value is sigmoid(0.3 + 0.1) at step 1, whatever the best bin there is worth.
    torch.testing.assert_close(targets, torch.full((1, 2), 0.25 + DISCOUNT * sigmoid(0.3 + 0.1)))


def test_the_expectile_weighs_targets_above_and_below_the_value(tmp_path: Path) -> None:
    gradients = {}
    for reward in (0.0, 1.0):
        objective, batch, _ = objective_and_batch(
            tmp_path / str(reward), [episode([reward], terminated=True)], step=0, bootstrap="expectile", expectile=0.9
        )
        network = ValuedLogits(LOGITS)
        with torch.no_grad():
            network.value_logits_K.fill_(0.0)  # a value of 0.5: the two targets are equally far
        objective.loss(batch, network, ValuedLogits(LOGITS)).total.backward()
        gradients[reward] = network.value_logits_K.grad.item()  # type: ignore[union-attr]
    assert gradients[1.0] < 0 < gradients[0.0]
    assert -gradients[1.0] / gradients[0.0] == pytest.approx(9.0)


def two_episodes(tmp_path: Path) -> tuple[QObjective, object]:
    """One window of each of two episodes; the second succeeds."""
    config = QObjectiveConfig(**(PLAIN | {"bootstrap": "expectile", "expectile": 0.5}))  # type: ignore[arg-type]
    view = write_view(tmp_path, [episode([0.0, 0.0], terminated=False), episode([0.0, 1.0], terminated=True)])
    spec = WindowSpec(bootstrap_steps=config.bootstrap_steps)
    windows = Windows(view, spec, batch_size=1, seed=0, discount=DISCOUNT)
    objective = QObjective(make_tokenizer(ACTION_SPACE, num_bins=K), spec, config, torch.ones(1, 1, dtype=torch.long))
    return objective, windows.windows_at(np.array([0, 1]), np.array([0, 0]))


def test_an_episode_bootstraps_from_the_fold_that_is_not_trained_on_it(tmp_path: Path) -> None:
    objective, batch = two_episodes(tmp_path)
    targets = objective.targets(batch, ValuedLogits(LOGITS, 0.3, -0.4), torch.tensor([[0, 3], [0, 3]]))
    expected = [DISCOUNT * sigmoid(0.3 + 0.1), DISCOUNT * sigmoid(-0.4 + 0.1)]
    torch.testing.assert_close(targets[:, 0], torch.tensor(expected))


def test_a_fold_is_trained_on_the_other_episodes_only(tmp_path: Path) -> None:
    objective, batch = two_episodes(tmp_path)
    gradients = []
    for target_value in (-9.0, 9.0):  # what episode 0 (bootstrapping from fold 0) is worth
        network = ValuedLogits(LOGITS, 0.0, 0.0)
        objective.loss(batch, network, ValuedLogits(LOGITS, target_value, 0.0)).total.backward()
        assert network.value_logits_K.grad is not None
        gradients.append(network.value_logits_K.grad)
    assert gradients[0][0] == gradients[1][0]
    assert gradients[1][1] < 0 < gradients[0][1]
