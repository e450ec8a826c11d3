"""Kill collection, conversion and appending at random moments and look at what is left.

    python tests/fault_injection.py --kills 200 [--seed 0]

A case is drawn from a number: what is done, to which data, in which coding, and when the process is killed (SIGKILL,
once to three times before it may finish). After every kill the store must open, pass its full check, and hold the
first episodes exactly: all whose writing had returned, and at most the group that was being written. A reader that
looks on while episodes are written must see nothing else, and a second writer must be refused. In the end the store
must have the bytes of one that was never disturbed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

if __name__ == "__main__":  # run as a script: the tests are a package of the folder above
    sys.path.insert(0, str(Path(__file__).parents[1]))

from qseq.episodes import Episode, EpisodeStore, StoreWriter, convert, writer
from qseq.errors import RequestError
from qseq.evaluation import collect
from tests.episodes.builders import BOX, contents, make_episode

KINDS = ("collect", "convert", "append")
GRID = "tests.environments.toys:toys/grid-v0"
NOT_OURS = {"lock"}  # its bytes mean nothing


@dataclass(frozen=True)
class Case:
    """One experiment, all of it drawn from (kind, seed)."""

    kind: str
    seed: int
    images: str
    episodes: int
    group: int  # episodes of one flush
    kills: int
    through: str  # a format that a conversion reads

    @classmethod
    def draw(cls, kind: str, seed: int) -> Case:
        chance = random.Random(f"{kind} {seed}")
        return cls(
            kind=kind,
            seed=seed,
            images=chance.choice(["raw", "png", "jpeg"]),
            episodes=chance.randint(3, 14),
            group=chance.choice([1, 2, 5]),
            kills=chance.randint(1, 3),
            through=chance.choice(["store", "lerobot"]),
        )


def episode(case: Case, index: int) -> Episode:
    """Episode `index` of the data of a case."""
    seed = case.seed % 1000 + index
    steps = 1 + seed % 6
    pictures = np.random.default_rng(seed).integers(0, 256, (steps + 1, 3, 16, 16), np.uint8)
    state = np.full((steps + 1, 40), index, np.float32)
    return make_episode(steps, seed, observations={"state": state, "eye": pictures})


def work(case: Case, folder: Path) -> Path:
    """Do, or go on with, what the case is about. Returns the store."""
    writer._GROUP_EPISODES = case.group
    store = folder / "store"
    if case.kind == "collect":
        kwargs = {"max_episode_steps": 5}
        collect("random", GRID, kwargs, episodes=case.episodes, seed=case.seed, out=store, images=case.images)
    elif case.kind == "convert":
        if not store.exists():
            source = f"lerobot:{folder / 'lerobot'}" if case.through == "lerobot" else str(folder / "source")
            convert(source, str(store), images=case.images)
    else:
        with StoreWriter(store, action_space=BOX, images=case.images) as out:
            there = out.num_episodes
            if case.seed % 2:
                out.extend(episode(case, index) for index in range(there, case.episodes))
            else:
                for index in range(there, case.episodes):
                    out.add(episode(case, index))
    return store


def prepare(case: Case, folder: Path) -> None:
    """What the work reads."""
    folder.mkdir(parents=True)
    if case.kind == "convert":
        with StoreWriter(folder / "source", action_space=BOX) as out:
            out.extend(episode(case, index) for index in range(case.episodes))
        if case.through == "lerobot":
            convert(str(folder / "source"), f"lerobot:{folder / 'lerobot'}", images="png")


def experiment(case: Case, folder: Path) -> int:
    """Kill the work as often as the case says, then let it finish; raises AssertionError if anything is wrong.

    Returns how many kills hit a process that was at work.
    """
    prepare(case, folder / "whole")
    shutil.copytree(folder / "whole", folder / "killed", copy_function=shutil.copy2)
    started = time.perf_counter()
    expected = EpisodeStore.open(work(case, folder / "whole"))
    duration = time.perf_counter() - started
    chance = random.Random(f"moments {case.kind} {case.seed}")
    hits = 0
    for _ in range(case.kills):
        hits += _killed(case, folder / "killed", expected, chance.uniform(0, duration))
    work(case, folder / "killed")
    found, wanted = _bytes(folder / "killed" / "store"), _bytes(folder / "whole" / "store")
    assert found.keys() == wanted.keys(), case
    assert not [name for name in found if found[name] != wanted[name]], case
    assert not [path for path in (folder / "killed").iterdir() if path.name.endswith(".converting")]
    EpisodeStore.open(folder / "killed" / "store").verify()
    return hits


def _killed(case: Case, folder: Path, expected: EpisodeStore, delay: float) -> bool:
    acknowledged, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(acknowledged)
            _report_commits(told)
            work(case, folder)
            os._exit(0)
        except BaseException as error:
            print(f"{case}: {error!r}", file=sys.stderr)
            os._exit(1)
    os.close(told)
    os.set_blocking(acknowledged, False)
    reports = b""
    deadline = time.perf_counter() + delay
    while time.perf_counter() < deadline and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        reports += _read(acknowledged)
        # A hidden folder is nobody's to read, and may be renamed at any moment.
        if (folder / "store" / "schema.json").is_file():
            _look_on(folder / "store", expected, case, writing=bool(reports))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, (case, status)
    reports += _read(acknowledged)
    os.close(acknowledged)
    committed = [int(line) for line in reports.splitlines()]
    for store in _stores(folder):
        check(store, expected, committed[-1] if committed else 0, case)
    return os.WIFSIGNALED(status)


def _report_commits(told: int) -> None:
    """Have every writer of this process say how many episodes there are once they are."""
    append = StoreWriter._append

    def reporting(self: StoreWriter, episodes: list[Episode]) -> None:
        append(self, episodes)
        os.write(told, f"{self.num_episodes}\n".encode())

    StoreWriter._append = reporting  # type: ignore[method-assign]


def _stores(folder: Path) -> list[Path]:
    """Stores there are by now: the one being made, or the hidden one that it grows in."""
    places = [folder / "store", folder / ".store.converting" / "content"]
    return [place for place in places if (place / "schema.json").is_file()]


def check(path: Path, expected: EpisodeStore, committed: int, case: Case) -> None:
    """A store that was left behind opens and holds the first episodes, every one that was reported."""
    store = EpisodeStore.open(path)
    store.verify()
    # Without a report of this run there may be what earlier ones left.
    assert committed <= store.num_episodes <= committed + case.group or committed == 0, (case, committed)
    for name in expected.columns:
        rows = store.num_rows(name)
        assert np.array_equal(store.columns[name][0:rows], expected.columns[name][0:rows]), (case, name)
    count = store.num_episodes
    assert store.metadata == expected.metadata[:count]
    assert store.lengths.tolist() == expected.lengths[:count].tolist()


def _look_on(path: Path, expected: EpisodeStore, case: Case, writing: bool) -> None:
    """A reader, and another writer if the one at work is known to hold the store."""
    store = EpisodeStore.open(path)
    assert store.lengths.tolist() == expected.lengths[: store.num_episodes].tolist(), case
    if not writing:
        return
    try:
        StoreWriter(path).close()  # allowed if the other one has just finished
    except RequestError as error:
        if "another process is writing" not in str(error):
            raise


def _read(pipe: int) -> bytes:
    """What there is to read."""
    try:
        return os.read(pipe, 1 << 16)
    except BlockingIOError:
        return b""


def _bytes(store: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(store).items() if name not in NOT_OURS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    os.environ["QSEQ_PROGRESS"] = "0"
    report(arguments.kills, arguments.seed, print)


def report(kills: int, seed: int, say: Callable[[str], None]) -> None:
    """Experiments until so many processes were killed at work."""
    hits: Counter[str] = Counter()
    experiments = 0
    while hits.total() < kills:
        case = Case.draw(KINDS[experiments % len(KINDS)], seed + experiments)
        with tempfile.TemporaryDirectory() as folder:
            hits[case.kind] += experiment(case, Path(folder))
        experiments += 1
    told = ", ".join(f"{count} of {kind}" for kind, count in sorted(hits.items()))
    say(f"{hits.total()} kills in {experiments} experiments ({told}): no store was broken, every one was finished")


if __name__ == "__main__":
    main()
