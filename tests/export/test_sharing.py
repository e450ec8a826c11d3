"""What is passed on is what acting needs, with a card that says what is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import yaml

from qseq import load_policy, push_to_hub
from qseq.cli.main import main
from qseq.errors import RequestError
from qseq.export.card import public_source
from qseq.export.sharing import write_shared
from tests.export.policies import frames, make_policy

EVALUATION = {
    "success_rate": 0.77,
    "success_ci95": [0.679, 0.842],
    "mean_return": 0.77,
    "return_ci95": [0.68, 0.85],
    "episodes": 100,
    "env": "qseq.environments.metaworld:qseq/metaworld-v3",
    "env_kwargs": {"task": "push-v3"},
    "seed": 10_000,
    "run": "/home/someone/secret/run",
    "policy_options": {"weights": "int8"},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder as training leaves it, with state that is nobody else's business."""
    run = tmp_path / "run"
    checkpoint = run / "checkpoints" / "step_00000002"
    make_policy({"state": (5,)}).save_pretrained(checkpoint)
    for name in ("optimizer.safetensors", "target.safetensors", "random.pkl"):
        (checkpoint / name).write_bytes(b"state of the training")
    (run / "checkpoints" / "latest").write_text("step_00000002\n")
    (run / "config.yaml").write_text("training:\n  steps: 2\n")
    identity = {"algorithm": "q-transformer", "seed": 3, "data": ["/home/someone/secret/push", "minari:D4RL/door-v2"]}
    (run / "run.json").write_text(json.dumps(identity))
    (run / "evaluations").mkdir()
    (run / "evaluations" / "a.json").write_text(json.dumps(EVALUATION))
    return run


def test_a_folder_holds_what_acting_needs_and_no_more(run: Path, tmp_path: Path) -> None:
    assert main(["share", str(run), "--to", str(tmp_path / "shared"), "--license", "mit"]) == 0
    found = {path.name for path in (tmp_path / "shared").rglob("*")}
    assert found == {"README.md", "config.yaml", "model.safetensors", "policy.json"}
    original, shared = load_policy(run), load_policy(tmp_path / "shared")
    seen = frames(original, 4)  # type: ignore[arg-type]
    np.testing.assert_array_equal(shared.act(seen), original.act(seen))
    assert b"folded_value" not in (tmp_path / "shared" / "model.safetensors").read_bytes()  # only training reads it


def test_the_card(run: Path, tmp_path: Path) -> None:
    write_shared(run, tmp_path / "pusher", license="mit")
    _, front, text = (tmp_path / "pusher" / "README.md").read_text().split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["license"] == "mit"
    assert matter["library_name"] == "qseq"
    [result] = matter["model-index"][0]["results"]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        "success_rate": 0.77,
        "mean_return": 0.77,
    }
    assert '| qseq/metaworld-v3 {"task": "push-v3"} | weights=int8; seed 10000 | 100 | 77.0%, 0.679 to 0.842' in text
    for part in ('load_policy("pusher")', "- `push`", "- `minari:D4RL/door-v2`", "steps: 2", "seed 3"):
        assert part in text
    assert "secret" not in text


def test_a_policy_of_which_nothing_is_known_is_shared_too(run: Path, tmp_path: Path) -> None:
    make_policy({"state": (5,)}).save_pretrained(tmp_path / "policy")
    write_shared(tmp_path / "policy", tmp_path / "shared")
    text = (tmp_path / "shared" / "README.md").read_text()
    assert "None was stated" in text
    assert "Not measured." in text
    assert not (tmp_path / "shared" / "config.yaml").exists()


def test_the_hub_gets_the_same_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []

    class Hub:
        def create_repo(self, repo_id: str, **options: Any) -> None:
            calls.append((repo_id, options))

        def upload_folder(self, *, repo_id: str, folder_path: str) -> str:
            calls.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))
            assert f'load_policy("{repo_id}")' in (Path(folder_path) / "README.md").read_text()
            return "https://hub/commit"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    assert push_to_hub(run, "me/pusher") == "https://hub/commit"
    assert calls == [
        ("me/pusher", {"private": True, "exist_ok": True}),
        ("me/pusher", ["README.md", "config.yaml", "model.safetensors", "policy.json"]),
    ]

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network\nand more")

    monkeypatch.setattr(Hub, "create_repo", refuse)
    with pytest.raises(RequestError, match=r"me/pusher: the Hub took no upload \(OSError: no network\)"):
        push_to_hub(run, "me/pusher")


def test_from_the_hub_come_weights_and_tokenizers_and_no_pickles(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, cache = tmp_path / "repository", tmp_path / "cache"
    write_shared(run, repository)
    for name in ("pytorch_model.bin", "random.pkl", "tokenizer.json", "chat_template.jinja", "trainer.json"):
        (repository / name).write_text("{}")

    def download(repo_id: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        assert repo_id == "me/pusher"
        wanted, not_wanted = (
            {path for pattern in patterns for path in repository.glob(pattern)}
            for patterns in (allow_patterns, ignore_patterns)
        )
        kept = wanted - not_wanted
        cache.mkdir()
        for path in kept:
            shutil.copy(path, cache)
        return str(cache)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load_policy("me/pusher").action_space == load_policy(run).action_space
    fetched = {path.name for path in cache.iterdir()}
    assert fetched == {"policy.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}


def test_wrong_requests_change_nothing(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["share", str(run), "--to", str(run)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["share", str(run), "--to", str(tmp_path / "shared"), "--license", "my own"]) == 2
    assert main(["share", str(tmp_path / "nothing"), "--to", str(tmp_path / "shared")]) == 2
    assert not (tmp_path / "shared").exists()


def test_sources_are_told_without_folders(tmp_path: Path) -> None:
    assert public_source("minari:D4RL/door-v2") == "minari:D4RL/door-v2"
    assert public_source("lerobot:/home/someone/set") == "lerobot:set"
    assert public_source("store:../mine/data") == "store:data"
    assert public_source(f"lerobot:{tmp_path}") == f"lerobot:{tmp_path.name}"
