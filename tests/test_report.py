"""The report: one page without a network, from outputs that the test makes."""

import json
import re
import zipfile
from html.parser import HTMLParser

import av
import numpy as np
import pytest
from drawn_clips import speaker, write_crops, write_sample

from difftalk.media.audio import read_audio
from difftalk.media.probe import probe
from difftalk.media.video import read_video
from difftalk.stages import report
from difftalk.stages.report import Settings

NASTY = 'x<script>"&'


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two clips, two methods and a seed, a log, tables; the report of them, made twice."""
    folder = tmp_path_factory.mktemp("report")
    clips = {"a": speaker(1, 1.2), "b": speaker(2, 1.2)}
    crops = write_crops(folder / "test-000.tar", clips)
    samples = []
    for method in ("reference_copy", "difftalk", "difftalk-seed2", "ground_truth"):
        samples.append(folder / "samples" / method / "test-000")
        for clip_id, (frames, _, sound) in clips.items():
            write_sample(samples[-1] / f"{clip_id}.mp4", frames, sound)
    tables = folder / "tables"
    tables.mkdir()
    head = "method,clips,clips_asked,psnr,lpips\n"
    (tables / "comparison.csv").write_text(head + f'"{NASTY.replace(chr(34), chr(34) * 2)}",2,2,31.25,\n')
    for name in ("audio_smoothing", "conditions"):
        (tables / f"{name}.csv").write_text(head)
    (tables / "seeds.csv").write_text("rows,metric,seeds,values,mean,spread,holds\n")
    protocol = {"lpips": "not computed: no file", "crop_pixels": "64", "note": NASTY}
    (tables / "protocol.json").write_text(json.dumps(protocol))
    (folder / "funnel.csv").write_text(
        "stage,reason,clips,hours\nplanned,,3,0.1\ncrops,too_short,1,0.05\nkept,,2,0.05\n"
    )
    (folder / "q.csv").write_text("clip_id,frames,detected,nme\na,60,60,0.03\nb,60,60,0.05\n")
    model = folder / "models" / "difftalk"
    model.mkdir(parents=True)
    (model / "log.jsonl").write_text(
        "".join(json.dumps({"step": i, "loss": 1 / i}) + "\n" for i in range(1, 40))
    )
    for name in ("one", "two"):
        report.run(
            tables=tables, funnel=folder / "funnel.csv", quality=[folder / "q.csv"], models=[model],
            samples=samples, crops=[crops], settings=Settings(run=NASTY, gallery_clips=2),
            out=folder / name / "report", zip=folder / name / "report.zip",
        )  # fmt: skip
    return folder


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.found += [value for key, value in attrs if key in {"src", "href", "poster"}]


def links(folder):
    parser = Links()
    parser.feed((folder / "one" / "report" / "index.html").read_text())
    return parser


def test_the_page_needs_nothing_from_outside(page):
    report_folder = page / "one" / "report"
    text = (report_folder / "index.html").read_text()
    assert not re.search(r"""(?:src|href|url\()\s*=?\s*["']?\s*(?:https?:)?//""", text)
    for link in links(page).found:
        assert link.startswith("#") or (report_folder / link).is_file(), link


def test_names_are_escaped(page):
    text = (page / "one" / "report" / "index.html").read_text()
    assert NASTY not in text and "x&lt;script&gt;" in text
    assert "script" not in links(page).tags


def test_it_shows_tables_funnel_quality_and_curves(page):
    text = (page / "one" / "report" / "index.html").read_text()
    assert "31.25" in text and "LPIPS not computed" in text
    assert "shorter than was asked for" in text
    assert "100.00% of 120 frames" in text and "4.00% of the outer" in text and "reached" in text
    assert "<svg" in text and "Conditions" not in text  # a table without rows is left out


def test_gallery_videos_play_with_sound_and_say_that_they_are_synthetic(page):
    path = page / "one" / "report" / "media" / "a.mp4"
    info = probe(path)
    frames, _, sound = speaker(1, 1.2)
    assert info.codec == "h264" and info.has_audio and info.fps == 25
    assert (info.width, info.height) == (4 * 192, 192 + report.LABEL_HEIGHT)
    assert len(read_video(path)) == len(frames)
    heard = read_audio(path)[: len(sound)]
    assert np.corrcoef(heard, sound[: len(heard)])[0, 1] > 0.9
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert "synthetic" in container.metadata["comment"]


def test_panels_are_source_masked_reference_and_methods_without_seeds(page):
    clip = report.chosen_clips([page / "test-000.tar"], 1)[0]
    found = report.by_method(sorted((page / "samples").glob("*/*")))
    panels = report.panels_of(clip, found, ())
    assert [p.label for p in panels] == ["source", "masked", "reference", "difftalk"]
    assert (panels[1].frames[0, -1] == 0).all()
    assert report.by_method([page / "samples" / "difftalk"]) == {
        "difftalk": [page / "samples/difftalk/test-000"]
    }


def test_the_same_report_is_the_same_bytes(page):
    one, two = ((page / name / "report.zip").read_bytes() for name in ("one", "two"))
    assert one == two
    with zipfile.ZipFile(page / "one" / "report.zip") as packed:
        names = packed.namelist()
    assert "report/index.html" in names and "report/media/a.mp4" in names


def test_a_run_without_test_clips_still_has_a_page(page, tmp_path):
    report.run(
        tables=page / "tables", funnel=page / "funnel.csv", quality=[], models=[], samples=[], crops=[],
        settings=Settings(), out=tmp_path / "r", zip=tmp_path / "r.zip",
    )  # fmt: skip
    assert "No test clip was kept" in (tmp_path / "r" / "index.html").read_text()


def test_gallery_takes_each_identity_before_a_second_clip_of_one(tmp_path):
    clips = {name: speaker(1, 1.2) for name in ("a", "b", "c")}
    path = write_crops(tmp_path / "t.tar", clips)
    assert [c.clip_id for c in report.chosen_clips([path], 2)] == ["a", "b"]


def test_smoothing_keeps_length_and_mean_of_a_constant():
    assert np.allclose(report.smoothed(np.ones(30)), 1)
    assert report.smoothed(np.arange(5.0)).shape == (5,)


def test_checks_say_what_was_found_and_whether_it_holds():
    rows = {
        "ground_truth": {"sync_confidence": 9.0},
        "difftalk": {"sync_confidence": 3.0, "psnr_mouth": 21.5, "mouth_corr": 0.65},
        "no_audio": {"sync_confidence": 0.5},
        "reference_copy": {"psnr_mouth": 20.0},
    }
    assert [holds for _, _, holds in report.checks(rows)] == [True, True, True, False]
    assert report.checks({"difftalk": rows["difftalk"] | {"mouth_corr": None}}) == []
