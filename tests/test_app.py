"""`difftalk app`: one job at a time, errors in words, nothing left behind, nothing asked of other machines.

What needs the extra `app` and a browser is skipped where these are missing.
"""

import asyncio
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import av
import numpy as np
import pytest
from PIL import Image
from small_animation import SIZE, prepare, write_sound

from difftalk.app.isolated import Cancelled, Isolated, Step, result_of
from difftalk.app.jobs import Made, Options, Session, Studio, Waiting
from difftalk.app.server import Guard
from difftalk.app.uploads import LOCK, PREFIX, Limits, own_folder
from difftalk.config.sampling import Sampling
from difftalk.media.encode import write_video
from difftalk.runtime.errors import UserError
from difftalk.runtime.files import inside
from difftalk.runtime.lock import file_lock

LIMITS = Limits(seconds=5.0, megabytes=3.0)
JSON = {"Content-Type": "application/json"}
QUICK = Options(Sampling(steps=1))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn speaker of two seconds, a sound of three, a model, and files that cannot be used."""
    folder = prepare(tmp_path_factory.mktemp("app"))
    write_sound(folder / "long.wav", np.ones(6 * 16000, np.int16))
    write_sound(folder / "second.wav", np.ones(16000, np.int16))
    write_video(folder / "grey.mp4", np.full((30, 64, 64, 3), 90, np.uint8))
    Image.new("RGB", (5000, 3000)).save(folder / "large.png")
    (folder / "text.mp4").write_text("no video")
    (folder / "empty.mp4").touch()
    (folder / "heavy.mp4").write_bytes(b"x" * 4_000_000)
    return folder


# The process that works


@pytest.fixture
def isolated() -> Iterator[Isolated]:
    process = Isolated()
    yield process
    process.end()


def test_a_mistake_a_crash_and_a_hang_are_sentences_and_the_next_call_works(isolated: Isolated) -> None:
    assert result_of(isolated.call(max, 3, 4)) == 4
    with pytest.raises(UserError, match=r"'\.\.' is no file name"):
        result_of(isolated.call(inside, Path("folder"), ".."))
    with pytest.raises(UserError, match="a fault of difftalk's own"):
        result_of(isolated.call(max, 3, "4"))
    with pytest.raises(UserError, match=r"crashed \(SIGABRT\)"):
        result_of(isolated.call(os.abort))
    with pytest.raises(UserError, match="the system ended the work"):
        result_of(isolated.call(signal.raise_signal, signal.SIGKILL))
    with pytest.raises(UserError, match="given up after 1 s"):
        result_of(isolated.call(time.sleep, 60, most_s=1))
    assert result_of(isolated.call(max, 3, 4)) == 4


def test_what_is_cancelled_or_not_watched_any_more_ends(isolated: Isolated) -> None:
    cancelled = threading.Event()
    threading.Timer(0.5, cancelled.set).start()
    with pytest.raises(Cancelled):
        result_of(isolated.call(time.sleep, 60, cancelled=cancelled))
    call = isolated.call(time.sleep, 60)
    next(call)
    process = isolated._process
    call.close()
    assert not process.is_alive()


# The pages and their queue


@pytest.fixture(scope="module")
def started(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    found = Studio(made / "model", LIMITS, tmp_path_factory.mktemp("own"))
    assert found.start().steps in (5, 50)
    yield found
    found.close()


@pytest.fixture
def studio(started: Studio) -> Iterator[Studio]:
    yield started
    for name in list(started._sessions):
        started.leave(name)


Role = Literal["face", "sound"]


def give(studio: Studio, session: Session, role: Role, file: Path, name: str = "") -> None:
    """As the server does: it puts an upload somewhere first."""
    given = studio.uploads / str(time.monotonic_ns()) / file.name
    given.parent.mkdir(parents=True)
    shutil.copyfile(file, given)
    studio.take(session, role, given, name or file.name)


def ready(studio: Studio, made: Path, name: str, sound: str = "speech.wav") -> Session:
    session = studio.session(name)
    give(studio, session, "face", made / "face.mp4")
    give(studio, session, "sound", made / sound)
    return session


def test_jobs_are_done_one_after_the_other_and_a_closed_page_leaves_nothing(
    studio: Studio, made: Path
) -> None:
    first, second = ready(studio, made, "1"), ready(studio, made, "2", "second.wav")
    jobs = [studio.enter(session, QUICK) for session in (first, second)]
    with pytest.raises(UserError, match="has a job already"):
        studio.enter(first, QUICK)
    seen = list(studio.watch(jobs[1]))
    assert seen[0] == Waiting(1) and isinstance(seen[-1], Made)
    assert seen[-1].frames == 25 and seen[-1].path.stat().st_size
    assert jobs[0].finished.is_set() and isinstance(jobs[0].state, Made)
    assert {step.name for step in seen if isinstance(step, Step)} <= {"faces", "sampling", "writing"}
    before = seen[-1].path
    again = list(studio.watch(studio.enter(second, QUICK)))[-1]
    assert isinstance(again, Made) and again.path.exists() and not before.exists()
    studio.leave("1")
    studio.leave("2")
    assert not list(studio.pages.iterdir())
    assert not [path for path in studio.pages.parent.rglob("*") if path.is_file()]


def test_a_cancelled_job_makes_room_at_once_whether_it_runs_or_waits(studio: Studio, made: Path) -> None:
    slow = Options(Sampling(steps=1000))
    first, second, third = (ready(studio, made, name) for name in "123")
    running, waiting, last = (studio.enter(s, o) for s, o in ((first, slow), (second, slow), (third, QUICK)))
    studio.cancel(second)
    with pytest.raises(Cancelled):
        list(studio.watch(waiting))
    watched = studio.watch(running)
    next(watched)
    studio.leave("1")  # its page was closed
    with pytest.raises(Cancelled):
        list(watched)
    assert isinstance(list(studio.watch(last))[-1], Made)
    assert not first.folder.exists()


@pytest.mark.parametrize(
    ("role", "file", "sentence"),
    [
        ("face", "text.mp4", r"^my text.mp4: does not open \(.*\): choose a video or a picture$"),
        ("face", "empty.mp4", "^my empty.mp4: an empty file$"),
        ("face", "large.png", "^my large.png: 5000 x 3000 pixels, and up to 4096 a side are taken here"),
        ("face", "heavy.mp4", "^my heavy.mp4: 4 MB, and files of up to 3 MB are taken here$"),
        ("sound", "long.wav", "^my long.wav: longer than the 5 s of sound that are taken here"),
        ("sound", "grey.mp4", "^my grey.mp4: no sound in it$"),
        ("sound", "text.mp4", "^my text.mp4: does not open"),
    ],
)
def test_an_upload_that_cannot_be_used_is_a_sentence(
    studio: Studio, made: Path, role: Role, file: str, sentence: str
) -> None:
    session = studio.session("1")
    with pytest.raises(UserError, match=sentence):
        give(studio, session, role, made / file, f"my {file}")
    with pytest.raises(UserError, match=sentence):  # as when Run is pressed nevertheless
        studio.take(session, role, session.given[role], f"my {file}")
    assert not session.uploads and not list(session.folder.iterdir())


def test_what_only_the_work_finds_is_a_sentence_with_the_persons_name_of_the_file(
    studio: Studio, made: Path
) -> None:
    session = studio.session("1")
    with pytest.raises(UserError, match="There is no face yet"):
        studio.enter(session, QUICK)
    give(studio, session, "face", made / "grey.mp4", '../a "grey" wall.mp4')
    give(studio, session, "sound", made / "speech.wav")
    with pytest.raises(UserError, match='^a "grey" wall.mp4: no face of at least 48 pixels'):
        list(studio.watch(studio.enter(session, QUICK)))


def test_a_name_from_outside_names_no_file_of_ours(studio: Studio, made: Path) -> None:
    session = studio.session("1")
    for name in (
        "../../up.mp4",
        "a b'\"; rm -rf $HOME #.mp4",
        "x" * 300 + ".mp4",
        "f.mp4/../../../y.m%p4",
    ):
        give(studio, session, "face", made / "face.mp4", name)
        upload = session.uploads["face"]
        assert upload.path.name in ("face.mp4", "face") and upload.path.parent.parent == session.folder
        assert upload.size == (SIZE, SIZE) and "/" not in upload.name and len(upload.name) <= 60


def test_a_file_that_nobody_uploaded_is_not_taken_nor_removed(studio: Studio, made: Path) -> None:
    session = studio.session("1")
    for path in (made / "face.mp4", studio.uploads / ".." / ".." / made.name / "face.mp4"):
        with pytest.raises(UserError, match="not a file that was uploaded here"):
            studio.take(session, "face", path, "face.mp4")
    studio.leave("1")
    assert (made / "face.mp4").exists()


def test_a_file_that_two_pages_chose_is_kept_until_both_are_closed(studio: Studio, made: Path) -> None:
    given = studio.uploads / "face.mp4"
    given.parent.mkdir(exist_ok=True)
    shutil.copyfile(made / "face.mp4", given)
    for name in "12":
        studio.take(studio.session(name), "face", given, "face.mp4")
    studio.leave("1")
    assert given.exists()
    studio.leave("2")
    assert not given.exists()


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("killed", "living"):
        (tmp_path / f"{PREFIX}{name}").mkdir()
        (tmp_path / f"{PREFIX}{name}" / "face.mp4").touch()
    with file_lock(tmp_path / f"{PREFIX}living" / LOCK), own_folder() as folder:
        assert folder.stat().st_mode & 0o077 == 0
        assert {path.name for path in tmp_path.iterdir()} == {f"{PREFIX}living", folder.name}
    assert not folder.exists()


# The server


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:7860", None, 200),
        ("localhost:7860", "http://localhost:7860", 200),
        ("elsewhere.example:7860", None, 403),  # a name that was made to point here
        ("127.0.0.1:7860", "http://elsewhere.example", 403),  # a page of somebody else
        ("127.0.0.1:7860", "null", 403),
    ],
)
def test_pages_of_others_cannot_use_it_through_the_browser(
    host: str, origin: str | None, status: int
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    guard = Guard(app, frozenset(("localhost", "127.0.0.1")))
    asyncio.run(guard({"type": "http", "headers": headers}, None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == status
    assert b"default-src 'self'" in dict(sent[0]["headers"])[b"content-security-policy"]


def test_without_the_extra_the_command_says_what_to_install(made: Path) -> None:
    program = "import sys; sys.modules['gradio'] = None; from difftalk.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", program, "app", "--model", str(made / "model")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert 'pip install -e ".[app]"' in done.stderr


# In a browser


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


LACKING = [name for name in ("gradio", "playwright") if importlib.util.find_spec(name) is None]
if chromium() is None:
    LACKING.append("chromium")
needs_browser = pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}")


# The command, which says so where it looks up or calls anything but this machine.
WATCHED = """
import sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        where = str(arguments[1] if event == "socket.connect" else arguments[0])
        if not any(known in where for known in ("127.0.0.1", "localhost", "0.0.0.0", "/")):
            print("OUTSIDE", event, where, file=sys.stderr, flush=True)
sys.addaudithook(watch)
from difftalk.cli import main
sys.exit(main())
"""


class Server:
    """A `difftalk app` in a process of its own."""

    def __init__(self, model: Path, tmp: Path, *more: str) -> None:
        self.tmp, self.said = tmp, ""
        words = ["app", "--model", model, "--port", "0", "--settings", '{"steps": 2}', "--max-seconds", "5"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", WATCHED, *map(str, words), "--max-megabytes", "3", *more],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp)},
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line
            if "ctrl-c ends it" in line:
                break
        threading.Thread(target=self._read, daemon=True).start()
        self.url = self.said.split("http://")[-1].split()[0]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said += line

    def files(self) -> list[Path]:
        """What it keeps of pages and uploads."""
        found = [Path(at) / name for at, _, names in os.walk(self.tmp) for name in names if name != LOCK]
        return [path for path in found if path.exists() and path.stat().st_size]

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


@pytest.fixture(scope="module")
def server(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    found = Server(made / "model", tmp_path_factory.mktemp("tmp"))
    yield found
    found.end()
    assert not list(found.tmp.glob(f"{PREFIX}*"))
    assert "Traceback" not in found.said and "OUTSIDE" not in found.said


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    # No name is resolved, so that the page is seen as it is without a network.
    offline = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", offline])
        yield found
        found.close()


class Page:
    """An open page, and all that it asked for."""

    def __init__(self, browser: Any, server: Server) -> None:
        self.tab = browser.new_page()
        self.asked: list[str] = []
        self.troubles: list[str] = []
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.tab.on("dialog", self._dismiss)
        self.tab.goto(f"http://{server.url}")
        self.tab.wait_for_selector("#run")

    def _dismiss(self, dialog: Any) -> None:
        self.troubles.append(dialog.message)
        dialog.dismiss()

    def choose(self, role: str, file: Path, name: str = "") -> None:
        given = {"name": name or file.name, "mimeType": "video/mp4", "buffer": file.read_bytes()}
        if role == "sound":
            given["mimeType"] = "audio/wav"
        self.tab.locator(f"#{role} input[type=file]").set_input_files(given)

    def choose_both(self, made: Path) -> None:
        self.choose("face", made / "face.mp4")
        self.says("Now choose a sound")
        self.choose("sound", made / "speech.wav")
        self.says("Ready: press Run")

    def run(self) -> None:
        self.tab.locator("#run").click()

    def says(self, words: str, seconds: float = 60) -> str:
        self.tab.locator("#status").filter(has_text=words).wait_for(timeout=seconds * 1000)
        said: str = self.tab.locator("#status").inner_text()
        assert "Traceback" not in said
        return said

    def close(self) -> None:
        self.tab.close()
        assert not self.troubles


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Page]:
    found = Page(browser, server)
    yield found
    found.close()


@needs_browser
def test_a_face_and_a_sound_become_a_video_and_nothing_is_asked_of_another_machine(
    page: Page, server: Server, made: Path, tmp_path: Path
) -> None:
    page.choose_both(made)
    page.tab.locator("#mark input").check()
    page.run()
    page.tab.wait_for_selector("li.dt-now", timeout=60_000)
    page.says("Done: 75 frames")
    video = page.tab.locator("#dt-result")
    played = """v => new Promise(done => {
        v.muted = true;
        v.ontimeupdate = () => v.currentTime > 0.5 &&
            done([v.videoWidth, v.duration, document.getElementById("dt-source").currentTime]);
        v.play();
    })"""
    width, length, source = video.evaluate(played)
    assert width == SIZE and abs(length - 3.0) < 0.1
    assert abs(source - 0.5) < 0.4, "the source plays beside it"
    (tmp_path / "got.mp4").write_bytes(
        page.tab.request.get(f"http://{server.url}{video.get_attribute('src')}").body()
    )
    with av.open(str(tmp_path / "got.mp4")) as container:
        assert container.metadata["comment"] == "synthetic: generated by difftalk"
        assert container.streams.audio
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 75 and frames[0].shape == (SIZE, SIZE, 3)
    assert frames[0][-12:, :60].max() > 220, "the mark is white"
    places = {url.split("/")[2] for url in page.asked if not url.startswith(("data:", "blob:"))}
    assert places == {server.url}
    page.close()
    until = time.monotonic() + 30
    while server.files() and time.monotonic() < until:
        time.sleep(0.2)
    assert not server.files(), "a closed page leaves nothing"


@needs_browser
def test_what_cannot_be_used_is_a_sentence_in_the_page(page: Page, made: Path) -> None:
    page.run()
    page.says("There is no face yet")
    page.choose("face", made / "text.mp4")
    page.says("text.mp4: does not open")
    page.run()
    page.says("text.mp4: does not open")
    page.choose("sound", made / "long.wav")
    page.says("long.wav: longer than the 5 s of sound that are taken here")
    assert page.tab.locator("[role=alert]").count() == 1
    page.tab.reload()
    page.tab.wait_for_selector("#run")
    page.choose("face", made / "heavy.mp4")
    page.tab.get_by_text("exceed the maximum allowed size").wait_for()
    page.choose("face", made / "grey.mp4", "<img src=x onerror=alert(1)> {{x}} ${y}.mp4")
    page.says("Now choose a sound")
    page.choose("sound", made / "speech.wav")
    page.says("Ready")
    page.run()
    page.says("no face of at least 48 pixels")


@needs_browser
def test_two_people_queue_and_a_page_that_is_reloaded_makes_room(
    page: Page, browser: Any, server: Server, made: Path
) -> None:
    other = Page(browser, server)
    for one in (page, other):
        one.choose_both(made)
    page.tab.locator("#steps input").click()
    page.tab.get_by_role("option", name="200", exact=True).click()
    page.run()
    page.tab.wait_for_selector("li.dt-now", timeout=60_000)
    other.run()
    other.says("Waiting: one job is before yours")
    other.tab.locator("#cancel").click()
    other.says("Cancelled")
    other.run()
    other.says("Waiting: one job is before yours")
    page.tab.reload()
    other.says("Done: 75 frames")
    page.tab.wait_for_selector("#run")
    page.says("Choose a face and a sound")
    other.close()


@needs_browser
def test_requests_by_hand_reach_no_file_outside(server: Server, tmp_path: Path) -> None:
    def answer(path: str, data: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        request = urllib.request.Request(f"http://{server.url}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as got:
                return got.status, got.read()
        except urllib.error.HTTPError as e:
            return e.code, e.read()

    assert answer("/")[0] == 200
    assert answer("/", Host="elsewhere.example")[0] == 403
    for path in ("/etc/passwd", f"{server.tmp}/../{server.tmp.name}/x", str(Path(__file__))):
        assert answer(f"/gradio_api/file={path}")[0] in (403, 404)
    part = 'Content-Disposition: form-data; name="files"; filename="../../../up.mp4"'
    body = f"--b\r\n{part}\r\n\r\nx\r\n--b--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    status, said = answer("/gradio_api/upload", body.encode(), **kind)
    assert status == 200
    (written,) = map(Path, json.loads(said))
    assert written.resolve().is_relative_to(server.tmp.resolve()) and ".." not in written.parts
    written.unlink()
    (secret := tmp_path / "secret.png").write_bytes(b"of somebody else")
    said = answer("/config")[1]
    (face,) = (d["id"] for d in json.loads(said)["dependencies"] if d["api_name"] == "face_chosen")
    for path in (str(secret), f"http://{server.url}/favicon.ico", "http://192.0.2.1/x.png"):
        upload = {"path": path, "meta": {"_type": "gradio.FileData"}}
        request = {"data": [upload], "fn_index": face, "session_hash": f"by hand {hash(path)}"}
        before = len(server.said)
        status, _ = answer("/gradio_api/queue/join", json.dumps(request).encode(), **JSON)
        assert status == 200
        stream = f"/gradio_api/queue/data?session_hash={quote(request['session_hash'])}"
        said = answer(stream)[1]
        assert b'"success":false' in said and str(secret).encode() not in said
        assert "OUTSIDE" not in server.said[before:]
    assert not server.files()
    time.sleep(1)
    server.said = ""  # Gradio has printed what it did not take


@needs_browser
def test_another_address_is_named_as_what_it_is(made: Path, tmp_path: Path) -> None:
    found = Server(made / "model", tmp_path, "--host", "0.0.0.0")
    found.end()
    assert "whoever reaches this machine can use the page" in found.said
    taken = [sys.executable, "-m", "difftalk", "app", "--model", str(made / "model"), "--host", "192.0.2.1"]
    done = subprocess.run(taken, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--host 192.0.2.1" in done.stderr and "Traceback" not in done.stderr
