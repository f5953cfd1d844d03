"""The report: one page without a network, from outputs that the test makes."""

import json
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest
from drawn_clips import speaker, write_crops, write_sample

from difftalk.config.report import ReportSettings
from difftalk.evaluation.scores import Scores, write_scores
from difftalk.media.audio import read_audio
from difftalk.media.probe import probe
from difftalk.media.video import read_video
from difftalk.reporting import panels
from difftalk.reporting.card import model_card
from difftalk.reporting.curves import smoothed
from difftalk.reporting.gallery import GalleryClip, chosen_clips
from difftalk.reporting.page import report_page, wide_differences
from difftalk.reporting.render import TEMPLATES
from difftalk.reporting.tables import TITLES, Table
from difftalk.runtime.rejects import Reject, write_rejects
from difftalk.stages import report

NASTY = 'x<script>"&'
STILLS = ("-strip.png", "-mouth.png", "-errors.png")


def write_metrics(path: Path, method: str, clips: dict[str, float | str]) -> Path:
    """A metrics file of one method: the PSNR of the mouth of each clip, or why it has no score."""
    rows = [
        {"clip_id": clip, "method": method, "problem": value}
        if isinstance(value, str)
        else {"clip_id": clip, "method": method, "psnr_mouth": value}
        for clip, value in clips.items()
    ]
    write_scores(path, method, rows, {"mouth": "box"})
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips, two methods and a seed, a log, tables; the report of them, made twice."""
    folder = tmp_path_factory.mktemp("report")
    clips = {"a": speaker(1, 1.2), "b": speaker(2, 1.2)}
    crops = write_crops(folder / "test-000.tar", clips)
    samples = []
    for method in ("reference_copy", "difftalk", "difftalk-seed2", "ground_truth"):
        samples.append(folder / "samples" / method / "test-000")
        for clip_id, (frames, _, audio) in clips.items():
            write_sample(samples[-1] / f"{clip_id}.mp4", frames, audio)
    tables = folder / "tables"
    tables.mkdir()
    named = f'"{NASTY.replace(chr(34), chr(34) * 2)}"'
    for name in TITLES:
        (tables / f"{name}.csv").write_text("method,clips,clips_asked,psnr,lpips\n")
    with (tables / "comparison.csv").open("a") as target:
        target.write(f"{named},2,2,31.25,\n")
    (tables / "checks.csv").write_text(
        f"method,check,found,verdict\n{named},{named},{named},reached\ndifftalk,sync,+0.1,undecided\n"
    )
    protocol = {"lpips": "not computed: no file", "crop_pixels": "64", "note": NASTY}
    (tables / "protocol.json").write_text(json.dumps(protocol))
    (folder / "funnel.csv").write_text(
        "stage,reason,clips,hours\nplanned,,3,0.1\ncrops,too_short,1,0.05\nkept,,2,0.05\n"
    )
    (folder / "q.csv").write_text("clip_id,frames,detected,nme\na,60,60,0.03\nb,60,60,0.05\n")
    rejects = folder / "rejects.csv"
    write_rejects(rejects, [Reject("gone", "crops", "too_short", f"1.0 s {NASTY}")])
    scored: dict[str, dict[str, float | str]] = {
        "difftalk": {"a": 20.0, "b": 24.0},
        "other": {"a": 21.0, "b": "no video: b.mp4"},
    }
    metrics = [write_metrics(folder / f"{m}.parquet", m, clips) for m, clips in scored.items()]
    model = folder / "models" / "difftalk"
    model.mkdir(parents=True)
    (model / "log.jsonl").write_text(
        "".join(json.dumps({"step": i, "loss": 1 / i}) + "\n" for i in range(1, 40))
    )
    for name in ("one", "two"):
        report.run(
            tables=tables, funnel=folder / "funnel.csv", quality=[folder / "q.csv"], models=[model],
            samples=samples, crops=[crops], metrics=metrics, rejects=[rejects],
            settings=ReportSettings(run=NASTY, gallery_clips=2),
            out=folder / name / "report", zip=folder / name / "report.zip",
        )  # fmt: skip
    return folder


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.found += [value or "" for key, value in attrs if key in {"src", "href", "poster"}]


def links(folder: Path) -> Links:
    parser = Links()
    parser.feed((folder / "one" / "report" / "index.html").read_text())
    return parser


def test_the_page_needs_nothing_from_outside(page: Path) -> None:
    report_folder = page / "one" / "report"
    text = (report_folder / "index.html").read_text()
    assert not re.search(r"""(?:src|href|url\()\s*=?\s*["']?\s*(?:https?:)?//""", text)
    found = links(page).found
    assert found
    for link in found:
        assert link.startswith("#") or (report_folder / link).is_file(), link


def test_names_are_escaped(page: Path) -> None:
    text = (page / "one" / "report" / "index.html").read_text()
    assert NASTY not in text and "x&lt;script&gt;" in text
    assert links(page).tags.count("script") == 1, "the page's own"


@pytest.mark.parametrize("template", sorted(p.name for p in TEMPLATES.glob("*.html.j2")))
def test_templates_escape_every_value(template: str) -> None:
    source = (TEMPLATES / template).read_text()
    # The curves are an SVG of our own; nothing else is taken as it is.
    unescaped = re.findall(r"\{\{[^}]*\|\s*safe[^}]*\}\}|autoescape", source)
    assert unescaped == (["{{ curves | safe }}"] if template == "report.html.j2" else [])


def test_ids_and_reasons_are_escaped_on_the_page(page: Path, tmp_path: Path) -> None:
    funnel = tmp_path / "funnel.csv"
    funnel.write_text("stage,reason,clips,hours\nplanned,,1,0.1\ncr<ops,too<short,1,0.1\nkept,,0,0\n")
    text = report_page(
        "r", tables=page / "tables", funnel=funnel, quality=[], models=[],
        gallery=[GalleryClip("a<b", "i<d", 1.0, (4, 2), "s<p", has_errors=True)], scores=Scores({}, {}),
    )  # fmt: skip
    for name in ("cr<ops", "too<short", "a<b", "i<d", "s<p"):
        assert name not in text and name.replace("<", "&lt;") in text


def test_names_on_the_card_are_escaped() -> None:
    card = model_card(NASTY, ("audio",), {"dataset": "a|<b>", "run": "x<y"}, [])
    prose, code, _ = card.split("```", 2)
    assert "# x&lt;script>" in prose and "| a\\|&lt;b> |" in prose and "<" not in prose
    compile(code.removeprefix("python"), "card.py", "exec")


def test_it_shows_tables_funnel_quality_and_curves(page: Path) -> None:
    text = (page / "one" / "report" / "index.html").read_text()
    assert "31.25" in text and "LPIPS: not computed" in text
    assert "shorter than requested" in text
    assert "100.00% of 120 frames" in text and "4.00% of the outer" in text and "reached" in text
    assert "difftalk, 39 steps" in text
    assert "<svg" in text
    assert "Conditions: No method of this table was scored" in text and "<caption>Conditions" not in text
    assert "<span>difftalk, sync: +0.1</span>" in text and '<b class="open">undecided</b>' in text


def test_gallery_videos_play_with_audio_and_say_that_they_are_synthetic(page: Path) -> None:
    path = page / "one" / "report" / "media" / "a.mp4"
    info = probe(path)
    frames, _, audio = speaker(1, 1.2)
    assert info.codec == "h264" and info.has_audio and info.fps == 25
    assert (info.width, info.height) == (4 * 192, 192 + panels.LABEL_HEIGHT)
    assert len(read_video(path)) == len(frames)
    decoded = read_audio(path)[: len(audio)]
    assert np.corrcoef(decoded, audio[: len(decoded)])[0, 1] > 0.9
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert "synthetic" in container.metadata["comment"]


def test_panels_are_source_masked_reference_and_methods_without_seeds(page: Path) -> None:
    clip = chosen_clips([page / "test-000.tar"], 1)[0]
    found = panels.by_method(sorted((page / "samples").glob("*/*")))
    shown = panels.panels_of(clip, found, ())
    assert [p.label for p in shown] == ["source", "masked", "reference", "difftalk"]
    assert (shown[1].frames[0, -1] == 0).all()
    assert panels.by_method([page / "samples" / "difftalk"]) == {
        "difftalk": [page / "samples/difftalk/test-000"]
    }


def test_the_same_report_is_the_same_bytes(page: Path) -> None:
    one, two = ((page / name / "report.zip").read_bytes() for name in ("one", "two"))
    assert one == two
    with zipfile.ZipFile(page / "one" / "report.zip") as packed:
        names = packed.namelist()
    assert "report/index.html" in names and "report/media/a.mp4" in names


def test_rejected_clips_and_videos_without_a_score_are_named_with_their_reason(page: Path) -> None:
    text = (page / "one" / "report" / "index.html").read_text()
    for said in ("gone", "the clip or its source is shorter than requested", "1.0 s x&lt;script"):
        assert said in text
    assert "<td>other</td><td>b</td><td>no video: b.mp4</td>" in text


def test_each_clip_of_the_gallery_has_its_figures_and_pictures(page: Path) -> None:
    text = (page / "one" / "report" / "index.html").read_text()
    assert "PSNR mouth 20.00 (difftalk) to 21.00 (other)" in text
    media = {path.name for path in (page / "one" / "report" / "media").iterdir()}
    assert media == {"moving.webp", *(f"{c}{suffix}" for c in "ab" for suffix in (".mp4", ".png", *STILLS))}


def test_controls_have_a_place_of_their_own_below_the_picture(page: Path) -> None:
    # The page gives the size of the video to its style, which adds the height of the controls.
    text = (page / "one" / "report" / "index.html").read_text()
    info = probe(page / "one" / "report" / "media" / "a.mp4")
    assert f"--width:{info.width};--height:{info.height}" in text and "var(--controls)" in text


def test_differences_are_a_row_for_two_methods_and_a_column_for_a_metric() -> None:
    cells = {"table": "comparison", "method": "b", "against": "a", "clips": 9}
    rows = [
        cells | {"metric": "psnr", "difference": 0.5, "lo": 0.1, "hi": 0.9},
        cells | {"metric": "lpips", "difference": 0.1, "lo": -0.1, "hi": 0.3, "clips": 7},
    ]
    wide = wide_differences(Table("differences", tuple(rows[0]), rows, {}))
    assert wide.headings == ["rows", "table", "PSNR\u00a0↑", "LPIPS\u00a0↓"]
    ((pair, _, psnr, lpips),) = wide.cells
    assert pair.text == "b − a" and psnr == ("0.50", "[0.10, 0.90]", True)
    assert lpips.interval.endswith("of 7") and not lpips.best


def test_a_run_without_test_clips_still_has_a_page(page: Path, tmp_path: Path) -> None:
    report.run(
        tables=page / "tables", funnel=page / "funnel.csv", quality=[], models=[], samples=[], crops=[],
        metrics=[], rejects=[],
        settings=ReportSettings(), out=tmp_path / "r", zip=tmp_path / "r.zip",
    )  # fmt: skip
    assert "No test clip has a video" in (tmp_path / "r" / "index.html").read_text()


def test_gallery_takes_each_identity_before_a_second_clip_of_one(tmp_path: Path) -> None:
    clips = {name: speaker(1, 1.2) for name in ("a", "b", "c")}
    path = write_crops(tmp_path / "t.tar", clips)
    assert [c.clip_id for c in chosen_clips([path], 2)] == ["a", "b"]


def test_smoothing_keeps_length_and_mean_of_a_constant() -> None:
    assert np.allclose(smoothed(np.ones(30)), 1)
    assert smoothed(np.arange(5.0)).shape == (5,)
