"""Average the metrics of all methods to the paper's tables, with intervals."""

from difftalk.config.report import TablesSettings
from difftalk.runtime.arguments import InputFile, OutputFolder


def run(*, metrics: list[InputFile], plan: InputFile, settings: TablesSettings, out: OutputFolder) -> None:
    """Write `{table}.csv`, `.md`, `.tex`, `.html` and `protocol.json`.

    Means are over frames within a clip (done by `score`), then over clips; intervals are of a bootstrap over
    clips. Every method is asked for the same clips: those that any method was; one without a score lowers
    `clips`, never `clips_asked`.

    Args:
        metrics: metrics/METHOD/SHARD.parquet of all methods, driven by their own voice and by others.
        plan: plan/clips.parquet.
        settings: name of the run, further lines of the protocol, what the subgroups are by, and sources of
            published figures.
        out: folder for the tables.

    Raises:
        UserError: if the metrics were made by different protocols; if there is no source of published figures
            of a name.
    """
    import json

    from difftalk.evaluation.scores import by_voice, read_scores
    from difftalk.reporting.averages import all_tables, cross_driven_table, groups_of
    from difftalk.reporting.footer import footer_of
    from difftalk.reporting.tables import WRITERS
    from difftalk.runtime.files import atomic_folder

    of_voice = {voice: read_scores(paths) for voice, paths in by_voice(metrics).items()}
    scores = of_voice["own"]
    footer = footer_of(scores, plan, settings)
    with atomic_folder(out) as tmp:
        groups = groups_of(plan, settings.subgroups)
        tables = all_tables(scores, footer, groups, settings.published)
        for table in [*tables, cross_driven_table(of_voice, footer)]:
            for suffix, write in WRITERS.items():
                (tmp / f"{table.name}.{suffix}").write_text(write(table), encoding="utf-8", newline="\n")
        text = json.dumps(footer, indent=1, sort_keys=True, ensure_ascii=False)
        (tmp / "protocol.json").write_text(text + "\n", encoding="utf-8")
