"""What is written is what is read, for any episode a schema allows."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qseq.episodes import Episode, EpisodeStore, EpisodeView, FieldSpec, StoreSchema, StoreWriter
from qseq.errors import DataError, RequestError

from .builders import BOX, assert_same, contents, make_episode, make_store

SPACES: list[dict[str, Any]] = [
    {"type": "box", "low": ["-inf", 0], "high": [1, "inf"], "shape": [2], "dtype": "float32"},
    {"type": "box", "low": -1, "high": 1, "shape": [2, 2], "dtype": "float64"},
    {"type": "box", "low": 0, "high": 255, "shape": [1], "dtype": "uint8"},
    {"type": "discrete", "n": 5, "start": -2},
    {"type": "multi_discrete", "nvec": [3, 4], "start": [0, 1]},
]
floats = st.floats(-1e6, 1e6, width=32)


@st.composite
def histories(draw: st.DrawFn) -> tuple[dict[str, Any], list[Episode]]:
    """An action space and a few episodes that share a schema."""
    space = draw(st.sampled_from(SPACES))
    shapes = draw(
        st.dictionaries(
            st.text(min_size=1, max_size=8).filter(lambda name: name not in ("action", "reward")),
            st.tuples(
                st.sampled_from(["float64", "float32", "uint8", "int64", "bool"]),
                hnp.array_shapes(min_dims=0, max_dims=2, max_side=3),
            ),
            min_size=1,
            max_size=3,
        )
    )
    episodes = []
    for _ in range(draw(st.integers(1, 4))):
        steps = draw(st.integers(1, 6))
        ended = draw(st.sampled_from([(True, False), (False, True), (False, False)]))
        episodes.append(
            Episode(
                observations={
                    name: draw(hnp.arrays(dtype, (steps + 1, *shape), elements=floats if "float" in dtype else None))
                    for name, (dtype, shape) in shapes.items()
                },
                actions=draw(actions(space, steps)),
                rewards=draw(hnp.arrays(np.float32, steps, elements=floats)),
                terminated=ended[0],
                truncated=ended[1],
                success=draw(st.none() | st.booleans()),
                instruction=draw(st.text(max_size=10)),
                metadata=draw(
                    st.dictionaries(
                        st.text(max_size=5),
                        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(-9, 9),
                        max_size=2,
                    )
                ),
            )
        )
    return space, episodes


def actions(space: dict[str, Any], steps: int) -> st.SearchStrategy[np.ndarray]:
    if space["type"] == "discrete":
        return hnp.arrays(np.int64, steps, elements=st.integers(-2, 2))
    if space["type"] == "multi_discrete":
        return hnp.arrays(np.int32, (steps, 2), elements=st.integers(1, 2))
    dtype = np.uint8 if space["dtype"] == "uint8" else np.float32
    elements: Any = st.integers(0, 255) if dtype is np.uint8 else st.floats(0, 1, width=32)
    return hnp.arrays(dtype, (steps, *space["shape"]), elements=elements)


@settings(max_examples=40, deadline=None)
@given(histories(), st.booleans())
def test_round_trip(history: tuple[dict[str, Any], list[Episode]], one_by_one: bool) -> None:
    space, episodes = history
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        with StoreWriter(path, action_space=space) as writer:
            if one_by_one:
                assert [writer.add(episode) for episode in episodes] == list(range(len(episodes)))
            else:
                assert writer.extend(episodes) == len(episodes)
        store = EpisodeStore.open(path)
        assert store.num_episodes == len(episodes)
        assert store.num_steps == sum(e.num_steps for e in episodes)
        for index, episode in enumerate(episodes):
            assert_same(store.episode(index), episode)
        np.testing.assert_allclose(store.returns(), [e.rewards.sum(dtype=float) for e in episodes], rtol=1e-4, atol=0.5)
        store.verify()


def test_appending_continues(tmp_path: Path) -> None:
    make_store(tmp_path / "s", [3, 1])
    before = EpisodeStore.open(tmp_path / "s")
    with StoreWriter(tmp_path / "s") as writer:
        assert writer.num_episodes == 2
        writer.add(make_episode(5, 2))
    assert before.num_episodes == 2  # an opened store stays as it was
    before.verify()
    store = EpisodeStore.open(tmp_path / "s")
    for index, steps in enumerate([3, 1, 5]):
        assert_same(store.episode(index), make_episode(steps, index))
    assert_same(store.episode(-1), make_episode(5, 2))
    with pytest.raises(IndexError, match="episode 3 of 3"):
        store.episode(3)
    assert store.instructions == ["do 0", "do 1"]
    assert store.instruction_ids.tolist() == [0, 1, 0]
    assert store.success.tolist() == [-1, 1, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": np.zeros((4, 3), np.float32)}, r"episode 1: field 'action': found shape \[3\].*expected \[2\]"),
        (
            {"actions": np.full((4, 2), 1.001)},
            r"episode 1: field 'action', step 0.*found 1.001, expected.*\[-1.0, 1.0\]",
        ),
        ({"observations": {"state": np.zeros((5, 3))}}, r"episode 1: field 'camera/front' is missing"),
        (
            {"observations": make_episode(4).observations | {"state": np.zeros((5, 7))}},
            r"'state': found float32 \[7\], expected float32 \[3\]",
        ),
        (
            {"observations": make_episode(4).observations | {"state": np.zeros((5, 3), np.int32)}},
            r"'state': found int32 \[3\], expected float32",
        ),
        ({"observations": make_episode(4).observations | {"new": np.zeros((5, 7))}}, r"'new' is not expected"),
        ({"rewards": np.full(4, 1e39)}, r"'reward', step 0: found inf"),
        ({"rewards": np.full(4, np.nan)}, r"'reward', step 0: found nan"),
    ],
)
def test_what_does_not_fit_changes_nothing(tmp_path: Path, changes: dict, message: str) -> None:
    make_store(tmp_path / "s", [3])
    before = contents(tmp_path / "s")
    with StoreWriter(tmp_path / "s") as writer:
        with pytest.raises(DataError, match=message):
            writer.add(make_episode(4, 1, **changes))
        assert contents(tmp_path / "s") == before
        writer.add(make_episode(4, 1, actions=np.full((4, 2), 1 + 5e-7)))  # rounding is not an error


def test_schemas_must_match(tmp_path: Path) -> None:
    schema = make_store(tmp_path / "s", [3]).schema
    wider = StoreSchema({**schema.fields, "state": FieldSpec("float32", (9,))}, schema.action_space)
    with pytest.raises(DataError, match=r"'state': found float32 \[9\], expected float32 \[3\]"):
        StoreWriter(tmp_path / "s", wider)
    with pytest.raises(DataError, match=r"action space: found.*discrete"):
        StoreWriter(tmp_path / "s", action_space={"type": "discrete", "n": 3})
    StoreWriter(tmp_path / "s", schema).close()
    StoreWriter(tmp_path / "s", action_space=BOX).close()
    with pytest.raises(DataError, match="cannot be read"):
        StoreWriter(tmp_path / "t", action_space={"type": "dict"}).add(make_episode(2))


def test_paths_that_are_something_else(tmp_path: Path) -> None:
    make_store(tmp_path / "s", [3])
    with pytest.raises(RequestError, match="exists already"):
        StoreWriter(tmp_path / "s", append=False)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "letter.txt").write_text("dear")
    with pytest.raises(RequestError, match=r"not an episode store.*letter.txt"):
        StoreWriter(tmp_path / "notes", action_space=BOX)
    with pytest.raises(RequestError, match="is a file"):
        StoreWriter(tmp_path / "notes" / "letter.txt", action_space=BOX)
    with pytest.raises(RequestError, match="give a schema or an action space"):
        StoreWriter(tmp_path / "new")
    assert not (tmp_path / "new").exists()
    for path in (tmp_path / "notes", tmp_path / "nothing", tmp_path / "notes" / "letter.txt"):
        with pytest.raises(DataError, match="is not an episode store"):
            EpisodeStore.open(path)
    with StoreWriter(tmp_path / "new", action_space=BOX) as writer:
        pass
    with pytest.raises(RequestError, match="was closed"):
        writer.add(make_episode(2))


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", action_space=BOX) as writer:
        with pytest.raises(RequestError, match="another process is writing"):
            StoreWriter(tmp_path / "s", action_space=BOX)
        writer.add(make_episode(2))
        assert EpisodeStore.open(tmp_path / "s").num_episodes == 1  # readers are not kept out
    StoreWriter(tmp_path / "s").close()


def test_empty_store_can_be_looked_at_but_not_trained_on(tmp_path: Path) -> None:
    schema = StoreSchema({"state": FieldSpec("float32", (3,))}, BOX)
    StoreWriter(tmp_path / "s", schema).close()
    store = EpisodeStore.open(tmp_path / "s")
    assert (store.num_episodes, store.num_steps, store.returns().tolist()) == (0, 0, [])
    store.verify()
    with pytest.raises(DataError, match="found 0 episodes, expected at least 1"):
        EpisodeView(store)


def test_importing_is_light() -> None:
    code = "import sys, qseq.episodes; print([m for m in ('torch', 'minari', 'h5py', 'gymnasium') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
