from __future__ import annotations

from itertools import product

import pytest

from qseq.environments.text import make_text_environment
from qseq.environments.text.market import ACTIONS, Market
from qseq.environments.text.toll_road import TollRoad
from qseq.errors import RequestError
from qseq.evaluation.text import evaluate_text
from qseq.evaluation.text_actors import scripted
from qseq.evaluation.text_data import generate_rows, summarise_rows

HERE = "scripted:qseq.environments.text"


@pytest.mark.parametrize("seed", range(5))
def test_the_best_drive_by_trying_all(seed: int) -> None:
    road = TollRoad(seed)
    totals = []
    for start in range(road.num_starts):
        best = -float("inf")
        for letters in product(road.lanes, repeat=road.length):
            road.reset_to(start)
            best = max(best, road.step("".join(letters)).reward)
        assert road.best_return(start) == best
        totals.append(best)
    assert road.optimal_return() == pytest.approx(sum(totals) / len(totals))


@pytest.mark.parametrize("seed", range(5))
def test_the_best_trades_by_trying_all(seed: int) -> None:
    market = Market(seed)
    totals = []
    for season in range(market.num_starts):
        best = -float("inf")
        for actions in product(ACTIONS, repeat=market.days):
            market.reset_to(season)
            best = max(best, sum(market.step(action).reward for action in actions))
        assert market.best(season, 0, 0)[0] == best
        totals.append(best)
    assert market.optimal_return() == pytest.approx(sum(totals) / len(totals))


@pytest.mark.parametrize(
    ("task", "player"), [("toll-road", "toll_road_players:BestDriver"), ("market", "market_players:BestTrader")]
)
def test_the_best_player_attains_the_optimum(task: str, player: str) -> None:
    environment = make_text_environment(f"text:{task}")
    assert isinstance(environment, TollRoad | Market)
    result = evaluate_text(
        scripted(f"{HERE}.{player}"), f"text:{task}", episodes=environment.num_starts, every_start=True
    )
    assert result.mean_return == pytest.approx(environment.optimal_return())
    assert result.success_rate == 1.0


def test_tolls_are_in_the_middle_and_prizes_at_the_end() -> None:
    road = TollRoad(0)
    assert (road.tolls, road.prizes, road.change_costs) == ([1, 6, 2, 7], [5, 11, 9, 11], [2, 2, 2, 1, 1, 1])
    road.reset_to(0)
    step = road.step("bbbbbb")
    assert road.token_rewards() == [-2.0, 0.0, 0.0, -6.0, 0.0, 11.0]
    assert (step.reward, step.terminated) == (3.0, True)
    road.reset_to(0)
    road.step("aaaccc")
    assert road.token_rewards() == [0.0, 0.0, 0.0, -2.0 - 2.0, 0.0, 9.0]
    assert road.success()
    road.reset_to(0)
    road.step("aaacca")
    assert road.token_rewards() == [0.0, 0.0, 0.0, -4.0, 0.0, -2.0]  # not in the lane whose toll was paid: no prize


def test_leaving_the_road() -> None:
    road = TollRoad(0)
    for answer, rewards in {"ab": [0.0, -2.0, -20.0], "": [-20.0], "a!aaaa": [0.0, -20.0], "zz": [-20.0]}.items():
        road.reset_to(0)
        assert road.step(answer).reward == sum(rewards)
        assert road.token_rewards() == rewards
        assert not road.success()
    road.reset_to(0)
    road.step("aaacccddd")  # what is said after the end of the road does not count
    assert road.success()


def test_the_short_sighted_do_not_find_the_optimum() -> None:
    result = evaluate_text(
        scripted(f"{HERE}.toll_road_players:ThriftyDriver", {"noise": 0.0}),
        "text:toll-road",
        episodes=4,
        every_start=True,
    )
    assert result.mean_return < TollRoad().optimal_return() - 7


def test_rules_of_the_market() -> None:
    market = Market(1)
    assert market.prices[0] == [5, 5, 7, 9, 1, 2]
    assert market.reset_to(0) == "season 0 day 0 stock 0 price 5"
    assert market.step("sell")[:2] == ("season 0 day 1 stock 0 price 5", -5.0)  # nothing to sell
    assert market.step(" buy ")[:2] == ("season 0 day 2 stock 1 price 7", -5.0)
    assert market.step("buy")[:2] == ("season 0 day 3 stock 2 price 9", -7.0)
    assert market.step("buy")[1] == -5.0  # no room
    assert market.step("wait")[1:] == (0.0, False, False)
    assert market.step("sell") == ("closed", 2.0, True, False)
    assert not market.success()


@pytest.mark.parametrize("task", ["toll-road", "market"])
def test_data_hold_rewards_of_both_signs_and_little_of_the_solution(task: str) -> None:
    rows = list(generate_rows(f"text:{task}", games=1000))
    statistics = summarise_rows(rows)
    assert statistics.success_rate is not None
    assert statistics.success_rate <= 0.1
    rewards = [reward for row in rows for reward in row["rewards"]]
    assert min(rewards) < 0 < max(rewards)
    assert all(row["terminated"] and not row["truncated"] for row in rows)
    if task == "toll-road":
        assert all(len(row["rewards"]) == len(row["completion"]) == 6 for row in rows)


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        ("toll-road", {"lanes": 1}, "2 to 6 lanes"),
        ("toll-road", {"length": 2}, "length=2"),
        ("market", {"days": 0}, "days=0"),
    ],
)
def test_wrong_arguments(task: str, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make_text_environment(f"text:{task}", arguments)
