from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest

from qseq.environments.text import make_text_environment
from qseq.environments.text.wordle import Wordle, marks, number
from qseq.environments.text.wordle_search import WordleSearch
from qseq.environments.text.words import LARGE, SMALL
from qseq.errors import RequestError
from qseq.evaluation.text import evaluate_text
from qseq.evaluation.text_actors import scripted
from qseq.evaluation.text_data import generate_rows, summarise_rows

PLAYERS = "scripted:qseq.environments.text.wordle_players"
ALIKE = ("boats", "coats", "goats", "moats", "oasts", "beach")
"""Four that differ in one letter: guessing one after the other is not the best play."""


@pytest.mark.parametrize(
    ("guess", "secret", "answer"),
    [
        ("crane", "crane", "ggggg"),
        ("stone", "crane", "bbbgg"),
        ("eerie", "crane", "bbybg"),  # the e at the end uses up the only one
        ("allee", "angle", "gybbg"),  # one l of two, one e of two
        ("geese", "eager", "yyybb"),
        ("queen", "eager", "bbygb"),
    ],
)
def test_marks(guess: str, secret: str, answer: str) -> None:
    assert marks(guess, secret) == answer


def test_marks_count_repeated_letters_as_the_secret_has_them() -> None:
    """Against the definition: greens first, then each letter's yellows from the left, as many as are left."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        guess, secret = ("".join(rng.choice(list("abc"), size=5)) for _ in range(2))
        found = marks(guess, secret)
        assert [mark == "g" for mark in found] == [a == b for a, b in zip(guess, secret, strict=True)]
        for letter in "abc":
            coloured = sum(mark != "b" for mark, said in zip(found, guess, strict=True) if said == letter)
            assert coloured == min(guess.count(letter), secret.count(letter))
        yellow = [place for place in range(5) if found[place] == "y"]
        assert not any(
            found[earlier] == "b" and guess[earlier] == guess[place] for place in yellow for earlier in range(place)
        )


def brute_force(words: tuple[str, ...], tries: int) -> float:
    """Mean optimal return by trying every guess everywhere, with sets of words and `marks` only."""

    @cache
    def cost(secrets: frozenset[str], left: int) -> int:
        if left == 0 or not secrets:
            return 0
        totals = []
        for guess in words:
            groups: dict[str, set[str]] = {}
            for secret in secrets - {guess}:
                groups.setdefault(marks(guess, secret), set()).add(secret)
            totals.append(sum(len(group) + cost(frozenset(group), left - 1) for group in groups.values()))
        return min(totals)

    return -cost(frozenset(words), tries) / len(words)


@pytest.mark.parametrize("tries", [1, 2, 3, 6])
@pytest.mark.parametrize("words", [ALIKE, SMALL[:9], SMALL[20:30], LARGE[100:108]])
def test_the_search_finds_the_optimum(words: tuple[str, ...], tries: int) -> None:
    game = Wordle(words, tries=tries)
    assert game.optimal_return() == pytest.approx(brute_force(words, tries))


def test_no_player_of_the_small_list_beats_the_optimum() -> None:
    game = Wordle()
    assert game.num_starts == 64
    assert game.optimal_return() == pytest.approx(-87 / 64)
    best = evaluate_text(scripted(f"{PLAYERS}:BestGuesser"), "text:wordle", episodes=64, every_start=True)
    assert best.mean_return == pytest.approx(game.optimal_return())
    assert best.success_rate == 1.0
    entropy = evaluate_text(scripted(f"{PLAYERS}:EntropyGuesser"), "text:wordle", episodes=64, every_start=True)
    assert -1.5 < entropy.mean_return <= best.mean_return


def test_the_best_player_attains_the_optimum_where_tries_are_few() -> None:
    arguments = {"words": list(ALIKE), "tries": 2}
    result = evaluate_text(scripted(f"{PLAYERS}:BestGuesser"), "text:wordle", arguments, episodes=6, every_start=True)
    assert result.mean_return == pytest.approx(brute_force(ALIKE, 2))


def test_consistent_players_guess_what_can_be() -> None:
    for row in generate_rows(
        "text:wordle",
        games=40,
        players=scripted(f"{PLAYERS}:RandomGuesser", {"consistent": 1.0}),
    ):
        said = row["messages"][1::2]
        for (guess, answer), later in product(
            zip(said, row["messages"][2::2], strict=False), [m["content"] for m in said]
        ):
            place = [m["content"] for m in said].index(later)
            if place > said.index(guess):
                assert marks(guess["content"], later) == answer["content"]


def test_rules() -> None:
    game = Wordle(["crane", "stone", "angle"], tries=3)
    assert game.reset_to(0) == "guess"
    assert game.step("stone") == ("bbbgg", -1.0, False, False)
    assert game.step("zzzzz") == ("no word", -1.0, False, False)
    assert game.step("S T O N E") == ("lost", -1.0, True, False)  # a rule, no truncation
    assert game.success() is False
    game.reset_to(0)
    assert game.step(" c r a n e ") == ("right", 0.0, True, False)
    assert game.success() is True
    assert number("bygbb") == 27 + 18


def test_answers_by_place() -> None:
    """The same game: players read either style, so they play the same, and the words of the answers are known."""
    game = Wordle(["crane", "stone", "angle"], style="places")
    game.reset_to(2)
    assert game.step("crane").text == "1cb 2rb 3ay 4ny 5eg"
    assert number("1cb 2rb 3ay 4ny 5eg") == number("bbyyg")
    assert game.step("crown").text == "no word"
    best = f"{PLAYERS}:BestGuesser"
    result = evaluate_text(scripted(best), "text:wordle", {"style": "places"}, episodes=64, every_start=True)
    assert result.mean_return == pytest.approx(Wordle().optimal_return())
    known = set(make_text_environment("text:wordle", {"style": "places"}).vocabulary())
    rows = generate_rows("text:wordle", {"style": "places"}, games=20, seed=1)
    said = {word for row in rows for message in row["messages"] for word in message["content"].split()}
    assert said <= known
    with pytest.raises(RequestError, match="style='colours', expected 'marks' or 'places'"):
        make_text_environment("text:wordle", {"style": "colours"})


def test_patterns_of_the_table_are_the_marks() -> None:
    game = Wordle("large")
    rng = np.random.default_rng(0)
    for guess, secret in rng.integers(len(game.words), size=(200, 2)):
        assert game.patterns[guess, secret] == number(marks(game.words[guess], game.words[secret]))


def test_lists() -> None:
    assert len(SMALL) == 64
    assert len(LARGE) == 504
    assert set(SMALL) < set(LARGE)
    for words in (SMALL, LARGE):
        assert sorted(set(words)) == list(words)
    assert make_text_environment("text:wordle", {"words": "large"}).vocabulary()


def test_data_are_of_mixed_quality() -> None:
    statistics = summarise_rows(generate_rows("text:wordle", games=2000, seed=1))
    assert statistics.success_rate is not None
    assert 0.12 < statistics.success_rate <= 0.2
    assert statistics.best_return > -2
    search = WordleSearch(SMALL)
    assert statistics.mean_return < -search.cost(tuple(range(64)), 6) / 64 - 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"words": "huge"}, "expected small, large or a list"),
        ({"words": ["crane"]}, "at least two"),
        ({"words": ["crane", "crane"]}, "distinct"),
        ({"words": ["crane", "cat"]}, "cat"),
        ({"words": ["crane", "caf\u00e9s"]}, "five letters|5 letters"),
        ({"tries": 0}, "tries=0"),
        ({"words": "small", "letters": 5}, "refuses its arguments"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make_text_environment("text:wordle", arguments)


def test_other_players_are_refused() -> None:
    player = scripted("scripted:qseq.environments.text.maze_players:Walker")
    with pytest.raises(RequestError, match="walks in a maze, found Wordle"):
        list(generate_rows("text:wordle", games=1, players=player))
