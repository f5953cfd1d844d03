"""What is damaged is told, with its name, by whatever reads it; nothing damaged is used."""

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_training import train, write_made
from video_site import Site, plays, running

from difftalk.config.dataset import Demo, Identities
from difftalk.config.download import Download
from difftalk.config.encode import Encode
from difftalk.config.evaluation import Evaluation
from difftalk.config.sampling import Sampling
from difftalk.config.speech import Speech
from difftalk.datasets.clips import Clip, clips_with_sources, read_plan, write_plan
from difftalk.datasets.demo.dataset import DemoDataset
from difftalk.datasets.download import fetch_video
from difftalk.evaluation.samples import check_folder
from difftalk.evaluation.scores import read_scores
from difftalk.face.quality import read_quality, write_quality
from difftalk.media import members, shards
from difftalk.media.encode import encode_video, write_video
from difftalk.media.flac import encode_flac
from difftalk.models.autoencoder import build_autoencoder, load_autoencoder
from difftalk.reporting import gallery
from difftalk.reporting.curves import read_log
from difftalk.runtime import checksums
from difftalk.runtime.checksums import SUMS, checksum, record_of
from difftalk.runtime.errors import UserError
from difftalk.runtime.faults import writing
from difftalk.runtime.files import atomic_file, atomic_folder, read_csv, write_csv
from difftalk.runtime.rejects import read_rejects
from difftalk.speech.table import read_speech, speech_writer
from difftalk.stages import encode, sample, score, speech
from difftalk.stages.syncnet import EMBEDDED as EXPERT


@pytest.fixture(autouse=True)
def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process reads a file once; damage in between is seen by the next."""
    monkeypatch.setattr(checksums, "_whole", set())
    monkeypatch.setattr(members, "_whole", set())


def arrays(value: float) -> dict[str, Any]:
    return {"latents.npy": np.full((3, 2, 4), value, np.float16), "json": {"frames": 3}, "mp4": b"frames"}


def write_table(path: Path) -> None:
    with speech_writer(path) as write:
        for name in ("a", "b"):
            write(name, np.arange(40, dtype=np.float32).reshape(10, 4))


def write_three(path: Path) -> None:
    shards.write_shard(path, [(name, arrays(k)) for k, name in enumerate("abc")])


def as_text(found: Any) -> str:
    with np.printoptions(threshold=10**6):
        return repr(found)


# How each kind of file is written, and read.
KINDS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "shard.tar": (write_three, lambda p: list(shards.read_shard(p))),
    "mapped.tar": (write_three, shards.map_arrays),
    "speech.parquet": (write_table, read_speech),
    "clips.parquet": (
        lambda p: write_plan(p, [Clip("a-0", "a", 0.0, 2.0, "a", "train", "train-000")]),
        read_plan,
    ),
    "quality.csv": (
        lambda p: write_quality(p, [("a", 50, 48, 0.02), ("b", 50, 50, None)]),
        lambda p: read_quality([p]),
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_read_as_it_was_written_or_not_at_all(tmp_path: Path, name: str) -> None:
    """One wrong byte anywhere, a cut anywhere, a block of zeros, another file: the error names the file."""
    write, read = KINDS[name]
    path = tmp_path / name
    write(path)
    whole = path.read_bytes()
    expected = as_text(read(path))
    rng = np.random.default_rng(0)
    damaged = [whole[:n] for n in {0, 1, *rng.integers(len(whole), size=60), len(whole) - 1}]
    damaged += [whole[:n] for n in range(0, len(whole), 512)]
    for at in rng.integers(len(whole), size=150):
        damaged.append(whole[:at] + bytes([whole[at] ^ (1 << int(rng.integers(8)))]) + whole[at + 1 :])
    damaged += [whole[:at] + bytes(512) + whole[at + 512 :] for at in range(0, len(whole) - 512, 512)]
    damaged += [b"no such file", whole + b"more"]
    refused = 0
    for content in damaged:
        checksums._whole.clear()
        members._whole.clear()
        path.write_bytes(content)
        try:
            found = as_text(read(path))
        except UserError as e:
            assert str(path) in str(e)
            refused += 1
        else:
            # Of a shard, what is not read: padding between files.
            assert found == expected
            assert path.suffix == ".tar" or content == whole
    assert refused > 100
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        read(path)


def test_the_list_of_checksums_is_no_file_of_the_shard(tmp_path: Path) -> None:
    write_three(tmp_path / "s.tar")
    with tarfile.open(tmp_path / "s.tar") as tar:
        assert {name.split(".")[0] for name in tar.getnames()} == {"a", "b", "c"}
    with tarfile.open(tmp_path / "s.tar", ignore_zeros=True) as tar:
        assert tar.getnames()[-1] == "__checksums__"


def test_a_shard_in_the_place_of_another_is_found(tmp_path: Path) -> None:
    write_three(tmp_path / "train-000.tar")
    shards.write_shard(tmp_path / "test-000.tar", [("x", arrays(0))])
    shutil.copyfile(tmp_path / "test-000.tar", tmp_path / "train-000.tar")
    with pytest.raises(UserError, match=r"train-000\.tar is another shard: .* delete the record, .*sha256"):
        list(shards.read_shard(tmp_path / "train-000.tar"))
    shutil.copyfile(tmp_path / "test-000.tar", tmp_path / "elsewhere.tar")
    assert [clip_id for clip_id, _ in shards.read_shard(tmp_path / "elsewhere.tar")] == ["x"]


def test_a_tar_of_other_software_is_taken_as_it_is_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_three(tmp_path / "ours.tar")
    with tarfile.open(tmp_path / "ours.tar") as ours, tarfile.open(tmp_path / "other.tar", "w") as other:
        for member in ours:
            other.addfile(member, ours.extractfile(member))
    read = [as_text(list(shards.read_shard(tmp_path / f"{name}.tar"))) for name in ("ours", "other")]
    assert read[0] == read[1]
    assert "other.tar has no checksums" in capsys.readouterr().err


def test_records_are_those_of_sha256sum_and_a_file_without_one_is_taken_as_it_is(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ("x",), [[1]])
    assert record_of(tmp_path / "a.csv").read_text() == f"{checksum(tmp_path / 'a.csv')}  a.csv\n"
    (tmp_path / "a.csv").write_text("x\n2\n")
    with pytest.raises(
        UserError,
        match=r"a\.csv is damaged or was edited.*to use it as it is, delete the record, .*\.a\.csv\.sha256",
    ):
        read_csv(tmp_path / "a.csv")
    record_of(tmp_path / "a.csv").unlink()
    assert read_csv(tmp_path / "a.csv") == [{"x": "2"}]
    with atomic_file(tmp_path / "a.csv") as tmp:
        tmp.write_text("x\n3\n")
    assert read_csv(tmp_path / "a.csv") == [{"x": "3"}]


@pytest.fixture
def first_stage(tmp_path: Path) -> Path:
    with atomic_folder(tmp_path / "autoencoder") as tmp:
        build_autoencoder((16, 32), 1, 16).save_pretrained(tmp)
        (tmp / "README.md").write_text("A first stage.")
    return tmp_path / "autoencoder"


def flip(path: Path, at: int = -5) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_damaged_model_is_not_loaded_but_its_card_may_be_edited(first_stage: Path) -> None:
    (first_stage / "README.md").write_text("Mine.")
    load_autoencoder(first_stage)
    flip(first_stage / "diffusion_pytorch_model.safetensors")
    with pytest.raises(
        UserError, match=r"diffusion_pytorch_model\.safetensors is damaged .* delete .*autoencoder,"
    ):
        load_autoencoder(first_stage)


def test_a_first_stage_without_checksums_that_does_not_load_is_told_in_a_sentence(first_stage: Path) -> None:
    (first_stage / SUMS).unlink()
    weights = first_stage / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"autoencoder: the first stage cannot be loaded"):
        load_autoencoder(first_stage)


def test_a_damaged_finished_model_is_trained_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = write_made(tmp_path)
    model = train(made, "once", steps=2)
    unet = model / "unet" / "diffusion_pytorch_model.safetensors"
    before = unet.read_bytes()
    flip(unet)  # and, being one file with it, what the record of the finished model has
    shutil.rmtree(model)
    train(made, "once", steps=2)
    said = capsys.readouterr().err
    assert "unet/diffusion_pytorch_model.safetensors is damaged" in said
    assert "starts afresh" in said
    assert unet.read_bytes() == before


def test_a_first_stage_that_does_not_load_is_told_before_the_training(tmp_path: Path) -> None:
    made = write_made(tmp_path)
    (made / "autoencoder" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"autoencoder: the first stage cannot be loaded"):
        train(made, "never")
    assert not list((made / "state-never").glob("step-*"))


def test_a_failure_to_read_is_not_told_as_a_failure_to_write(tmp_path: Path) -> None:
    with (
        pytest.raises(FileNotFoundError, match=r"gone\.json"),
        writing(tmp_path / "model", "nothing is lost"),
    ):
        (tmp_path / "autoencoder" / "gone.json").read_text()


@pytest.fixture
def fetched(tmp_path: Path) -> Path:
    """A plan of one clip, and the folder of its source, as `fetch` leaves it."""
    write_plan(
        tmp_path / "p", [Clip("a-0", "a", 0.0, 2.0, "a", "train", "train-000")], ["train-000", "test-000"]
    )
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.mp4").write_bytes(b"frames" * 100)
    with atomic_folder(tmp_path / "sources") as tmp:
        (tmp / "a.mp4").symlink_to(tmp_path / "store" / "a.mp4")
        (tmp / "a.landmarks.npy").write_bytes(b"points")
        (tmp / ".clips").write_text("a-0\n")
    return tmp_path


@pytest.mark.parametrize("name", ["sources/a.mp4", "sources/a.landmarks.npy", "sources/.clips"])
def test_a_source_is_compared_with_what_was_fetched(fetched: Path, name: str) -> None:
    found = clips_with_sources(fetched / "p", "train-000", fetched / "sources")
    assert [clip.clip_id for clip, _ in found] == ["a-0"]
    flip(fetched / name, 1)
    with pytest.raises(UserError, match=f"{name} is damaged .* delete .*sources, and snakemake fetches it"):
        clips_with_sources(fetched / "p", "train-000", fetched / "sources")
    (fetched / name).unlink()
    with pytest.raises(UserError, match=f"{name} is gone"):
        clips_with_sources(fetched / "p", "train-000", fetched / "sources")


def test_what_is_not_there_is_not_no_clips(fetched: Path) -> None:
    assert clips_with_sources(fetched / "p", "test-000", fetched / "sources") == []
    with pytest.raises(UserError, match="no shard train-001; did you mean train-000"):
        clips_with_sources(fetched / "p", "train-001", fetched / "sources")
    with pytest.raises(UserError, match=r"elsewhere: no such folder; `difftalk fetch` fills it"):
        clips_with_sources(fetched / "p", "train-000", fetched / "elsewhere")
    with pytest.raises(UserError, match=r"log\.jsonl: no such file"):
        list(read_log(fetched / "log.jsonl"))


def test_a_sample_that_is_gone_or_damaged_is_an_error_one_that_never_was_is_not(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "samples") as tmp:
        for name in ("a", "b"):
            (tmp / f"{name}.mp4").write_bytes(name.encode() * 9)
    check_folder(tmp_path / "samples", ["a", "b", "c"])
    flip(tmp_path / "samples" / "b.mp4")
    with pytest.raises(UserError, match=r"b\.mp4 is damaged"):
        check_folder(tmp_path / "samples", ["a", "b", "c"])
    (tmp_path / "samples" / "b.mp4").unlink()
    with pytest.raises(UserError, match=r"b\.mp4 is gone"):
        check_folder(tmp_path / "samples", ["a", "b", "c"])


def test_a_torn_or_changed_video_of_the_store_is_downloaded_again(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((10, 32, 32, 3), np.uint8))
    content = (tmp_path / "a.mp4").read_bytes()
    store = tmp_path / "store"
    with running(Site(pages={"watched-001": plays("a.mp4")}, files={"a.mp4": tmp_path / "a.mp4"})) as site:
        how = Download(url=site.url, sleep_s=0, request_sleep_s=0, attempts=1, timeout_s=5)
        for damage in (None, flip, lambda file: file.write_bytes(content[:-9]), lambda file: file.unlink()):
            if damage is not None:
                damage(fetch_video("watched-001", store, how))
            assert fetch_video("watched-001", store, how).read_bytes() == content
        asked = site.asked["watched-001"]
        (store / "watched-001.json").write_text('{"file')
        fetch_video("watched-001", store, how)
        assert site.asked["watched-001"] > asked, "a torn note counts as none"
        asked = site.asked["watched-001"]
        fetch_video("watched-001", store, how)
        assert site.asked["watched-001"] == asked


def test_a_damaged_video_of_the_demo_is_rendered_again(tmp_path: Path) -> None:
    demo = DemoDataset(
        Demo(identities=Identities(train=1, test=1), clips_per_identity=1, clip_seconds=1.0, size=128)
    )
    source = demo.clips()[0].source_id

    def fetched() -> list[bytes]:
        return [file.read_bytes() for file in demo.fetch(source, "", tmp_path, Download()).values()]

    whole = fetched()
    for file in demo.fetch(source, "", tmp_path, Download()).values():
        flip(file, 1000)
        assert fetched() == whole


def crop(frames: int = 12) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "mp4": encode_video(list(rng.integers(0, 256, (frames, 32, 32, 3), np.uint8)), pix_fmt="yuv444p"),
        "flac": encode_flac(rng.normal(0, 3000, 640 * frames).astype(np.int16)),
        "landmarks.npy": rng.uniform(8, 24, (frames, 68, 2)).astype(np.float32),
        "json": {"frames": frames, "size": 32, "identity": "a"},
    }


def test_a_crop_that_cannot_be_decoded_is_its_clips_reject(tmp_path: Path, first_stage: Path) -> None:
    """It was written so: the shard is whole."""
    samples = {name: crop() for name in ("flac", "mp4", "npy", "good")}
    samples["flac"]["flac"] = b"no flac"
    samples["mp4"]["mp4"] = b"no video"
    samples["npy"]["landmarks.npy"] = samples["npy"]["landmarks.npy"][:, :5]
    crops, of_speech, rejects = tmp_path / "c.tar", tmp_path / "s.parquet", tmp_path / "r.csv"
    shards.write_shard(crops, samples.items())
    speech.run(crops=crops, settings=Speech(), out=of_speech, rejects=rejects, max_reject_fraction=1.0)
    assert {r.clip_id: r.reason for r in read_rejects(rejects)} == dict.fromkeys(
        ("flac", "npy"), "cannot_decode"
    )
    encode.run(
        crops=crops,
        speech=of_speech,
        autoencoder=first_stage,
        settings=Encode(),
        out=tmp_path / "e.tar",
        rejects=rejects,
        max_reject_fraction=1.0,
    )
    assert [r.clip_id for r in read_rejects(rejects)] == ["mp4"]
    assert list(shards.map_arrays(tmp_path / "e.tar")) == ["good"]


def test_a_crop_that_cannot_be_decoded_costs_its_sample_and_its_score_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = {"flac": crop() | {"flac": b"no flac"}, "json": crop() | {"json": b"no json"}, "good": crop()}
    shards.write_shard(tmp_path / "c.tar", samples.items())
    shards.write_shard(tmp_path / "e.tar", ((name, arrays(0)) for name in samples))
    sample.run(
        method="ground_truth",
        crops=tmp_path / "c.tar",
        shard_file=tmp_path / "e.tar",
        autoencoder=tmp_path,
        settings=Sampling(),
        out=tmp_path / "samples",
    )
    assert sorted(p.name for p in (tmp_path / "samples").glob("*.mp4")) == ["good.mp4", "json.mp4"]
    assert "sample: flac has no video: cannot_decode: the flac of the crop" in capsys.readouterr().err
    score.run(
        method="ground_truth",
        samples=tmp_path / "samples",
        crops=tmp_path / "c.tar",
        syncnet=EXPERT,
        settings=Evaluation(),
        out=tmp_path / "m.parquet",
    )
    rows = read_scores([tmp_path / "m.parquet"]).clips["ground_truth"]
    assert {name: row["problem"] is None for name, row in rows.items()} == {
        "flac": False, "json": True, "good": True
    }  # fmt: skip
    chosen = gallery.chosen_clips([tmp_path / "c.tar"], 3)
    assert [c.clip_id for c in chosen] == ["flac", "good"]
    assert "report: json is not shown" in capsys.readouterr().err


def test_files_of_several_runs_are_not_mixed(tmp_path: Path) -> None:
    shards.write_shard(tmp_path / "c.tar", [("a", crop())])
    with pytest.raises(UserError, match=r"c\.tar has no clip b, .* several runs are mixed"):
        list(shards.read_crops(tmp_path / "c.tar", ["a", "b"]))
