"""Methods from elsewhere: a folder of videos, or a command run for each clip, become rows of the tables."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import wave
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import yaml
from conftest import ROOT, Stage
from drawn_clips import speaker, write_crops, write_sample

from difftalk.config.crops import CropsSettings
from difftalk.config.methods import MethodSettings
from difftalk.config.section import from_dict
from difftalk.config.workflow import given_methods, load, method_files
from difftalk.media.shards import read_crops, write_shard
from difftalk.media.video import read_frames, read_video
from difftalk.runtime.command import last_lines
from difftalk.runtime.errors import UserError
from difftalk.runtime.sample_folder import find_video, read_problems, read_rates
from difftalk.stages import run_method

CLIPS = {"ann": speaker(950), "ben": speaker(951)}


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the crops of two clips, and a shard that lists them."""
    folder = tmp_path_factory.mktemp("shard")
    write_crops(folder / "test-000.tar", CLIPS)
    write_shard(folder / "encoded.tar", [(clip_id, {"x.npy": np.zeros(1)}) for clip_id in CLIPS])
    return folder


def entry(**keys: Any) -> MethodSettings:
    return from_dict(MethodSettings, keys, "entry")


def take(shard: Path, out: Path, settings: MethodSettings, **other: Any) -> dict[str, dict[str, str]]:
    """Run the stage; returns the rows of `differences.csv` by clip."""
    run_method.run(
        method="theirs",
        entry=settings,
        crops=shard / "test-000.tar",
        shard_file=shard / "encoded.tar",
        out=out,
        **other,
    )
    with (out / "differences.csv").open(newline="") as file:
        return {row["clip_id"]: row for row in csv.DictReader(file)}


def script(folder: Path, text: str) -> str:
    path = folder / "method.py"
    path.write_text(textwrap.dedent(text))
    return str(path)


DELAY = """
import sys
import numpy as np
from difftalk.media.video import read_video
from difftalk.media.encode import write_video

frames = read_video(sys.argv[1])
write_video(sys.argv[2], np.concatenate([frames[:1]] * 3 + [frames[:-3]]), crf=4, pix_fmt="yuv444p")
"""


def delaying(folder: Path, **keys: Any) -> MethodSettings:
    """A command that shows each frame three frames late."""
    words = ["python", script(folder, DELAY), "{video}", "{out}"]
    variables = {"PYTHONPATH": os.environ.get("PYTHONPATH", "") or str(Path(__file__).parents[1])}
    return entry(command=words, variables=variables, **keys)


def test_a_command_is_run_for_each_clip_and_its_video_taken(shard: Path, tmp_path: Path) -> None:
    rows = take(shard, tmp_path / "out", delaying(tmp_path))
    for clip_id, (truth, _, _) in CLIPS.items():
        made = read_video(tmp_path / "out" / f"{clip_id}.mp4").astype(int)
        # H.264 at crf 4: a unit of 255, where frames three apart differ by more at the mouth.
        assert np.abs(made[10:] - truth[7:-3].astype(int)).mean() < 1.5
        row = rows[clip_id]
        assert (row["frames_asked"], row["frames_given"], row["done"]) == ("60", "60", "nothing")
        assert float(row["seconds"]) > 0 and not row["problem"]
    timed = (tmp_path / "out" / "timing.csv").read_text().splitlines()
    assert timed[0] == "clip_id,seconds,frames,steps" and [line.split(",")[0] for line in timed[1:]] == [
        "ann",
        "ben",
    ]


def test_a_command_finds_the_files_that_its_words_name(shard: Path, tmp_path: Path) -> None:
    text = """
    import shutil, sys
    image, audio, landmarks, folder, clip_id, keep = sys.argv[1:]
    for name, path in (("i.png", image), ("a.wav", audio), ("l.csv", landmarks)):
        shutil.copy(path, f"{keep}/{clip_id}-{name}")
    open(f"{folder}/note.txt", "w").write(clip_id)
    """
    words = ["python", script(tmp_path, text), "{image}", "{audio}", "{landmarks}", "{folder}", "{clip_id}"]
    rows = take(shard, tmp_path / "out", entry(command=[*words, str(tmp_path)], landmarks="csv"))
    frames, landmarks, audio = CLIPS["ann"]
    image = next(iter(read_frames(tmp_path / "ann-i.png")))
    assert np.array_equal(image, next(read_crops(shard / "test-000.tar")).frames()[0])
    with wave.open(str(tmp_path / "ann-a.wav")) as file:
        assert (file.getframerate(), file.getnchannels()) == (16000, 1)
        assert np.array_equal(np.frombuffer(file.readframes(10**6), "<i2"), audio)
    table = np.loadtxt(tmp_path / "ann-l.csv", delimiter=",", skiprows=1)
    assert np.allclose(table[:, 1:].reshape(-1, 68, 2), landmarks, atol=1e-3)
    assert rows["ann"]["problem"] == "no_output: the command has written no video; there is note.txt"


def test_a_clip_that_a_command_fails_on_is_a_row_with_its_reason(shard: Path, tmp_path: Path) -> None:
    text = """
    import sys
    if sys.argv[1] == "ann":
        print("loading", file=sys.stderr)
        print("no face found", file=sys.stderr)
        sys.exit(3)
    import shutil
    shutil.copy(sys.argv[2], sys.argv[3])
    """
    words = ["python", script(tmp_path, text), "{clip_id}", "{video}", "{out}"]
    rows = take(shard, tmp_path / "out", entry(command=words))
    assert rows["ann"]["problem"] == "crashed: exit status 3 (loading | no face found)"
    assert not rows["ben"]["problem"]
    assert [p.name for p in (tmp_path / "out").glob("*.mp4")] == ["ben.mp4"]


def test_of_all_that_a_command_prints_the_end_is_read(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("wb") as file:
        file.truncate(8 << 30)  # sparse
        file.seek(0, 2)
        file.write(b"\nlast but one\nno face found\n")
    assert last_lines(said)[-2:] == ["last but one", "no face found"]
    assert last_lines(said, 1) == ["no face found"]


def test_what_a_command_prints_has_no_control_characters_and_may_be_deleted(
    shard: Path, tmp_path: Path
) -> None:
    """They would drive the terminal that shows the problem, and stand in tables."""
    text = """
    import pathlib, shutil, sys
    print("\\x1b[31mred\\0", file=sys.stderr, flush=True)
    if sys.argv[1] == "ben":
        shutil.rmtree(pathlib.Path(sys.argv[2]).parent)
    sys.exit(1)
    """
    words = ["python", script(tmp_path, text), "{clip_id}", "{folder}"]
    rows = take(shard, tmp_path / "out", entry(command=words))
    assert rows["ann"]["problem"] == "crashed: exit status 1 ([31mred)"
    assert rows["ben"]["problem"] == "crashed: exit status 1"


@pytest.mark.parametrize("name", ["timing.csv", "differences.csv"])
def test_a_table_of_another_meaning_beside_the_videos_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("clip_id,other\nann,2\n")
    with pytest.raises(UserError, match=f"{name}: has no column"):
        read_rates(tmp_path) if name == "timing.csv" else read_problems(tmp_path)


def test_timing_that_is_no_number_is_named(tmp_path: Path) -> None:
    (tmp_path / "timing.csv").write_text("clip_id,frames,seconds\nann,50,fast\n")
    with pytest.raises(UserError, match="frames and seconds are no numbers"):
        read_rates(tmp_path)


def test_suffixes_may_be_in_capital_letters(tmp_path: Path) -> None:
    (tmp_path / "ann.MP4").touch()
    assert find_video(tmp_path, "ann") == tmp_path / "ann.MP4"
    assert find_video(tmp_path, "ben") is None


def test_a_time_out_ends_the_command_and_all_that_it_has_started(shard: Path, tmp_path: Path) -> None:
    text = """
    import pathlib, subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    pathlib.Path(sys.argv[1], f"pid-{sys.argv[2]}").write_text(str(child.pid))
    time.sleep(60)
    """
    words = ["python", script(tmp_path, text), str(tmp_path), "{clip_id}"]
    began = time.monotonic()
    rows = take(shard, tmp_path / "out", entry(command=words, timeout_s=1.0))
    assert time.monotonic() - began < 20
    assert {row["problem"] for row in rows.values()} == {"timed_out: no end after 1 s"}
    for pid in tmp_path.glob("pid-*"):
        assert not is_running(int(pid.read_text()))


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_run_goes_on_with_the_clips_that_are_left(shard: Path, tmp_path: Path) -> None:
    text = """
    import os, pathlib, shutil, signal, sys
    clip_id, video, out, folder = sys.argv[1:]
    pathlib.Path(folder, f"{clip_id}-{len(list(pathlib.Path(folder).glob(clip_id + '-*')))}").touch()
    if clip_id == "ben" and not pathlib.Path(folder, "go").exists():
        os.kill(os.getppid(), signal.SIGKILL)
    shutil.copy(video, out)
    """
    settings = entry(
        command=["python", script(tmp_path, text), "{clip_id}", "{video}", "{out}", str(tmp_path)]
    )
    words = ["run_method", "--method", "theirs", "--entry", json.dumps(settings.as_dict())]
    words += ["--crops", str(shard / "test-000.tar"), "--shard-file", str(shard / "encoded.tar")]
    words += ["--out", str(tmp_path / "out"), "--state", str(tmp_path / "state")]
    command = [sys.executable, "-m", "difftalk", *words]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    (tmp_path / "go").touch()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0 and "1 of 2 clips are there from before" in done.stderr, done.stderr
    assert {p.name for p in tmp_path.glob("???-?")} == {"ann-0", "ben-0", "ben-1"}
    assert {p.name for p in (tmp_path / "out").glob("*.mp4")} == {"ann.mp4", "ben.mp4"}
    assert not (tmp_path / "state").exists()


def test_a_closed_terminal_ends_the_command(shard: Path, tmp_path: Path) -> None:
    text = """
    import os, pathlib, signal, sys, time
    pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
    os.kill(os.getppid(), signal.SIGHUP)
    time.sleep(60)
    """
    settings = entry(command=["python", script(tmp_path, text), str(tmp_path / "pid"), "{out}"])
    words = ["run_method", "--method", "theirs", "--entry", json.dumps(settings.as_dict())]
    words += ["--crops", str(shard / "test-000.tar"), "--shard-file", str(shard / "encoded.tar")]
    command = [sys.executable, "-m", "difftalk", *words, "--out", str(tmp_path / "out")]
    ended = subprocess.run(command, check=False, capture_output=True)
    assert ended.returncode == 128 + signal.SIGHUP
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_sigkill_of_the_stage_ends_the_command_and_all_that_it_has_started(
    shard: Path, tmp_path: Path
) -> None:
    endless = """
    import os, pathlib, signal, subprocess, sys, time
    child = subprocess.Popen(["sleep", "600"])
    pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid}")
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(600)
    """
    settings = entry(command=["python", script(tmp_path, endless), str(tmp_path / "pids")])
    command = [
        sys.executable, "-m", "difftalk", "run_method", "--method", "theirs",
        "--entry", json.dumps(settings.as_dict()), "--crops", str(shard / "test-000.tar"),
        "--shard-file", str(shard / "encoded.tar"),
        "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    ended = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert ended.returncode == -signal.SIGKILL
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    until = time.monotonic() + 30
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_running, pids))


def test_a_program_that_cannot_be_executed_is_one_error(shard: Path, tmp_path: Path) -> None:
    for first_line, said in (
        ("print(1)", "Exec format error.*first line"),
        ("#!/nowhere/python", "interpreter"),
    ):
        program = tmp_path / "program"
        program.write_text(f"{first_line}\n")
        program.chmod(0o755)
        with pytest.raises(UserError, match=rf"methods.theirs: {program} cannot be started: .*{said}"):
            take(shard, tmp_path / "out", entry(command=[str(program), "{out}"]))


def write_at(path: Path, frames: np.ndarray, fps: int, size: int) -> None:
    """Write a video of another rate, size and container, by FFmpeg's MPEG-4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width = stream.height = size
        stream.pix_fmt, stream.bit_rate = "yuv420p", 8_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def test_videos_of_another_rate_size_and_container_are_kept_and_compared_by_time(
    shard: Path, tmp_path: Path
) -> None:
    truth = CLIPS["ann"][0]
    shown = truth[np.minimum(np.floor(np.arange(72) / 30 * 25 + 1e-6).astype(int), 59)]
    write_at(tmp_path / "videos" / "ann.mkv", shown, 30, 64)
    rows = take(shard, tmp_path / "out", entry(videos=str(tmp_path / "videos")))
    assert (tmp_path / "out" / "ann.mkv").read_bytes() == (tmp_path / "videos" / "ann.mkv").read_bytes()
    row = rows["ann"]
    assert (row["frames_given"], row["fps"], row["codec"]) == ("60", "30.0", "mpeg4")
    assert row["done"] == "frames taken by time from 30 fps"
    assert rows["ben"]["problem"].startswith("no_output: no video of this clip in ")
    assert not (tmp_path / "out" / "timing.csv").exists()


def test_frames_that_go_by_number_whatever_the_file_says(shard: Path, tmp_path: Path) -> None:
    truth = CLIPS["ann"][0]
    write_at(tmp_path / "videos" / "test-000" / "ann.mkv", truth, 30, 64)
    settings = entry(videos=str(tmp_path / "videos"))
    problem = take(shard, tmp_path / "time", settings)["ann"]["problem"]
    assert problem.startswith("length_mismatch: 50 frames at 25 fps, the clip has 60")
    assert problem.endswith("60 frames at 30 fps may be one for each of the clip's: then set rate: frames")
    rows = take(shard, tmp_path / "number", settings.model_copy(update={"rate": "frames"}))
    assert rows["ann"]["done"] == "frames taken by number from 30 fps"
    made = read_video(tmp_path / "number" / "ann.mp4").astype(int)
    assert made.shape == truth.shape and np.abs(made - truth).mean() < 4, "MPEG-4 at 8 Mbit/s"


def test_a_video_of_a_part_of_the_crop_is_pasted_into_the_truth(shard: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "videos" / "ann.mp4", np.zeros((60, 32, 64, 3), np.uint8))
    rows = take(shard, tmp_path / "out", entry(videos=str(tmp_path / "videos"), box=[0.0, 0.5, 1.0, 1.0]))
    assert rows["ann"]["done"] == "pasted into the true frames"
    made, truth = read_video(tmp_path / "out" / "ann.mp4").astype(int), CLIPS["ann"][0].astype(int)
    assert made[:, 33:].max() < 4 and np.abs(made[:, :31] - truth[:, :31]).mean() < 1.5


def test_whole_frames_are_given_and_the_crop_is_cut_out_of_what_comes_back(
    stage: Stage, film: Path, tmp_path: Path
) -> None:
    stage.add("a", film)
    stage.landmarks()
    stage.crops()
    write_shard(tmp_path / "encoded.tar", [("a-0", {"x.npy": np.zeros(1)})])
    text = """
    import shutil, sys
    shutil.copy(sys.argv[1], sys.argv[2])
    """
    settings = entry(
        command=["python", script(tmp_path, text), "{video}", "{out}"],
        input="full_frame",
        place="full_frame",
        crops=CropsSettings(size=64, min_frames=10).as_dict(),
    )
    (tmp_path / "train-000.tar").write_bytes((tmp_path / "crops.tar").read_bytes())
    run_method.run(
        method="theirs",
        entry=settings,
        crops=tmp_path / "train-000.tar",
        shard_file=tmp_path / "encoded.tar",
        out=tmp_path / "out",
        plan=tmp_path / "clips.parquet",
        sources=tmp_path / "sources",
        landmarks=tmp_path / "landmarks.parquet",
    )
    truth = next(read_crops(tmp_path / "crops.tar")).frames().astype(int)
    made = read_video(tmp_path / "out" / "a-0.mp4").astype(int)
    assert made.shape == truth.shape
    # H.264 once more, with chroma of half resolution at 256 px; a shift of one pixel makes 5 and more.
    assert np.abs(made - truth).mean() < 2.5 < np.abs(made[:, 1:] - truth[:, :-1]).mean()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "needs one of the keys `videos` and `command`, and not both"),
        ({"videos": "a", "command": ["b"]}, "needs one of the keys `videos` and `command`, and not both"),
        ({"videos": "a", "timeout_s": 5}, "has videos, so that timeout_s has no meaning"),
        ({"command": []}, "has a command without a word"),
        ({"command": ["x", "{vidoe}"]}, "has {vidoe} in its command, which is none of {image}, {video}"),
        ({"command": ["x"], "place": "full_frame", "box": [0, 0, 1, 1]}, "has a box"),
        ({"videos": "a", "box": [0.5, 0, 0.5, 1]}, "has an empty box"),
        ({"video": "a"}, "video is not a known key (did you mean videos?)"),
    ],
)
def test_an_entry_that_cannot_be_is_one_line(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refused:
        entry(**keys)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_the_configuration_checks_names_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    experiment = {"conditions": ["audio"], "smoothing": False}

    def refused(methods: dict[str, Any]) -> str:
        config = load({"crops": {"size": 64}, "experiments": {"ours": experiment}, "methods": methods})
        with pytest.raises(UserError) as error:
            given_methods(config)
        return str(error.value)

    (tmp_path / "there").mkdir()
    assert "methods.ours has the name of a model of the run" in refused({"ours": {"videos": "there"}})
    assert "methods.x.videos: no folder nowhere" in refused({"x": {"videos": "nowhere"}})
    assert "methods.x.environment: nowhere does not" in refused(
        {"x": {"command": ["x"], "environment": "nowhere"}}
    )
    with pytest.raises(UserError, match='methods "ground_truth" is not usable as a name'):
        load({"crops": {"size": 64}, "methods": {"ground_truth": {"videos": "there"}}})
    dropped = load({"crops": {"size": 64}, "methods": {"x": None}})
    assert given_methods(dropped) == {}


def test_a_command_without_a_program_is_refused_before_any_clip(shard: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"methods\.theirs: no program no-such-program in "):
        take(shard, tmp_path / "out", entry(command=["no-such-program"]))
    with pytest.raises(UserError, match=r"run_method: whole frames need --plan"):
        take(shard, tmp_path / "out", entry(command=["python"], input="full_frame"))


def test_an_environment_is_an_interpreter_or_a_folder_of_programs(shard: Path, tmp_path: Path) -> None:
    programs = tmp_path / "env" / "bin"
    programs.mkdir(parents=True)
    tool = programs / "talk"
    tool.write_text('#!/bin/sh\ncp "$1" "$2"; echo "$PYTHONPATH" > "$3/path"\n')
    tool.chmod(0o755)
    words = ["talk", "{video}", "{out}", str(tmp_path)]
    for place in (tmp_path / "env", programs):
        rows = take(shard, tmp_path / "out", entry(command=words, environment=str(place)))
        assert not any(row["problem"] for row in rows.values())
    assert (tmp_path / "path").read_text() == "\n", "what is ours is not for another interpreter"


def test_videos_and_the_files_that_a_command_names_are_watched(tmp_path: Path) -> None:
    file = tmp_path / "infer.py"
    file.write_text("1")
    command = entry(command=["python", str(file), "{video}"])
    (tmp_path / "a.mp4").write_bytes(b"1")
    folder = entry(videos=str(tmp_path))
    before = [method_files(command), method_files(folder)]
    file.write_text("22")
    assert method_files(command) != before[0] and method_files(folder) == before[1]
    (tmp_path / "a.mp4").write_bytes(b"22")
    assert method_files(folder) != before[1]


def test_the_examples_of_the_documentation_are_entries_and_the_one_without_a_program_runs(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "methods.md").read_text(), re.DOTALL)
    found = {name: keys for block in blocks for name, keys in yaml.safe_load(block)["methods"].items()}
    assert set(found) == {"theirs", "wav2lip", "late"}
    entries = {name: entry(**keys) for name, keys in found.items()}
    assert entries["wav2lip"].needs_sources and entries["theirs"].videos == "path/to/folder"
    monkeypatch.chdir(ROOT)
    rows = take(shard, tmp_path / "out", entries["late"])
    assert [(row["done"], row["problem"]) for row in rows.values()] == [("nothing", "")] * 2
