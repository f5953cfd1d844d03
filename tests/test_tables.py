"""Tables from scores, and the funnel from rejects: made rows in, known figures out."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from difftalk.config.report import TablesSettings
from difftalk.evaluation.columns import METRICS
from difftalk.evaluation.scores import SCHEMA
from difftalk.media.shards import write_shard
from difftalk.reporting.tables import TITLES
from difftalk.runtime.errors import UserError
from difftalk.runtime.rejects import Reject, write_rejects
from difftalk.stages import funnel, tables

PLAN = [(f"c{i}", "test" if i < 4 else "train") for i in range(8)]


def write_plan(path: Path) -> Path:
    rows = [
        {
            "clip_id": c,
            "source_id": c,
            "start_s": 0.0,
            "end_s": 9.0,
            "identity": f"of-{c}",
            "split": s,
            "shard": s,
            "subset": "RD" if c in {"c1", "c3"} else "WDA",
        }
        for c, s in PLAN
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_metrics(
    path: Path, method: str, clips: dict[str, Any], protocol: dict[str, str] | None = None
) -> Path:
    """`clips`: clip_id -> values of the clip row, or a problem."""
    rows = []
    for clip_id, values in clips.items():
        problem = values if isinstance(values, str) else None
        known = {} if problem else values
        rows.append({"clip_id": clip_id, "method": method, "frame": None, "problem": problem, **known})
        rows.append({"clip_id": clip_id, "method": method, "frame": 0, "psnr": 99.0})
    metadata = {"protocol": json.dumps(protocol or {"mouth": "box"}), "method": method}
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata(metadata), path)
    return path


def make(tmp_path: Path, methods: dict[str, Any], **settings: Any) -> Path:
    paths = [write_metrics(tmp_path / "metrics" / f"{m}.parquet", m, clips) for m, clips in methods.items()]
    plan = write_plan(tmp_path / "plan.parquet")
    tables.run(metrics=paths, plan=plan, settings=TablesSettings(**settings), out=tmp_path / "tables")
    return tmp_path / "tables"


def read(folder: Path, name: str) -> dict[str, dict[str, str]]:
    with (folder / f"{name}.csv").open() as source:
        return {row["method"] if "method" in row else row["rows"]: row for row in csv.DictReader(source)}


def test_a_row_is_the_mean_over_scored_clips_and_counts_what_was_asked(tmp_path: Path) -> None:
    out = make(
        tmp_path,
        {
            "difftalk": {"c0": {"psnr": 30.0, "lpips": None}, "c1": {"psnr": 32.0, "lpips": None}},
            "wav2lip": {"c0": {"psnr": 20.0}, "c1": "cannot_decode: c1.mp4"},
        },
    )
    rows = read(out, "comparison")
    assert rows["difftalk"]["psnr"] == "31"
    assert (rows["difftalk"]["clips"], rows["difftalk"]["clips_asked"]) == ("2", "2")
    assert (rows["wav2lip"]["clips"], rows["wav2lip"]["clips_asked"]) == ("1", "2")
    assert rows["wav2lip"]["lpips"] == ""


def test_columns_and_rows_are_those_others_rely_on(tmp_path: Path) -> None:
    methods = ["a", "al", "am", "no_audio", "reference_copy", "difftalk", "ground_truth", "no_smoothing"]
    methods += ["difftalk-seed2", "mine"]
    out = make(tmp_path, {m: {"c0": {"psnr": 30.0}} for m in methods})
    names = "method,clips,clips_asked,psnr,ssim,lpips,psnr_mouth,ssim_mouth,lpips_mouth"
    names += ",sync_offset,sync_confidence,sync_distance"
    header = (out / "comparison.csv").read_text().splitlines()[0]
    assert header.startswith(names)
    columns = header.split(",")
    assert columns[3 : 3 + len(METRICS)] == list(METRICS)
    ends = [end for name in METRICS for end in (f"{name}_lo", f"{name}_hi")]
    assert columns[-len(ends) :] == ends, "the intervals come after all others"
    assert list(read(out, "audio_smoothing")) == ["ground_truth", "no_smoothing", "difftalk"]
    assert list(read(out, "conditions")) == ["a", "al", "am", "difftalk"]
    comparison = ["ground_truth", "reference_copy", "difftalk", "no_audio", "mine"]
    assert list(read(out, "comparison")) == comparison


def test_a_table_without_methods_is_its_header(tmp_path: Path) -> None:
    out = make(tmp_path, {})
    assert (out / "conditions.csv").read_text().count("\n") == 1
    assert (out / "seeds.csv").read_text().startswith("rows,metric,seeds,values,mean,spread,holds,")
    assert (out / "seeds.csv").read_text().count("\n") == 1


def test_subgroups_have_a_row_for_each_value_and_method(tmp_path: Path) -> None:
    scores = {"c0": {"psnr": 30.0}, "c1": {"psnr": 20.0}, "c2": {"psnr": 10.0}, "c3": {"psnr": 40.0}}
    methods = {"mine": scores | {"c1": "cannot_decode: c1.mp4"}, "difftalk": scores, "difftalk-seed2": scores}
    make(tmp_path, methods)
    plan, tags = pq.read_table(tmp_path / "plan.parquet"), ["woman;loud", "man", "woman", ""] + ["man"] * 4
    pq.write_table(plan.append_column("tags", pa.array(tags)), tmp_path / "tagged.parquet")
    tables.run(
        metrics=sorted((tmp_path / "metrics").iterdir()),
        plan=tmp_path / "tagged.parquet",
        settings=TablesSettings(subgroups=("tags", "subset")),
        out=tmp_path / "grouped",
    )
    with (tmp_path / "grouped" / "subgroups.csv").open() as source:
        rows = [tuple(r.values())[:6] for r in csv.DictReader(source)]
    assert rows == [
        ("tags", "loud", "difftalk", "1", "1", "30"),
        ("tags", "loud", "mine", "1", "1", "30"),
        ("tags", "man", "difftalk", "1", "1", "20"),
        ("tags", "man", "mine", "0", "1", ""),
        ("tags", "woman", "difftalk", "2", "2", "20"),
        ("tags", "woman", "mine", "2", "2", "20"),
        ("subset", "RD", "difftalk", "2", "2", "30"),
        ("subset", "RD", "mine", "1", "2", "40"),
        ("subset", "WDA", "difftalk", "2", "2", "20"),
        ("subset", "WDA", "mine", "2", "2", "20"),
    ]
    for name in ("comparison", "seeds", "conditions", "audio_smoothing"):
        for form in ("csv", "md", "tex", "html"):
            without, grouped = (tmp_path / folder / f"{name}.{form}" for folder in ("tables", "grouped"))
            assert without.read_bytes() == grouped.read_bytes()


def test_without_subgroups_their_table_is_its_header(tmp_path: Path) -> None:
    out = make(tmp_path, {"difftalk": {"c0": {"psnr": 30.0}}})
    assert (out / "subgroups.csv").read_text().count("\n") == 1
    assert (out / "subgroups.csv").read_text().startswith("by,group,method,clips,clips_asked,psnr")
    grouped = make(tmp_path, {"difftalk": {"c0": {"psnr": 30.0}}}, subgroups=("tags",))
    assert (grouped / "subgroups.csv").read_text().count("\n") == 1, "a plan of before there were tags"


def seeds(*values: float) -> dict[str, Any]:
    names = ["difftalk", "difftalk-seed2", "difftalk-seed3"]
    return {
        n: {"c0": {"sync_confidence": v, "psnr_mouth": 25.0}} for n, v in zip(names, values, strict=False)
    }


def test_seeds_show_mean_and_spread_and_whether_orders_exceed_it(tmp_path: Path) -> None:
    methods = seeds(2.0, 2.4, 2.2) | {
        "ground_truth": {"c0": {"sync_confidence": 5.0}},
        "no_audio": {"c0": {"sync_confidence": 1.9}},
        "reference_copy": {"c0": {"psnr_mouth": 22.0}},
    }
    with (make(tmp_path, methods) / "seeds.csv").open() as source:
        rows = {(r["rows"], r["metric"]): r for r in csv.DictReader(source)}
    own = rows["difftalk", "sync_confidence"]
    assert own["values"] == "2.000 2.400 2.200" and own["seeds"] == "3"
    assert float(own["mean"]) == pytest.approx(2.2) and float(own["spread"]) == pytest.approx(0.4)
    assert rows["ground_truth > difftalk", "sync_confidence"]["holds"] == "yes"
    assert rows["difftalk > no_audio", "sync_confidence"]["holds"] == "no"  # 0.3 against a spread of 0.4
    assert rows["difftalk > reference_copy", "psnr_mouth"]["holds"] == "yes"


def test_one_rule_gives_all_forms_and_names_are_escaped(tmp_path: Path) -> None:
    out = make(tmp_path, {"x<b>|&_1^~": {"c0": {"psnr": 30.0}}}, run="r", notes={"sampling": "10 steps"})
    assert {p.name for p in out.iterdir()} == {
        *(f"{t}.{s}" for t in TITLES for s in ("csv", "md", "tex", "html")),
        "SHA256SUMS",
        "protocol.json",
    }
    assert "x&lt;b&gt;|&amp;_1^~" in (out / "comparison.html").read_text()
    assert "x&lt;b>\\|&_1^~" in (out / "comparison.md").read_text()
    assert r"x$<$b$>$$|$\&\_1\^{}\~{}" in (out / "comparison.tex").read_text()
    footer = json.loads((out / "protocol.json").read_text())
    assert footer["run"] == "r" and footer["sampling"] == "10 steps" and len(footer["clip_list_sha256"]) == 64
    for form in ("md", "html"):
        assert footer["clip_list_sha256"] in (out / f"comparison.{form}").read_text()
    assert "1 of 4 planned test clips" in footer["clips"]


def test_metrics_of_another_voice_are_in_a_table_of_their_own(tmp_path: Path) -> None:
    own = write_metrics(tmp_path / "a.parquet", "difftalk", {"c0": {"sync_confidence": 5.0}})
    truth = write_metrics(tmp_path / "t.parquet", "ground_truth", {"c0": {"sync_confidence": 9.0}})
    protocol = {"mouth": "box", "voice": "silence"}
    driven = write_metrics(tmp_path / "b.parquet", "difftalk", {"c0": {"sync_confidence": 1.0}}, protocol)
    out = tmp_path / "tables"
    tables.run(
        metrics=[own, truth, driven],
        plan=write_plan(tmp_path / "p"),
        settings=TablesSettings(),
        out=out,
    )
    assert read(out, "comparison")["difftalk"]["sync_confidence"] == "5"
    with (out / "cross_driven.csv").open() as source:
        rows = [(r["method"], r["voice"], r["sync_confidence"]) for r in csv.DictReader(source)]
    assert rows == [("difftalk", "own", "5"), ("difftalk", "silence", "1")]


def test_scores_of_two_protocols_are_not_mixed(tmp_path: Path) -> None:
    one = write_metrics(tmp_path / "a.parquet", "a", {"c0": {}}, {"mouth": "small"})
    two = write_metrics(tmp_path / "b.parquet", "b", {"c0": {}}, {"mouth": "large"})
    with pytest.raises(UserError, match="another protocol.*mouth"):
        tables.run(
            metrics=[one, two],
            plan=write_plan(tmp_path / "p"),
            settings=TablesSettings(),
            out=tmp_path / "t",
        )


@pytest.fixture
def flow(tmp_path: Path) -> dict[str, Any]:
    """Plan of 8 clips; c1 lost in fetch, c2 in crops, c5 in encode; the rest is in the crops."""
    lost = [
        ("c1", "fetch", "cannot_fetch"),
        ("c2", "crops", "too_short"),
        ("c5", "encode", "length_mismatch"),
    ]
    paths = []
    for stage in ("fetch", "crops", "encode"):
        paths.append(tmp_path / f"{stage}.csv")
        write_rejects(paths[-1], [Reject(c, s, r) for c, s, r in lost if s == stage])
    # A clip that a later stage also misses counts once, at the first.
    paths.append(tmp_path / "speech.csv")
    write_rejects(paths[-1], [Reject("c1", "speech", "no_audio")])
    quality = tmp_path / "q.csv"
    quality.write_text("clip_id,frames,detected,nme\nc0,100,100,0.04\nc2,100,50,0.10\nc3,100,98,\n")
    crops = []
    for name, clips in {"a": ["c0", "c3"], "b": ["c4", "c5", "c6", "c7"]}.items():
        crops.append(tmp_path / f"{name}.tar")
        write_shard(crops[-1], [(c, {"json": {}, "landmarks.npy": np.zeros((1, 68, 2))}) for c in clips])
    plan = write_plan(tmp_path / "plan.parquet")
    return {
        "plan": plan,
        "rejects": paths,
        "quality": [quality],
        "crops": crops,
        "out": tmp_path / "funnel.csv",
        "by_subset": tmp_path / "funnel_by_subset.csv",
        "page": tmp_path / "funnel.html",
    }


def test_the_funnel_adds_up(flow: dict[str, Any]) -> None:
    funnel.run(**flow)
    lines = list(csv.DictReader(flow["out"].open()))
    assert [(r["stage"], r["reason"], r["clips"]) for r in lines] == [
        ("planned", "", "8"),
        ("fetch", "cannot_fetch", "1"),
        ("crops", "too_short", "1"),
        ("encode", "length_mismatch", "1"),
        ("kept", "", "5"),
    ]
    hours = [float(r["hours"]) for r in lines]
    assert hours[0] == pytest.approx(8 * 9 / 3600, abs=1e-6) and hours[0] == pytest.approx(
        sum(hours[1:]), abs=1e-5
    )
    assert lines[0]["detection_rate"] == f"{248 / 300:.5f}" and lines[0]["nme"] == f"{(4 + 5) / 150:.5f}"
    assert lines[-1]["detection_rate"] == "0.99000" and lines[-1]["nme"] == "0.04000"


def test_the_funnel_adds_up_in_each_subset_and_as_a_page(flow: dict[str, Any]) -> None:
    funnel.run(**flow)
    lines = list(csv.DictReader(flow["by_subset"].open()))
    assert [(r["stage"], r["reason"], r["clips"]) for r in lines if r["subset"] == "RD"] == [
        ("planned", "", "2"),
        ("fetch", "cannot_fetch", "1"),
        ("kept", "", "1"),
    ]
    assert [r["clips"] for r in lines if r["subset"] == "WDA"] == ["6", "1", "1", "4"]
    page = flow["page"].read_text()
    assert all(word in page for word in ("RD", "WDA", "after landmarks", "shorter than requested"))


@pytest.mark.parametrize(
    ("drop", "message"), [("fetch.csv", "c1"), ("b.tar", "c4, c5, c6, c7"), ("crops.csv", "c2")]
)
def test_a_funnel_that_does_not_add_up_names_the_clips(flow: dict[str, Any], drop: str, message: str) -> None:
    for key in ("rejects", "crops"):
        flow[key] = [p for p in flow[key] if p.name != drop]
    if drop == "fetch.csv":
        flow["rejects"] = [p for p in flow["rejects"] if p.name != "speech.csv"]
    with pytest.raises(UserError, match=message):
        funnel.run(**flow)


def test_a_clip_that_is_kept_and_rejected_is_named(flow: dict[str, Any]) -> None:
    write_rejects(
        flow["rejects"][0], [Reject("c0", "fetch", "cannot_fetch"), Reject("c1", "fetch", "cannot_fetch")]
    )
    with pytest.raises(UserError, match="in the crops and rejected before them: c0"):
        funnel.run(**flow)


def test_names_on_the_funnel_page_are_escaped(flow: dict[str, Any]) -> None:
    planned = pq.read_table(flow["plan"])
    named = [f"{subset}<b>" for subset in planned["subset"].to_pylist()]
    position = planned.column_names.index("subset")
    pq.write_table(planned.set_column(position, "subset", pa.array(named)), flow["plan"])
    funnel.run(**flow)
    page = flow["page"].read_text()
    assert "RD&lt;b&gt;" in page and "<b>" not in page
