# From the description of a dataset to shards for training.


# A checkpoint, since only then the jobs of unchanged shards are known and left out.
checkpoint plan:
    output:
        plan="<run>/plan/clips.parquet",
        not_videos="<run>/plan/not_videos.csv",
        identities="<run>/plan/identities.csv",
        # A folder: of a checkpoint all outputs are looked at for each job that waits for it.
        digests=directory("<run>/plan/shards"),
    log:
        "<run>/logs/plan.log",
    # The files of a folder are looked at, which takes seconds each.
    localrule: not IS_FOLDER
    conda:
        "../../envs/difftalk.yaml"
    threads: 4 if IS_FOLDER else 1
    resources:
        mem_mb=4000 if IS_FOLDER else 1000,
        runtime=480 if IS_FOLDER else 30,
    params:
        how=HOW,
        dataset=dataset_json,
        shards=configuration.as_json(CONFIG.shards),
        # For the decision whether to run it, which is not made in the process of a job.
        files=configuration.dataset_files(DATASET) if IS_DECIDING else None,
        # No input, since Snakemake takes `{x}` in the name of one for a wildcard.
        frozen=frozen_plan,
        frozen_content=frozen_content(),
        code=fingerprint("difftalk.stages.plan", without=NOT_PLANNED_WITH),
    message:
        f"Plan the clips of the dataset {DATASET.name}"
    shell:
        """
        {params.how.difftalk} plan --dataset {params.dataset:q} --shards {params.shards:q} --frozen {params.frozen:q} \
            --out {output.plan} --not-videos {output.not_videos} --identities {output.identities} \
            --digests {output.digests} --workers {threads} --log {log} \
            {params.how.cache[plan]}
        """


# In the process of a job, as on a node of a cluster, there is a plan. With a checkpoint, Snakemake would build the
# whole graph for each job, and not that job alone. `--cache` needs that graph: it hashes all steps to an output.
if not workflow.is_main_process and not IS_CACHING:
    rules.plan.rule.is_checkpoint = False


rule fetch:
    input:
        plan=ancient("<run>/plan/clips.parquet"),
        rows=plan_of_shard,
    output:
        sources=directory("<run>/sources/{shard}"),
        manifest="<run>/sources/{shard}.csv",
        rejects="<run>/rejects/fetch/{shard}.csv",
    log:
        "<run>/logs/fetch/{shard}.log",
    benchmark:
        "<run>/benchmarks/fetch/{shard}.tsv"
    conda:
        "../../envs/difftalk.yaml"
    # From a site a job takes one video after the other; how many jobs do so at once is for `downloads` to bound.
    # Files of a folder are linked.
    threads: 4 if CONFIG.dataset.name == "demo" else 1
    resources:
        mem_mb=2000,
        runtime=1440 if IS_DOWNLOADED else 240,
        downloads=1 if IS_DOWNLOADED else 0,
    params:
        how=HOW,
        dataset=dataset_json,
        store=store_path,
        code=fingerprint("difftalk.stages.fetch", without=OTHER_DATASETS),
    message:
        "Fetch the sources of {wildcards.shard}"
    shell:
        """
        {params.how.difftalk} fetch --plan {input.plan} --shard {wildcards.shard} --dataset {params.dataset:q} \
            --download {params.how.download:q} --store {params.store:q} --out {output.sources} \
            --manifest {output.manifest} --rejects {output.rejects} --max-reject-fraction {params.how.max_reject_fraction} \
            --workers {threads} --log {log}
        """


rule landmarks:
    input:
        # Where rows of the shard have changed, `fetch` writes its sources again.
        plan=ancient("<run>/plan/clips.parquet"),
        sources="<run>/sources/{shard}",
    output:
        landmarks="<run>/landmarks/{shard}.parquet",
        quality="<run>/landmarks/{shard}.quality.csv",
        scores="<run>/landmarks/{shard}.scores.parquet",
    log:
        "<run>/logs/landmarks/{shard}.log",
    benchmark:
        "<run>/benchmarks/landmarks/{shard}.tsv"
    cache: MAY_BE_CACHED
    conda:
        "../../envs/difftalk.yaml"
    threads: 4
    resources:
        mem_mb=8000 if FACE_ALIGNMENT else 6000,
        runtime=480,
        gpu=GPUS["landmarks"],
    params:
        how=HOW,
        settings=SETTINGS["landmarks"],
        weights=[pretrained.recorded(name) for name in ("s3fd", "2dfan4")] if FACE_ALIGNMENT else None,
        # What is cropped early changes no output of this rule.
        code=fingerprint("difftalk.stages.landmarks", without=[*OTHER_BACKENDS, "difftalk.face.early_crops"]),
    message:
        "Find faces and landmarks in {wildcards.shard}"
    shell:
        """
        {params.how.difftalk} landmarks --plan {input.plan} --shard {wildcards.shard} --sources {input.sources} \
            --settings {params.settings:q} --out {output.landmarks} --quality {output.quality} \
            --scores {output.scores} --workers {threads} --log {log} \
            {params.how.early_crops} \
            {params.how.cache[landmarks]}
        """


rule gates:
    input:
        scores="<run>/landmarks/{shard}.scores.parquet",
    output:
        # Under the name of the stage that measured.
        rejects="<run>/rejects/landmarks/{shard}.csv",
    log:
        "<run>/logs/gates/{shard}.log",
    localrule: True
    conda:
        "../../envs/difftalk.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        how=HOW,
        settings=SETTINGS["gates"],
        code=fingerprint("difftalk.stages.gates"),
    message:
        "Apply the gates to {wildcards.shard}"
    shell:
        """
        {params.how.difftalk} gates --scores {input.scores} --settings {params.settings:q} --rejects {output.rejects} \
            --max-reject-fraction {params.how.max_reject_fraction} --log {log}
        """


rule crops:
    input:
        # Where rows of the shard have changed, `fetch` writes its sources again.
        plan=ancient("<run>/plan/clips.parquet"),
        sources="<run>/sources/{shard}",
        landmarks="<run>/landmarks/{shard}.parquet",
        rejected="<run>/rejects/landmarks/{shard}.csv",
        syncnet="<run>/models/syncnet" if SYNC_GATE else [],
    output:
        **({"sync": "<run>/sync/{shard}.csv"} if SYNC_GATE else {}),
        crops="<run>/crops/{shard}.tar",
        rejects="<run>/rejects/crops/{shard}.csv",
    log:
        "<run>/logs/crops/{shard}.log",
    benchmark:
        "<run>/benchmarks/crops/{shard}.tsv"
    cache: MAY_BE_CACHED
    conda:
        "../../envs/difftalk.yaml"
    threads: 4
    resources:
        mem_mb=8000 if SYNC_GATE or LARGE_CROPS else 4000,
        runtime=240,
        gpu=GPUS["crops"],
    params:
        how=HOW,
        settings=SETTINGS["crops"],
        code=fingerprint("difftalk.stages.crops", without=[] if SYNC_GATE else ["difftalk.face.sync_gate"]),
    message:
        "Cut the face crops of {wildcards.shard}"
    shell:
        """
        {params.how.difftalk} crops --plan {input.plan} --shard {wildcards.shard} --sources {input.sources} \
            --landmarks {input.landmarks} --rejected {input.rejected} --syncnet {input.syncnet} \
            --settings {params.settings:q} --out {output.crops} --rejects {output.rejects} \
            --max-reject-fraction {params.how.max_reject_fraction} --workers {threads} --log {log} \
            {params.how.cache[crops]} """ + ("--sync {output.sync}" if SYNC_GATE else "")


if OVERLAP != "ignore":

    rule descriptors:
        input:
            crops="<run>/crops/{shard}.tar",
        output:
            descriptors="<run>/descriptors/{shard}.parquet",
        log:
            "<run>/logs/descriptors/{shard}.log",
        benchmark:
            "<run>/benchmarks/descriptors/{shard}.tsv"
        cache: MAY_BE_CACHED
        conda:
            "../../envs/difftalk.yaml"
        threads: 1
        resources:
            mem_mb=4000,
            runtime=120,
        params:
            how=HOW,
            code=fingerprint("difftalk.stages.descriptors"),
        message:
            "Describe content and speakers of {wildcards.shard}"
        shell:
            """
            {params.how.difftalk} descriptors --crops {input.crops} --out {output.descriptors} --log {log}
            """

    rule overlap:
        input:
            plan="<run>/plan/clips.parquet",
            descriptors=expand("<run>/descriptors/{shard}.parquet", shard=SHARDS),
        output:
            overlap="<run>/overlap.csv",
            rejects=expand("<run>/rejects/overlap/{shard}.csv", shard=SHARDS),
        log:
            "<run>/logs/overlap.log",
        localrule: True
        conda:
            "../../envs/difftalk.yaml"
        threads: 1
        resources:
            mem_mb=4000,
            runtime=60,
        params:
            how=HOW,
            settings=SETTINGS["overlap"],
            code=fingerprint("difftalk.stages.overlap"),
        message:
            "Find what both sides of the split have in common"
        shell:
            """
            {params.how.difftalk} overlap --plan {input.plan} --descriptors {input.descriptors} --settings {params.settings:q} \
                --out {output.overlap} --rejects {output.rejects} --max-reject-fraction {params.how.max_reject_fraction} --log {log}
            """


if SYNC_EXPERT and not SYNC_GATE:

    rule sync:
        input:
            crops="<run>/crops/{shard}.tar",
            syncnet="<run>/models/syncnet",
        output:
            sync="<run>/sync/{shard}.csv",
        log:
            "<run>/logs/sync/{shard}.log",
        benchmark:
            "<run>/benchmarks/sync/{shard}.tsv"
        conda:
            "../../envs/difftalk.yaml"
        threads: 1
        resources:
            mem_mb=8000,
            runtime=240,
            gpu=GPUS["sync"],
        params:
            how=HOW,
            code=fingerprint("difftalk.stages.sync"),
        message:
            "Measure the sync of {wildcards.shard}"
        shell:
            """
            {params.how.difftalk} sync --crops {input.crops} --syncnet {input.syncnet} --out {output.sync} --log {log}
            """


rule speech:
    input:
        crops="<run>/crops/{shard}.tar",
    output:
        speech="<run>/speech/{shard}.parquet",
        rejects="<run>/rejects/speech/{shard}.csv",
    log:
        "<run>/logs/speech/{shard}.log",
    benchmark:
        "<run>/benchmarks/speech/{shard}.tsv"
    cache: MAY_BE_CACHED
    conda:
        "../../envs/difftalk.yaml"
    threads: 4 if DEEPSPEECH else 1
    resources:
        mem_mb=8000 if DEEPSPEECH else 2000,
        runtime=120,
        gpu=GPUS["speech"],
    params:
        how=HOW,
        settings=SETTINGS["speech"],
        weights=pretrained.recorded("deepspeech-0.1.0") if DEEPSPEECH else None,
        code=fingerprint("difftalk.stages.speech", without=OTHER_SPEECH),
    message:
        "Compute the speech features of {wildcards.shard}"
    shell:
        """
        {params.how.difftalk} speech --crops {input.crops} --settings {params.settings:q} --out {output.speech} \
            --rejects {output.rejects} --max-reject-fraction {params.how.max_reject_fraction} --log {log} \
            {params.how.cache[speech]}
        """


rule encode:
    input:
        crops="<run>/crops/{shard}.tar",
        speech="<run>/speech/{shard}.parquet",
        autoencoder="<run>/models/autoencoder",
        rejected=overlap_of_shard,
    output:
        shard="<run>/shards/{shard}.tar",
        rejects="<run>/rejects/encode/{shard}.csv",
    log:
        "<run>/logs/encode/{shard}.log",
    benchmark:
        "<run>/benchmarks/encode/{shard}.tsv"
    cache: MAY_BE_CACHED
    conda:
        "../../envs/difftalk.yaml"
    threads: 2
    resources:
        mem_mb=8000 if LARGE_CROPS else 4000,
        runtime=240,
        gpu=GPUS["encode"],
    params:
        how=HOW,
        settings=SETTINGS["encode"],
        # It reads the features from their table, whichever backend wrote them.
        code=fingerprint("difftalk.stages.encode", without=backends.SPEECH_MODULES.values()),
    message:
        "Encode {wildcards.shard} with the first stage"
    shell:
        """
        {params.how.difftalk} encode --crops {input.crops} --speech {input.speech} --autoencoder {input.autoencoder} \
            --rejected {input.rejected} --settings {params.settings:q} --out {output.shard} --rejects {output.rejects} \
            --max-reject-fraction {params.how.max_reject_fraction} --log {log} {params.how.cache[encode]}
        """


rule funnel:
    input:
        plan="<run>/plan/clips.parquet",
        not_videos="<run>/plan/not_videos.csv",
        rejects=ALL_REJECTS,
        quality=expand("<run>/landmarks/{shard}.quality.csv", shard=SHARDS),
        crops=expand("<run>/crops/{shard}.tar", shard=SHARDS),
    output:
        funnel=report(
            "<run>/funnel.csv", caption="../report/funnel.rst", category="Data", labels={"table": "funnel"}
        ),
        by_subset="<run>/funnel_by_subset.csv",
        page=report(
            "<run>/funnel.html",
            caption="../report/funnel.rst",
            category="Data",
            labels={"table": "funnel, by part of the dataset"},
        ),
    log:
        "<run>/logs/funnel.log",
    # Above the trainings: whatever becomes of them, it is written.
    priority: 20
    localrule: True
    conda:
        "../../envs/difftalk.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        how=HOW,
        code=fingerprint("difftalk.stages.funnel"),
        templates=TEMPLATES,
    message:
        "Count the clips rejected at each stage, by reason"
    shell:
        """
        {params.how.difftalk} funnel --plan {input.plan} --rejects {input.rejects} --quality {input.quality} \
            --crops {input.crops} --not-videos {input.not_videos} --out {output.funnel} \
            --by-subset {output.by_subset} --page {output.page} --log {log}
        """


rule clip_scores:
    input:
        plan="<run>/plan/clips.parquet",
        scores=expand("<run>/landmarks/{shard}.scores.parquet", shard=SHARDS),
        rejects=ALL_REJECTS,
        sync=SYNC_SCORES,
        overlap="<run>/overlap.csv" if OVERLAP != "ignore" else [],
    output:
        table="<run>/clip_scores.parquet",
        page=report(
            "<run>/clip_scores.html",
            caption="../report/clip_scores.rst",
            category="Data",
            labels={"table": "clip scores"},
        ),
    log:
        "<run>/logs/clip_scores.log",
    localrule: True
    conda:
        "../../envs/difftalk.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=30,
    params:
        how=HOW,
        settings=SETTINGS["gates"],
        code=fingerprint("difftalk.stages.clip_scores"),
        templates=TEMPLATES,
    message:
        "Gather what was measured of each clip"
    shell:
        """
        {params.how.difftalk} clip_scores --plan {input.plan} --scores {input.scores} --rejects {input.rejects} --sync {input.sync} \
            --overlap {input.overlap} --settings {params.settings:q} --out {output.table} --page {output.page} --log {log}
        """


rule freeze:
    input:
        plan="<run>/plan/clips.parquet",
        manifests=expand("<run>/sources/{shard}.csv", shard=SHARDS),
        rejects=ALL_REJECTS,
    output:
        plan="<run>/frozen_plan.csv",
    log:
        "<run>/logs/freeze.log",
    localrule: True
    conda:
        "../../envs/difftalk.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    params:
        how=HOW,
        code=fingerprint("difftalk.stages.freeze"),
    message:
        "Write out the clips that were kept, with checksums"
    shell:
        """
        {params.how.difftalk} freeze --plan {input.plan} --manifests {input.manifests} --rejects {input.rejects} \
            --out {output.plan} --log {log}
        """
