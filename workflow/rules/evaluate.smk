# Measurements, the paper's tables, and the page that shows them.

from difftalk.reporting.tables import TITLES

TABLES = list(TITLES)


rule score:
    input:
        samples="<run>/samples/{method}/{shard}",
        crops="<run>/crops/{shard}.tar",
        shard="<run>/shards/{shard}.tar",
        only=EVALUATED,
        syncnet="<run>/models/syncnet",
    output:
        metrics="<run>/metrics/{method}/{shard}.parquet",
    log:
        "<run>/logs/score/{method}.{shard}.log",
    benchmark:
        "<run>/benchmarks/score/{method}.{shard}.tsv"
    conda:
        "../../envs/difftalk.yaml"
    threads: CONFIG.training_threads
    resources:
        mem_mb=8000 if LARGE_CROPS else 4000,
        runtime=480,
        gpu=GPUS["score"],
    params:
        how=HOW,
        settings=SETTINGS["score"],
        weights=WEIGHTS_OF_COLUMNS,
        code=fingerprint("difftalk.stages.score"),
    message:
        "Score {wildcards.method} on {wildcards.shard}"
    shell:
        """
        {params.how.difftalk} score --method {wildcards.method} --samples {input.samples} --crops {input.crops} \
            --shard-file {input.shard} --only {input.only} --syncnet {input.syncnet} --settings {params.settings:q} \
            --out {output.metrics} --log {log} {params.how.cache[score]}
        """


if CROSS_DRIVEN:

    rule cross_score:
        input:
            other="<run>/cross_driven/other/{method}/{shard}",
            silence="<run>/cross_driven/silence/{method}/{shard}",
            crops="<run>/crops/{shard}.tar",
            pairs="<run>/cross_driven/pairs.csv",
            voice_crops=expand("<run>/crops/{shard}.tar", shard=TEST_SHARDS),
            only=EVALUATED,
            syncnet="<run>/models/syncnet",
        output:
            other="<run>/cross_driven/metrics/other/{method}/{shard}.parquet",
            silence="<run>/cross_driven/metrics/silence/{method}/{shard}.parquet",
        log:
            "<run>/logs/cross_score/{method}.{shard}.log",
        benchmark:
            "<run>/benchmarks/cross_score/{method}.{shard}.tsv"
        conda:
            "../../envs/difftalk.yaml"
        threads: CONFIG.training_threads
        resources:
            mem_mb=8000 if LARGE_CROPS else 4000,
            runtime=480,
            gpu=GPUS["cross_score"],
        params:
            how=HOW,
            settings=SETTINGS["score"],
            code=fingerprint("difftalk.stages.cross_score"),
        message:
            "Score {wildcards.method} on {wildcards.shard}, driven by another voice and by silence"
        shell:
            """
            {params.how.difftalk} cross_score --method {wildcards.method} --other {input.other} --silence {input.silence} \
                --crops {input.crops} --pairs {input.pairs} --voice-crops {input.voice_crops} \
                --only {input.only} --syncnet {input.syncnet} --settings {params.settings:q} \
                --out-other {output.other} --out-silence {output.silence} --log {log} \
                {params.how.cache[score]}
            """


CROSS_METRICS = "<run>/cross_driven/metrics/{voice}/{method}/{shard}.parquet"


rule tables:
    input:
        metrics=expand("<run>/metrics/{method}/{shard}.parquet", method=METHODS, shard=TEST_SHARDS),
        cross=expand(CROSS_METRICS, voice=["other", "silence"], method=CROSS_DRIVEN, shard=TEST_SHARDS),
        plan="<run>/plan/clips.parquet",
    output:
        protocol="<run>/tables/protocol.json",
        tables=expand(
            "<run>/tables/{table}.{format}",
            table=TABLES,
            format=["csv", "md", "tex"],
        ),
        pages=report(
            expand("<run>/tables/{table}.html", table=TABLES),
            caption="../report/tables.rst",
            category="Tables",
        ),
    log:
        "<run>/logs/tables.log",
    localrule: True
    conda:
        "../../envs/difftalk.yaml"
    threads: 1
    resources:
        # Features of 75 clips of 10 s take 150 MB a method, and a few times that while they are compared.
        mem_mb=8000 if WEIGHTS_OF_COLUMNS["inception-fid"] else 2000,
        runtime=30,
    params:
        how=HOW,
        folder=subpath(output.protocol, parent=True),
        settings=SETTINGS["tables"],
        code=fingerprint("difftalk.stages.tables"),
        templates=TEMPLATES,
    message:
        "Average the scores into tables"
    shell:
        """
        {params.how.difftalk} tables --metrics {input.metrics} {input.cross} --plan {input.plan} --settings {params.settings:q} \
            --out {params.folder} --log {log}
        """


rule report:
    input:
        protocol="<run>/tables/protocol.json",
        tables=rules.tables.output,
        funnel="<run>/funnel.csv",
        quality=expand("<run>/landmarks/{shard}.quality.csv", shard=SHARDS),
        models=expand("<run>/models/{model}", model=MODELS),
        samples=expand("<run>/samples/{method}/{shard}", method=METHODS, shard=TEST_SHARDS),
        crops=expand("<run>/crops/{shard}.tar", shard=TEST_SHARDS),
        metrics=rules.tables.input.metrics,
        rejects=ALL_REJECTS,
    output:
        page=report(
            directory("<run>/report"),
            caption="../report/gallery.rst",
            category="Report",
            htmlindex="index.html",
            labels={"page": "tables, curves and videos"},
        ),
        zip="<run>/report.zip",
    log:
        "<run>/logs/report.log",
    conda:
        "../../envs/difftalk.yaml"
    threads: 1
    resources:
        mem_mb=4000,
        runtime=120,
    params:
        how=HOW,
        folder=subpath(input.protocol, parent=True),
        settings=SETTINGS["report"],
        code=fingerprint("difftalk.stages.report"),
        templates=TEMPLATES,
    message:
        "Write the report"
    shell:
        """
        {params.how.difftalk} report --tables {params.folder} --funnel {input.funnel} --quality {input.quality} \
            --models {input.models} --samples {input.samples} --crops {input.crops} \
            --metrics {input.metrics} --rejects {input.rejects} \
            --settings {params.settings:q} --out {output.page} --zip {output.zip} --log {log}
        """
