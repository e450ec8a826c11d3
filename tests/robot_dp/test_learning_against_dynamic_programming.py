"""The real training objective on real windows of a real store, with a table for a network, against exact solutions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robot_dp.learning import learn_by_adam, learn_by_averages, set_up
from support.tabular import (
    DISCOUNT,
    Mdp,
    chunk_q,
    empirical_n_step_q,
    lottery,
    n_step_q,
    optimal_q,
    path_episodes,
    prefix_q,
    random_mdp,
    stored,
    trail_episodes,
)

TOLERANCE = 0.002
"""A tenth of what was asked: the data hold exact expectations, so only rounding and convergence are left."""


def exact(mdp: Mdp) -> list[np.ndarray]:
    return prefix_q(optimal_q(mdp), mdp.num_dimensions, mdp.num_bins)


@pytest.mark.parametrize("seed", range(20))
def test_every_state_and_prefix_of_stochastic_worlds(seed: int, tmp_path: Path) -> None:
    """Episodes end in terminal states or, more or less often, at a time limit that must not change a value."""
    mdp = random_mdp(seed)
    view = stored(trail_episodes(mdp, seed, max_steps=1 + seed % 6), mdp, tmp_path / "store")
    assert 0.05 < view.truncated.mean() < 0.95
    setting = set_up(mdp, view)
    learn_by_averages(setting)
    assert all((visits[~mdp.terminal] > 0).all() for visits in setting.visits)
    assert setting.worst_error(exact(mdp)) < TOLERANCE


@pytest.mark.parametrize("seed", range(3))
def test_double_q_has_the_same_fixed_point(seed: int, tmp_path: Path) -> None:
    mdp = random_mdp(seed)
    setting = set_up(mdp, stored(trail_episodes(mdp, seed, max_steps=4), mdp, tmp_path / "store"), double_q=True)
    learn_by_averages(setting)
    assert setting.worst_error(exact(mdp)) < TOLERANCE


def test_taking_a_time_limit_for_the_end_would_be_noticed(tmp_path: Path) -> None:
    mdp = random_mdp(0)
    view = stored(trail_episodes(mdp, 0, max_steps=3), mdp, tmp_path / "store")
    view.terminated[:] = True
    setting = set_up(mdp, view)
    learn_by_averages(setting)
    assert setting.worst_error(exact(mdp)) > 0.2


def test_taking_the_end_for_a_time_limit_would_be_noticed(tmp_path: Path) -> None:
    mdp = lottery(2)
    view = stored(path_episodes(mdp, 2, np.zeros((4, 1), np.int64)), mdp, tmp_path / "store")
    view.terminated[:] = False
    setting = set_up(mdp, view, initial=0.5)
    learn_by_averages(setting)
    assert setting.worst_error(exact(mdp)) > 0.2


@pytest.mark.parametrize("seed", range(5))
def test_three_steps_reach_the_fixed_point_of_the_three_step_operator(seed: int, tmp_path: Path) -> None:
    """First any action, then two steps of a behaviour policy that mixes two actions, then the best action."""
    mdp = random_mdp(seed, num_dimensions=2, num_bins=3, num_outcomes=2)
    choices = np.random.default_rng(seed).integers(mdp.num_actions, size=(mdp.num_states, 2))
    behaviour = (np.eye(mdp.num_actions)[choices]).mean(axis=1)
    expected = n_step_q(mdp, 3, behaviour)
    assert (optimal_q(mdp) - expected).max() > 0.1, "the behaviour is too good to tell the two operators apart"
    view = stored(path_episodes(mdp, 3, choices), mdp, tmp_path / "store")
    setting = set_up(mdp, view, horizons=(3,), first_steps_only=True)
    learn_by_averages(setting)
    assert setting.worst_error(prefix_q(expected, 2, 3)) < TOLERANCE


@pytest.mark.parametrize("seed", range(5))
def test_three_steps_on_windows_cut_by_either_end(seed: int, tmp_path: Path) -> None:
    """Every window of the data, those with fewer than three steps left included."""
    mdp = random_mdp(seed)
    episodes = trail_episodes(mdp, seed, max_steps=5)
    setting = set_up(mdp, stored(episodes, mdp, tmp_path / "store"), horizons=(3,))
    learn_by_averages(setting)
    assert setting.worst_error(prefix_q(empirical_n_step_q(episodes, mdp, 3), 3, 4)) < TOLERANCE


@pytest.mark.parametrize("options", [{"horizons": (1, 3)}, {"carry": True}, {"monte_carlo_bound": True}])
@pytest.mark.parametrize("seed", range(3))
def test_shortcuts_are_exact_in_deterministic_worlds(seed: int, options: dict, tmp_path: Path) -> None:
    mdp = random_mdp(seed, num_outcomes=1)
    view = stored(trail_episodes(mdp, seed, max_steps=6), mdp, tmp_path / "store")
    setting = set_up(mdp, view, **options)
    learn_by_averages(setting)
    assert setting.worst_error(exact(mdp)) < TOLERANCE


@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_chunks_of_two_actions_in_deterministic_worlds(seed: int, carry: bool, tmp_path: Path) -> None:
    """Every pair of actions; a quarter of the windows have one step left, before a time limit or a terminal state."""
    mdp = random_mdp(seed, num_dimensions=2, num_bins=3, num_outcomes=1)
    every_action = np.tile(np.arange(mdp.num_actions), (mdp.num_states, 1))
    view = stored(path_episodes(mdp, 2, every_action), mdp, tmp_path / "store")
    # Cells that no data reach must not leak into the others: they start at the highest value.
    setting = set_up(mdp, view, horizons=(2,), chunk=2, carry=carry, initial=1.0)
    assert not setting.batch.step_mask.all()
    learn_by_averages(setting)
    assert setting.worst_error(prefix_q(chunk_q(mdp, 2), 4, 3)) < TOLERANCE


@pytest.mark.parametrize("num_dimensions", [1, 3])
def test_bounds_are_biased_upward_in_stochastic_worlds_by_this_much(num_dimensions: int, tmp_path: Path) -> None:
    """A prize won once in four draws, one step ahead: worth .24; with three dimensions the bound makes it .78."""
    mdp = lottery(num_dimensions)
    view = stored(path_episodes(mdp, 2, np.zeros((4, 1), np.int64)), mdp, tmp_path / "store")
    lifted = {
        "neither": (0.25, DISCOUNT * 0.25),
        "carry": (1 - 0.75**num_dimensions, DISCOUNT * (1 - 0.75**num_dimensions)),
        "monte_carlo_bound": (1 - 0.75**num_dimensions, DISCOUNT * (1 - 0.75 ** (2 * num_dimensions))),
    }
    for option, (at_the_draw, one_step_before) in lifted.items():
        setting = set_up(mdp, view, **({} if option == "neither" else {option: True}))
        learn_by_averages(setting)
        first = setting.table.q()[0][:, 0].max(axis=1)
        assert first[3] == pytest.approx(at_the_draw, abs=TOLERANCE)
        assert first[2] == pytest.approx(one_step_before, abs=TOLERANCE)


@pytest.mark.parametrize("seed", range(3))
def test_reversed_rewards_reverse_the_greedy_policy(seed: int, tmp_path: Path) -> None:
    mdp = random_mdp(seed)
    alive = ~mdp.terminal
    greedy = {}
    for sign in (1, -1):
        world = mdp.with_rewards(sign * mdp.rewards)
        setting = set_up(world, stored(trail_episodes(world, seed), world, tmp_path / f"store{sign}"))
        learn_by_averages(setting)
        assert setting.worst_error(exact(world)) < TOLERANCE
        greedy[sign] = setting.table.q()[-1].reshape(mdp.num_states, -1).argmax(axis=1)
    # What is greedy for the reversed rewards is worth little by the true ones, and the other way round.
    best, worst = (policy_value(mdp, greedy[sign])[alive] for sign in (1, -1))
    assert best == pytest.approx(optimal_q(mdp).max(axis=1)[alive], abs=0.01)
    assert (worst < 0.5 * best).all()


def policy_value(mdp: Mdp, actions: np.ndarray) -> np.ndarray:
    """Value [S] of always taking `actions` [S]: its own continuation forever is an n-step return without end."""
    return n_step_q(mdp, 200, np.eye(mdp.num_actions)[actions])[np.arange(mdp.num_states), actions]


@pytest.mark.parametrize(
    "options",
    [
        {"value": "bounded"},
        {"value": "bounded", "value_loss": "bce"},
        {"value": "categorical", "value_atoms": 27},
    ],
)
def test_values_that_are_not_linear_learn_the_same(options: dict, tmp_path: Path) -> None:
    mdp = random_mdp(1, num_states=6, num_dimensions=2, num_bins=3)
    setting = set_up(mdp, stored(trail_episodes(mdp, 1), mdp, tmp_path / "store"), **options)
    learn_by_adam(setting, updates=800, learning_rate=0.3)
    assert setting.worst_error(exact(mdp)) < 0.02
