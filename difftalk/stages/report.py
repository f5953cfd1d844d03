"""Write the page of a run, with tables, training curves and videos side by side."""

from difftalk.config.report import ReportSettings
from difftalk.runtime.arguments import InputFile, InputFolder, OutputFile, OutputFolder


def run(
    *,
    tables: InputFolder,
    funnel: InputFile,
    quality: list[InputFile],
    models: list[InputFolder],
    samples: list[InputFolder],
    crops: list[InputFile],
    metrics: list[InputFile],
    rejects: list[InputFile],
    settings: ReportSettings,
    out: OutputFolder,
    zip: OutputFile,
) -> None:
    """Write the page to a folder (index.html, media/), and the same as one zip file.

    Args:
        tables: folder with `{table}.csv` and protocol.json.
        funnel: funnel.csv.
        quality: landmarks/SHARD.quality.csv.
        models: folders with a log.jsonl.
        samples: folders of videos, samples/METHOD/SHARD or samples/METHOD.
        crops: crops/SHARD.tar of the test shards, which say what is shown.
        metrics: metrics/METHOD/SHARD.parquet: the clips at which methods differ most are shown first, and
            clips without a score are named.
        rejects: rejects/STAGE/SHARD.csv of all stages: the page names each rejected clip.
        settings: the config's section `report`, and the name of the run.
        out: folder for the page.
        zip: zip file to write.
    """
    from difftalk.evaluation.scores import by_voice, read_scores
    from difftalk.reporting.gallery import write_gallery
    from difftalk.reporting.page import report_page, write_zip
    from difftalk.reporting.panels import by_method
    from difftalk.reporting.spread import spreads
    from difftalk.runtime.files import atomic_file, atomic_folder

    scores = read_scores(by_voice(metrics)["own"], of_set=False)
    with atomic_folder(out) as tmp:
        media = tmp / "media"
        media.mkdir()
        gallery = write_gallery(crops, by_method(samples), settings, media, spreads(scores))
        page = report_page(
            settings.run,
            tables=tables,
            funnel=funnel,
            quality=quality,
            models=models,
            gallery=gallery,
            scores=scores,
            rejects=rejects,
        )
        (tmp / "index.html").write_text(page, encoding="utf-8")
        with atomic_file(zip) as packed:
            write_zip(tmp, packed, zip.stem)
