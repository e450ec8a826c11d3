"""The usage example of earlier Q-Transformer code, with the import changed and smaller sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the example writes where it is run


@pytest.mark.parametrize("as_module", [False, True])
def test_the_usage_example(tmp_path: Path, as_module: bool) -> None:
    torch.manual_seed(0)

    from qseq import Agent, EpisodeStore, MaxViT, MockEnvironment, QLearner, QRoboticTransformer, ReplayMemoryDataset

    vit = dict(  # noqa: C408 (as in the example)
        num_classes=1000,
        dim_conv_stem=8,
        dim=8,
        dim_head=8,
        depth=(1, 1),
        window_size=2,
        mbconv_expansion_rate=4,
        mbconv_shrinkage_rate=0.25,
        dropout=0.1,
    )

    model = QRoboticTransformer(
        vit=MaxViT(**vit) if as_module else vit,  # type: ignore[arg-type]
        image_size=16,
        num_actions=8,
        action_bins=256,
        depth=1,
        heads=2,
        dim_head=8,
        cond_drop_prob=0.2,
        dueling=True,
    )

    env = MockEnvironment(state_shape=(3, 6, 16, 16), text_embed_shape=(768,))

    agent = Agent(model, environment=env, num_episodes=6, max_num_steps_per_episode=5)

    agent()

    q_learner = QLearner(
        model,
        dataset=ReplayMemoryDataset(),
        num_train_steps=3,
        learning_rate=3e-4,
        batch_size=4,
        grad_accum_every=2,
    )

    before = {name: value.clone() for name, value in model.state_dict().items()}

    q_learner()

    video = torch.rand(2, 3, 6, 16, 16)

    instructions = ["bring me that apple sitting on the table", "please pass the butter"]

    actions = model.eval().get_optimal_actions(video, instructions)

    assert actions.shape == (2, 8)
    assert actions.min() >= 0
    assert actions.max() < 256
    store = EpisodeStore.open(tmp_path / "replay_memories_data")
    assert store.num_episodes == 6
    (name,) = store.schema.fields
    assert store.columns[name].shape == (store.num_frames, 3, 16, 16)  # single frames
    assert store.columns[name].dtype == np.uint8
    assert set(store.instructions) <= set(env.instructions)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert any("instruction" in key for key in changed)
    assert any("mbconv" in key for key in changed)  # the vision tower is trained, too
    assert any("decoder" in key for key in changed)
