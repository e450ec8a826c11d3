"""An exported policy says what the policy it was made from says, to 1e-4, and does the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qseq.errors import DataError, RequestError
from qseq.export import OnnxPolicy, export_policy
from qseq.export.programs import make_programs
from qseq.policies import TokenPolicy
from tests.export.policies import BOX, CAMERA, DISCRETE, frames, make_policy

pytest.importorskip("onnxruntime", reason="needs qseq[export]")

TEXTS = ["push the red block", ""]
CASES: dict[str, dict[str, Any]] = {
    "state": {"fields": {"state": (5,)}, "text": {"encoder": "none"}},
    "camera": CAMERA | {"history": 3, "spec_options": {"first_frame": True}},
    "one token": {
        "fields": {"state": (5,)},
        "space": DISCRETE,
        "history": 2,
        "head": {"pooled": True},
        "text": {"encoder": "hf:not/fetched", "revision": "1", "embed_dim": 6},
    },
}
INT8 = {"one token"}
"""Cases that are exported with rounded weights: less to run, and the rest of the graph is the same."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[TokenPolicy, Path]]:
    """Each case once: exporting is what takes time."""
    made = {}
    for name, case in CASES.items():
        policy: TokenPolicy = make_policy(**case)
        told = []
        if name == "one token":  # its text encoder is frozen, and what it would say is known
            told = [TEXTS[0]]
            policy.network.text_inputs._known[TEXTS[0]] = torch.randn(1, 6)
        if name in INT8:
            policy = type(policy)(policy.network, policy.spec, weights="int8")  # type: ignore[arg-type]
        made[name] = (policy, export_policy(policy, tmp_path_factory.mktemp("exports") / name, instructions=told))
    return made


def windows_of(policy: TokenPolicy, rows: int) -> dict[str, np.ndarray]:
    found = [frames(policy, rows, seed) for seed in range(policy.spec.history)]  # type: ignore[arg-type]
    return {name: np.stack([one[name] for one in found], axis=1) for name in found[0]}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_graphs_give_what_torch_gives(exported: dict[str, tuple[TokenPolicy, Path]], name: str, rows: int) -> None:
    policy, folder = exported[name]
    acting = OnnxPolicy(folder)
    windows = windows_of(policy, rows)
    texts = [TEXTS[row % 2] for row in range(rows)] if policy.takes_instructions else [""] * rows
    with torch.inference_mode():
        decoder, context_BSD = policy._encode(windows, texts)
        told = [acting._embedded(texts)] if policy.takes_instructions else []
        tokens_BSD, values_BK, *cache = acting._run("encoder", [*windows.values(), *told])
        np.testing.assert_allclose(tokens_BSD, context_BSD.numpy(), atol=1e-4, rtol=0)
        prefix = np.zeros((rows, 0), dtype=np.int64)
        torch_cache = decoder.new_cache()
        random = np.random.default_rng(0)
        for position in range(policy.spec.tokenizer.num_tokens):
            logits = decoder(context_BSD, torch.from_numpy(prefix), torch_cache)
            np.testing.assert_allclose(values_BK, policy.scores(logits)[:, -1].numpy(), atol=1e-4, rtol=0)
            if position + 1 < policy.spec.tokenizer.num_tokens:
                token_B = random.integers(0, values_BK.shape[1], rows)  # any prefix, not the greedy one only
                prefix = np.concatenate((prefix, token_B[:, None]), axis=1)
                values_BK, *cache[:2] = acting._run("decoder", [token_B, *cache])
                keys = torch_cache.layers[0].self_keys_BHTE
                assert keys is not None
                assert cache[0].shape[3] == keys.shape[2] + 1


@pytest.mark.parametrize("name", CASES)
def test_it_acts_as_the_policy_does(exported: dict[str, tuple[TokenPolicy, Path]], name: str) -> None:
    policy, folder = exported[name]
    acting = OnnxPolicy(folder)
    told = TEXTS if policy.takes_instructions else None
    for step in range(4):
        seen = frames(policy, 2, step)  # type: ignore[arg-type]
        if step == 2:
            policy.reset([7])
            acting.reset([7])
        expected = policy.act(seen, told, environment_ids=[7, 3])
        found = acting.act(seen, told, environment_ids=[7, 3])
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    single = {field: values[0] for field, values in seen.items()}
    np.testing.assert_array_equal(acting.act(single), policy.act(single))


def test_a_robot_without_torch_acts(exported: dict[str, tuple[TokenPolicy, Path]]) -> None:
    policy, folder = exported["state"]
    action = policy.act(np.ones(5, np.float32))
    code = (
        "import sys; sys.modules['torch'] = None; import numpy as np; from qseq.export import OnnxPolicy;"
        f"print(OnnxPolicy({str(folder)!r}).act(np.ones(5, np.float32)).tolist());"
        "assert not {'pydantic', 'gymnasium', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == action.tolist()


def test_what_the_runner_is_given_is_checked(exported: dict[str, tuple[TokenPolicy, Path]], tmp_path: Path) -> None:
    acting, camera = OnnxPolicy(exported["state"][1]), OnnxPolicy(exported["camera"][1])
    with pytest.raises(RequestError, match=r"field 'state' has shape \[4\], expected \[5\]"):
        acting.act(np.zeros(4))
    with pytest.raises(RequestError, match="instruction: found 'push', expected none"):
        acting.act(np.zeros(5), "push")
    with pytest.raises(
        RequestError, match=r"found 'open it', expected one of \['push the red block'\]: the text encoder"
    ):
        OnnxPolicy(exported["one token"][1]).act(np.zeros(5), "open it")
    with pytest.raises(RequestError, match="image 'front/image' is float64, expected uint8"):
        camera.act({"front/image": np.zeros((3, 24, 24)), "robot.state": np.zeros(3)})
    with pytest.raises(RequestError, match=r"found no exported\.json"):
        OnnxPolicy(tmp_path)
    (tmp_path / "exported.json").write_text(json.dumps(acting.description))
    (tmp_path / "encoder.onnx").write_bytes(b"no graph")
    with pytest.raises(DataError, match=r"encoder\.onnx: cannot be read as an ONNX graph"):
        OnnxPolicy(tmp_path)


def test_bins_are_written_as_the_tokenizer_decodes_them(exported: dict[str, tuple[TokenPolicy, Path]]) -> None:
    for policy, folder in exported.values():
        tokenizer = policy.spec.tokenizer
        written = json.loads((folder / "exported.json").read_text())["action"]
        for token, values in enumerate(written["values"]):
            assert len(values) == tokenizer.bins_per_token[token]
            tokens_KA = torch.zeros(len(values), tokenizer.num_tokens, dtype=torch.long)
            tokens_KA[:, token] = torch.arange(len(values))
            decoded = tokenizer.decode(tokens_KA).reshape(len(values), -1)[:, token]
            np.testing.assert_array_equal(np.array(values, dtype=written["dtype"]), decoded.numpy())


def test_torch_export_is_reloaded_to_the_same_outputs(tmp_path: Path) -> None:
    policy = make_policy({"state": (5,)}, space=DISCRETE, chunk=2)
    folder = export_policy(policy, tmp_path / "out", format="torch-export")
    assert {path.name for path in folder.iterdir()} == {"encoder.pt2", "decoder.pt2", "exported.json"}
    for program in make_programs(policy, ()):
        loaded = torch.export.load(folder / f"{program.name}.pt2").module()
        first, *rest = program.examples
        larger = {n: t.repeat(2, *[1] * (t.ndim - 1)) for n, t in first.items()} if isinstance(first, dict) else None
        arguments = (first, *rest) if larger is None else (larger, *[t.repeat(2, *[1] * (t.ndim - 1)) for t in rest])
        with torch.no_grad():
            for found, expected in zip(loaded(*arguments), program.module(*arguments), strict=True):
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("case", "line"),
    [
        ({"decoding": {"beam_width": 2}}, "decoding: found a policy that samples or searches"),
        ({"decoding": {"temperature": 0.5}}, "decoding: found a policy that samples or searches"),
        ({"weights": "bfloat16"}, "weights: found bfloat16, expected float32 or int8"),
        ({"decoding": {"prior_weight": 0.1}}, r"decoding\.prior_weight: found 0\.1, expected 0"),
        ({"head": {"dimension_order": "learned"}}, r"dimension_order: found learned, expected fixed or random"),
    ],
)
def test_what_is_not_exported_is_one_line(case: dict[str, Any], line: str, tmp_path: Path) -> None:
    options = {name: value for name, value in case.items() if name != "weights"}
    policy = make_policy({"state": (5,)}, space=BOX, **options)
    policy = type(policy)(policy.network, policy.spec, weights=case.get("weights"))
    with pytest.raises(RequestError, match=line) as error:
        export_policy(policy, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
