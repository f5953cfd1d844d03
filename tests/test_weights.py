"""Pretrained weights: downloaded from a local server, imported from files, named by the configuration."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import types
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Workflow
from diffusers import VQModel
from face_alignment.detection.sfd.net_s3fd import s3fd
from face_alignment.models import FAN
from random_weights import alexnet, vgg16
from safetensors.torch import load_file

from difftalk.config.autoencoder import AutoencoderTraining
from difftalk.config.section import Section
from difftalk.config.syncnet import SyncnetTraining
from difftalk.models.autoencoder import build_autoencoder, load_autoencoder
from difftalk.models.formats import convert
from difftalk.models.formats.ldm import export_first_stage
from difftalk.models.formats.torch_file import read_state_dict
from difftalk.models.syncnet import SyncNetV2, load_syncnet
from difftalk.pretrained import download, table
from difftalk.runtime.errors import UserError
from difftalk.stages import autoencoder, syncnet, weights

# The server


@dataclass
class Server:
    """What the server has, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  # the Range of each request, or nothing
    cut_after: list[int] = field(default_factory=list)  # bytes of the body that the next answers stop at
    silent: bool = False
    url: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    has = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            has.asked.append(wanted)
            if has.silent:
                time.sleep(1)
                return
            if self.path[1:] not in has.files:
                self.send_error(404)
                return
            body = has.files[self.path[1:]]
            tag = f'"{hashlib.md5(body).hexdigest()}"'
            begin = 0
            if wanted and self.headers.get("If-Range") == tag:
                begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            self.send_response(206 if begin else 200)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
            self.send_header("ETag", tag)
            self.send_header("Content-Length", str(len(body) - begin))
            self.end_headers()
            self.wfile.write(body[begin:][: has.cut_after.pop(0) if has.cut_after else None])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        has.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield has
        listening.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of weights."""
    monkeypatch.setenv("DIFFTALK_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    return tmp_path / "weights"


@pytest.fixture(scope="module")
def ldm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A first stage as LDM releases it, narrow: `vq-f4.zip` with `model.ckpt`; both are in the folder."""
    narrow = build_autoencoder((32, 64), 1, 64)
    model = VQModel.from_config({**narrow.config, "norm_num_groups": 32})
    state = export_first_stage(model) | {"loss.discriminator.main.0.weight": torch.zeros(3)}
    made = tmp_path_factory.mktemp("ldm")
    torch.save({"state_dict": state, "global_step": 7}, made / "model.ckpt")
    with zipfile.ZipFile(made / "vq-f4.zip", "w") as archive:
        archive.write(made / "model.ckpt", "model.ckpt")
    return made


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def fetch(server: Server, name: str = "vq-f4", file: str = "vq-f4.zip") -> None:
    weights.fetch([name], url=f"{server.url}/{file}")


def assert_first_stage(folder: Path, ldm: Path) -> None:
    model = load_autoencoder(table.locate("vq-f4", asked_by="a test"))
    state = read_state_dict(ldm / "model.ckpt")
    assert torch.equal(model.quantize.embedding.weight, state["quantize.embedding.weight"])
    assert sorted(p.name for p in folder.iterdir()) == ["vq-f4", "vq-f4.json"]


# Downloads


def test_what_is_fetched_is_converted_and_its_hash_written_down(
    server: Server, folder: Path, ldm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.files["vq-f4.zip"] = (ldm / "vq-f4.zip").read_bytes()
    fetch(server)
    assert_first_stage(folder, ldm)
    note = json.loads((folder / "vq-f4.json").read_text())
    assert note["sha256"] == sha256(ldm / "vq-f4.zip") == table.recorded("vq-f4")
    assert note["content_sha256"] == sha256(ldm / "model.ckpt")
    assert note["url"] == f"{server.url}/vq-f4.zip"
    assert note["licence"].startswith("MIT")
    fetch(server)
    assert len(server.asked) == 1, "what is there is not downloaded again"
    weights.show()
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("vq-f4 "))
    assert " yes " in row and note["sha256"] in row and "autoencoder: vq-f4" in row


def test_a_connection_that_is_cut_is_taken_up_where_it_was(server: Server, folder: Path, ldm: Path) -> None:
    server.files["vq-f4.zip"] = (ldm / "vq-f4.zip").read_bytes()
    server.cut_after = [100_000, 50_000]
    fetch(server)
    assert server.asked == ["", "bytes=100000-", "bytes=150000-"]
    assert_first_stage(folder, ldm)


def test_the_next_command_goes_on_with_what_the_last_has_brought(
    server: Server, folder: Path, ldm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["vq-f4.zip"] = (ldm / "vq-f4.zip").read_bytes()
    server.cut_after = [100_000]
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(UserError, match="100000 bytes are kept, and the same command goes on from there"):
        fetch(server)
    assert table.present("vq-f4") is None
    fetch(server)
    assert server.asked[1] == "bytes=100000-"
    assert_first_stage(folder, ldm)


def test_a_download_that_was_killed_after_its_last_byte_is_not_repeated(
    server: Server, folder: Path, ldm: Path
) -> None:
    server.files["vq-f4.zip"] = (ldm / "vq-f4.zip").read_bytes()
    download.download(f"{server.url}/vq-f4.zip", folder / ".vq-f4.download", "vq-f4")
    fetch(server)
    assert server.asked == ["", f"bytes={len(server.files['vq-f4.zip'])}-"]
    assert_first_stage(folder, ldm)


def test_a_file_that_has_changed_meanwhile_is_downloaded_from_its_beginning(
    server: Server, folder: Path, ldm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["vq-f4.zip"] = b"another file" * 20_000
    server.cut_after = [100_000]
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    with pytest.raises(UserError):
        fetch(server)
    server.files["vq-f4.zip"] = (ldm / "vq-f4.zip").read_bytes()
    fetch(server)
    assert_first_stage(folder, ldm)


def test_a_dead_link_is_one_line_of_the_command_with_the_way_around(server: Server, folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "difftalk",
        "weights",
        "fetch",
        "s3fd",
        "--url",
        f"{server.url}/s3fd.pth",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        f"difftalk weights fetch: {server.url}/s3fd.pth: HTTP 404 Not Found; or get the file elsewhere and "
        "`difftalk weights import s3fd FILE`\n"
    )
    assert len(server.asked) == 1


def test_a_server_that_says_nothing_ends_in_an_error(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.silent = True
    monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(download, "ATTEMPTS", 2)
    with pytest.raises(UserError, match="timed out, 2 times; 0 bytes are kept"):
        fetch(server)


def test_a_host_that_is_not_there_ends_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"refused.*`difftalk weights import vq-f4 FILE`"):
        weights.fetch(["vq-f4"], url="http://127.0.0.1:9/vq-f4.zip")


def test_a_wrong_hash_leaves_nothing(server: Server, folder: Path) -> None:
    server.files["s3fd.pth"] = b"tampered with"
    with pytest.raises(
        UserError, match=r"s3fd.pth has sha256 [0-9a-f]{64}, not 619a316812…: damaged or another"
    ):
        fetch(server, "s3fd", "s3fd.pth")
    assert list(folder.iterdir()) == []


def test_a_page_in_place_of_the_file_leaves_nothing(server: Server, folder: Path) -> None:
    server.files["vq-f4.zip"] = b"<html>This file has moved.</html>"
    with pytest.raises(UserError, match=r"vq-f4: vq-f4\.zip is no torch file"):
        fetch(server)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("evil", ["../evil", "/tmp/evil", "a/../../evil", "..\\evil"])
def test_an_archive_that_would_leave_its_folder_is_refused(
    server: Server, folder: Path, ldm: Path, tmp_path: Path, evil: str
) -> None:
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.write(ldm / "model.ckpt", "model.ckpt")
        archive.writestr(evil, "x")
    server.files["vq-f4.zip"] = (tmp_path / "evil.zip").read_bytes()
    with pytest.raises(UserError, match="would leave its folder"):
        fetch(server)
    assert list(folder.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.zip", "weights"]


def test_the_other_names_are_fetched_though_one_fails(
    server: Server, ldm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.files["vq-f4.zip"] = (ldm / "vq-f4.zip").read_bytes()
    for name in ("s3fd", "vq-f4"):
        row = replace(table.WEIGHTS[name], url=f"{server.url}/{name}.zip")
        monkeypatch.setitem(table.WEIGHTS, name, row)
    with pytest.raises(UserError, match="s3fd.zip: HTTP 404"):
        weights.fetch(["s3fd", "vq-f4"])
    assert table.present("vq-f4") is not None


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no weights are called vqf4; did you mean vq-f4\?"):
        weights.fetch(["vqf4"])


# Files


def test_a_release_and_what_is_in_it_are_the_same_import(
    folder: Path, ldm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights.import_file("vq-f4", ldm / "model.ckpt")
    assert_first_stage(folder, ldm)
    weights.import_file("vq-f4", ldm / "vq-f4.zip")
    assert "the same file is there already" in capsys.readouterr().err
    assert table.recorded("vq-f4") == sha256(ldm / "model.ckpt"), "nothing that follows is rerun"


def test_another_file_than_the_first_is_refused(folder: Path, ldm: Path, tmp_path: Path) -> None:
    weights.import_file("vq-f4", ldm / "vq-f4.zip")
    state = read_state_dict(ldm / "model.ckpt")
    torch.save({k: v + 1 for k, v in state.items()}, tmp_path / "model.ckpt")
    with pytest.raises(UserError, match=r"another file; if it is to be trusted, delete .*vq-f4\.json first"):
        weights.import_file("vq-f4", tmp_path / "model.ckpt")
    assert_first_stage(folder, ldm)
    (folder / "vq-f4.json").unlink()
    weights.import_file("vq-f4", tmp_path / "model.ckpt")
    assert table.recorded("vq-f4") == sha256(tmp_path / "model.ckpt")


def test_a_graph_with_another_sha1_is_refused(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "deepspeech.zip", "w") as archive:
        archive.writestr("deepspeech-0_1_0-b90017e8.pb", b"no graph")
    for file in ("deepspeech.zip", "graph.pb"):
        (tmp_path / "graph.pb").write_bytes(b"no graph")
        with pytest.raises(
            UserError, match="has sha1 [0-9a-f]{40}, not b90017e816572ddce84f5843f1fa21e6a377975e"
        ):
            weights.import_file("deepspeech-0.1.0", tmp_path / file)
    assert not folder.exists() or list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["s3fd", "2dfan4", "alexnet", "vgg16"])
def test_torch_files_become_safetensors_with_the_same_tensors(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / f"{name}.pth"
    state = {"s3fd": s3fd, "2dfan4": lambda: FAN(4), "alexnet": alexnet, "vgg16": vgg16}[name]()
    state = state if isinstance(state, dict) else state.state_dict()
    torch.save(state, file)
    row = replace(table.WEIGHTS[name], sha256=sha256(file)[:8])
    monkeypatch.setitem(table.WEIGHTS, name, row)
    weights.import_file(name, file)
    kept = load_file(table.locate(name, asked_by="a test"))
    assert kept.keys() == {k for k in state if not k.startswith("classifier.")}
    assert all(torch.equal(v, state[k]) for k, v in kept.items())


def test_every_row_of_the_table_has_a_converter_and_is_documented() -> None:
    assert convert.CONVERTERS.keys() == table.WEIGHTS.keys()
    documented = (ROOT / "docs" / "weights.md").read_text()
    assert [name for name in table.WEIGHTS if f"`{name}`" not in documented] == []


def test_the_weights_of_another_network_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(alexnet(), tmp_path / "some.pth")
    for name, says in (
        ("vgg16", "not the weights of vgg16: features.0.weight"),
        ("s3fd", "not the weights of s3fd"),
    ):
        monkeypatch.setitem(table.WEIGHTS, name, replace(table.WEIGHTS[name], sha256=""))
        with pytest.raises(UserError, match=says):
            weights.import_file(name, tmp_path / "some.pth")
    with pytest.raises(UserError, match=r"some\.pth is not syncnet_v2\.model"):
        weights.import_file("syncnet-v2", tmp_path / "some.pth")
    assert list(folder.iterdir()) == []


class Trainer:
    """Stands for a class of another package in a pickled file."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("pickled",)


def test_what_is_not_a_tensor_is_never_unpickled(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "callbacks": Trainer()}, tmp_path / "model.ckpt")
    with pytest.raises(
        UserError, match=r"model\.ckpt holds .*mkdir besides tensors, which is not unpickled: where you"
    ):
        weights.import_file("vq-f4", tmp_path / "model.ckpt")
    assert not (tmp_path / "pickled").exists()
    assert list(folder.iterdir()) == []


def test_what_lightning_adds_to_the_tensors_is_dropped_without_its_classes(tmp_path: Path) -> None:
    module = types.ModuleType("pytorch_lightning")
    kind = type("ModelCheckpoint", (), {"__module__": module.__name__})
    vars(module)[kind.__name__] = kind
    sys.modules[module.__name__] = module
    callback: Any = kind()
    callback.best = "a path"
    file = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"a": torch.ones(2)}, "callbacks": {kind: callback}}, file)
    del sys.modules[module.__name__]
    state = read_state_dict(file)
    assert list(state) == ["a"] and torch.equal(state["a"], torch.ones(2))


# The configuration


@pytest.mark.parametrize(
    ("stage", "settings", "name"),
    [(autoencoder, AutoencoderTraining(), "vq-f4"), (syncnet, SyncnetTraining(), "syncnet-v2")],
)
def test_a_stage_whose_weights_are_missing_names_the_key_and_both_ways(
    folder: Path, tmp_path: Path, stage: types.ModuleType, settings: Section, name: str
) -> None:
    key = stage.__name__.rpartition(".")[2]
    with pytest.raises(UserError) as said:
        stage.run(crops=[], settings=settings, source=name, state=tmp_path / "s", out=tmp_path / "o")
    command = f"DIFFTALK_WEIGHTS={folder} difftalk weights"
    assert str(said.value).startswith(f"{key}: {name} needs the weights {name}, which are not in {folder}: ")
    assert f"`{command} fetch {name}`" in str(said.value)
    assert f"`{command} import {name} FILE`" in str(said.value)


def test_the_sync_expert_of_the_table_is_used(tmp_path: Path) -> None:
    network = SyncNetV2()
    torch.save(network.state_dict(), tmp_path / "syncnet_v2.model")
    weights.import_file("syncnet-v2", tmp_path / "syncnet_v2.model")
    syncnet.run(
        crops=[], settings=SyncnetTraining(), source="syncnet-v2", state=tmp_path / "s", out=tmp_path / "o"
    )
    expert = load_syncnet(tmp_path / "o")
    assert expert.config.architecture == "syncnet_v2"
    assert expert.config.about == {"source": "syncnet_v2.model"}
    used = expert.network.state_dict()
    assert torch.equal(used["netfclip.0.weight"], network.state_dict()["netfclip.0.weight"])


def test_a_damaged_note_is_as_none(folder: Path, ldm: Path) -> None:
    weights.import_file("vq-f4", ldm / "vq-f4.zip")
    (folder / "vq-f4.json").write_text('{"sha')
    assert table.recorded("vq-f4") is None
    with pytest.raises(UserError, match="needs the weights"):
        table.locate("vq-f4", asked_by="autoencoder: vq-f4")


def test_the_workflow_follows_the_weights(workflow: Workflow, folder: Path, ldm: Path) -> None:
    target = "results/demo/models/autoencoder"
    asked = (target, "--config", "autoencoder=vq-f4", "syncnet=syncnet-v2", f"weights={folder}")
    failed = workflow(*asked)
    assert failed.status == 1
    assert failed.jobs == {"autoencoder": 1}, "the graph is known without the weights"
    assert "autoencoder: vq-f4 needs the weights vq-f4" in failed.said
    weights.import_file("vq-f4", ldm / "vq-f4.zip")
    assert workflow(*asked).status == 0
    assert workflow(*asked, "-n").idle
    note = folder / "vq-f4.json"
    note.write_text(note.read_text().replace('"sha256": "', '"sha256": "0'))
    assert workflow(*asked, "-n").jobs == {"autoencoder": 1}, "other weights, another first stage"
