"""Which frames are trained on: every one, once an epoch, with references far enough away."""

import pickle
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import write_made

from difftalk.models.examples import LatentClips
from difftalk.runtime.errors import UserError
from difftalk.training.checkpoint import resume, save_checkpoint
from difftalk.training.data import Steps, TrainingBatch, batch_indices, draw_reference, load_steps


def test_every_epoch_shows_every_frame_once_in_a_new_order() -> None:
    seen = np.concatenate([batch_indices(10, 4, step, seed=1) for step in range(5)])
    first, second = seen[:10], seen[10:]
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)


def test_a_batch_larger_than_the_data_spans_epochs() -> None:
    assert sorted(batch_indices(3, 7, 0, seed=1)) == sorted(
        [0, 1, 2] * 2 + list(batch_indices(3, 7, 0, seed=1)[6:])
    )


@pytest.mark.parametrize("frame", [0, 30, 75, 149])
def test_references_are_all_frames_far_enough_away(frame: int) -> None:
    rng = np.random.default_rng(0)
    drawn = {draw_reference(rng, frame, 150, 60) for _ in range(3000)}
    assert drawn == {f for f in range(150) if abs(f - frame) >= 60}


def test_in_a_short_clip_the_reference_is_the_farthest_frame() -> None:
    rng = np.random.default_rng(0)
    assert draw_reference(rng, 10, 50, 60) == 49
    assert draw_reference(rng, 40, 50, 60) == 0


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> LatentClips:
    return LatentClips([write_made(tmp_path_factory.mktemp("clips")) / "train-000.tar"], neighbours=8)


def tensors(steps: list[TrainingBatch]) -> list[torch.Tensor]:
    return [x for s in steps for x in (*vars(s.examples).values(), s.noise, s.timesteps)]


def test_ranks_share_out_the_batch_of_one(clips: LatentClips) -> None:
    whole = Steps(clips, 6, 1, 60, 1000)[3]
    parts = [Steps(clips, 6, 1, 60, 1000, rank=rank, ranks=3)[3] for rank in range(3)]
    shared = zip(*(tensors([part]) for part in parts), strict=True)
    for expected, found in zip(tensors([whole]), shared, strict=True):
        assert torch.equal(expected, torch.cat(found))


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_neither_order_nor_content(clips: LatentClips, workers: int) -> None:
    steps = Steps(clips, 6, 1, 60, 1000)
    here = list(load_steps(steps, 2, 9, 0, pin=False))
    there = list(load_steps(steps, 2, 9, workers, pin=False))
    assert len(here) == len(there) == 7
    assert all(torch.equal(a, b) for a, b in zip(tensors(here), tensors(there), strict=True))


def test_workers_are_there_before_a_batch_is_asked_for_and_end_with_the_generator(
    clips: LatentClips,
) -> None:
    """So that they are forked without the networks, whose old weights they would keep."""
    batches = load_steps(Steps(clips, 4, 1, 60, 1000), 0, 9, 2, pin=False)
    assert len(active_children()) == 2
    batches.close()
    assert not active_children()


def test_a_worker_process_is_sent_paths_and_no_data(clips: LatentClips) -> None:
    sent = pickle.dumps(clips)
    assert len(sent) < 1000
    assert pickle.loads(sent).clip_ids == clips.clip_ids


def test_the_latest_valid_checkpoint_of_the_same_settings_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, step, "{}", {"x": torch.full((1000,), float(step))})
    kept = sorted(p.name for p in tmp_path.iterdir())
    assert kept == ["step-00000002.pt", "step-00000003.pt"]
    newest = tmp_path / "step-00000003.pt"
    newest.write_bytes(newest.read_bytes()[:500])
    found = resume(tmp_path, "{}")
    assert found is not None and found["step"] == 2
    assert "step-00000003.pt: damaged" in capsys.readouterr().err
    with pytest.raises(UserError, match="steps absent -> 5"):
        resume(tmp_path, '{"settings": {"steps": 5}}')


def test_a_checkpoint_that_would_run_code_is_not_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path.joinpath("sprung").touch, ())

    (tmp_path / "step-00000001.pt").write_bytes(pickle.dumps(Trap()))
    assert resume(tmp_path, "{}") is None
    assert not (tmp_path / "sprung").exists()
