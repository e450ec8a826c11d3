"""What the text tasks' scripted players attain, and what 1,000 games of their mixes hold; no training.

    python benchmarks/text_players.py --out benchmarks/results/text_players.json

Optima are exact; players without chance are played from every start once, the others often.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from qseq.environments.text import FiniteStarts, make_text_environment, make_tokenizer
from qseq.evaluation import evaluate_text
from qseq.evaluation.text_actors import scripted
from qseq.evaluation.text_data import generate_rows, summarise_rows

GAMES = 1000
LARGE = {"words": "large"}
TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "maze": ("text:maze", {}),
    "maze, short": ("text:maze", {"style": "short"}),
    "maze-partial": ("text:maze-partial", {}),
    "maze-partial, short": ("text:maze-partial", {"style": "short"}),
    "wordle, 64 words": ("text:wordle", {}),
    "wordle, 504 words": ("text:wordle", LARGE),
    "random-walks": ("text:random-walks", {}),
    "toll-road": ("text:toll-road", {}),
    "market": ("text:market", {}),
}
PLAYERS: dict[str, tuple[str, dict[str, Any], dict[str, Any], int]] = {
    # Task, the player's arguments, games from each start.
    "maze_players:RandomMover": ("maze", {}, {}, 40),
    "wordle_players:EntropyGuesser": ("wordle, 64 words", {}, {}, 1),
    "wordle_players:RandomGuesser": ("wordle, 64 words", {"consistent": 1.0}, {}, 40),
    "wordle_players:EntropyGuesser, 504 words": ("wordle, 504 words", {}, LARGE, 1),
    "wordle_players:RandomGuesser, 504 words": ("wordle, 504 words", {"consistent": 1.0}, LARGE, 4),
    "toll_road_players:ThriftyDriver": ("toll-road", {"noise": 0.0}, {}, 1),
}


def task(name: str) -> dict[str, Any]:
    environment_name, arguments = TASKS[name]
    environment = make_text_environment(environment_name, arguments)
    assert isinstance(environment, FiniteStarts)
    held = summarise_rows(generate_rows(environment_name, arguments, games=GAMES, seed=0))
    return {
        "starts": environment.num_starts,
        "optimum": environment.optimal_return(),
        "games": GAMES,
        "success_rate": held.success_rate,
        "mean_return": held.mean_return,
        "vocabulary": len(make_tokenizer(environment_name, arguments)),
    }


def player(name: str) -> dict[str, Any]:
    of_task, options, arguments, times = PLAYERS[name]
    environment_name = TASKS[of_task][0]
    environment = make_text_environment(environment_name, arguments)
    assert isinstance(environment, FiniteStarts)
    games = times * environment.num_starts
    actor = scripted(f"scripted:qseq.environments.text.{name.split(',')[0]}", options)
    result = evaluate_text(actor, environment_name, arguments, episodes=games, every_start=True)
    return {"task": of_task, "arguments": options, "games": games, "mean_return": result.mean_return}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    result = {"tasks": {name: task(name) for name in TASKS}, "players": {name: player(name) for name in PLAYERS}}
    text = json.dumps(result, indent=1)
    print(text)
    if out is not None:
        out.write_text(text + "\n")


if __name__ == "__main__":
    main()
