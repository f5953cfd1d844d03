# Videos of the test clips: by each model, by the methods that need none, and by those from elsewhere.


if EVALUATED:

    rule evaluated:
        input:
            plan="<run>/plan/clips.parquet",
            shards=expand("<run>/shards/{shard}.tar", shard=TEST_SHARDS),
        output:
            chosen=EVALUATED,
        log:
            "<run>/logs/evaluated.log",
        localrule: True
        conda:
            "../../envs/difftalk.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=30,
        params:
            how=HOW,
            settings=configuration.as_json(CONFIG.evaluation.clips),
            code=fingerprint("difftalk.stages.evaluated"),
        message:
            "Choose the test clips that are evaluated"
        shell:
            """
            {params.how.difftalk} evaluated --plan {input.plan} --shards {input.shards} --settings {params.settings:q} \
                --out {output.chosen} --log {log}
            """


rule sample:
    input:
        crops="<run>/crops/{shard}.tar",
        shard="<run>/shards/{shard}.tar",
        autoencoder="<run>/models/autoencoder",
        model=model_of,
        references=references_of,
        only=EVALUATED,
    output:
        samples=directory("<run>/samples/{method}/{shard}"),
    log:
        "<run>/logs/sample/{method}.{shard}.log",
    benchmark:
        "<run>/benchmarks/sample/{method}.{shard}.tsv"
    wildcard_constraints:
        method="|".join(SAMPLED),
    conda:
        "../../envs/difftalk.yaml"
    threads: CONFIG.training_threads
    resources:
        mem_mb=(12000 if LARGE_CROPS else 8000) if CONFIG.gpu else 4000,
        runtime=720,
        gpu=gpus_to_sample("sample"),
    params:
        how=how_to_sample,
        settings=SETTINGS["sample"],
        state=f"{STATE}/samples/{{method}}/{{shard}}",
        code=fingerprint("difftalk.stages.sample"),
    message:
        "Sample {wildcards.shard} with {wildcards.method}"
    shell:
        """
        {params.how.difftalk} sample --method {wildcards.method} --crops {input.crops} --shard-file {input.shard} \
            --autoencoder {input.autoencoder} --model {input.model} --references {input.references} \
            --settings {params.settings:q} --only {input.only} \
            --state {params.state} --out {output.samples} --log {log}
        """


if GIVEN_METHODS:

    rule run_method:
        input:
            crops="<run>/crops/{shard}.tar",
            shard="<run>/shards/{shard}.tar",
            only=EVALUATED,
            plan=plan_of,
            sources=sources_of,
            landmarks=landmarks_of,
        output:
            samples=directory("<run>/samples/{method}/{shard}"),
        log:
            "<run>/logs/run_method/{method}.{shard}.log",
        benchmark:
            "<run>/benchmarks/run_method/{method}.{shard}.tsv"
        wildcard_constraints:
            method="|".join(GIVEN_METHODS),
        conda:
            "../../envs/difftalk.yaml"
        threads: CONFIG.training_threads
        resources:
            mem_mb=8000,
            runtime=720,
            gpu=gpus_of,
        params:
            how=HOW,
            entry=entry_of,
            files=files_of,
            state=f"{STATE}/samples/{{method}}/{{shard}}",
            code=fingerprint("difftalk.stages.run_method"),
        message:
            "Videos of {wildcards.method} for {wildcards.shard}"
        shell:
            """
            {params.how.difftalk} run_method --method {wildcards.method} --entry {params.entry:q} --crops {input.crops} \
                --shard-file {input.shard} --only {input.only} --plan {input.plan} --sources {input.sources} \
                --landmarks {input.landmarks} --state {params.state} --out {output.samples} --log {log}
            """


if CROSS_DRIVEN:

    rule pairs:
        input:
            plan="<run>/plan/clips.parquet",
            shards=expand("<run>/shards/{shard}.tar", shard=TEST_SHARDS),
            only=EVALUATED,
        output:
            pairs="<run>/cross_driven/pairs.csv",
        log:
            "<run>/logs/pairs.log",
        localrule: True
        conda:
            "../../envs/difftalk.yaml"
        threads: 1
        resources:
            mem_mb=1000,
            runtime=30,
        params:
            how=HOW,
            code=fingerprint("difftalk.stages.pairs"),
        message:
            "Choose the voice that drives each test clip besides its own"
        shell:
            """
            {params.how.difftalk} pairs --plan {input.plan} --shards {input.shards} --only {input.only} \
                --out {output.pairs} --log {log}
            """

    rule cross_drive:
        input:
            crops="<run>/crops/{shard}.tar",
            shard="<run>/shards/{shard}.tar",
            pairs="<run>/cross_driven/pairs.csv",
            voice_crops=expand("<run>/crops/{shard}.tar", shard=TEST_SHARDS),
            voice_shards=expand("<run>/shards/{shard}.tar", shard=TEST_SHARDS),
            only=EVALUATED,
            autoencoder=autoencoder_of,
            model=model_of,
            references=references_of,
        output:
            other=directory("<run>/cross_driven/other/{method}/{shard}"),
            silence=directory("<run>/cross_driven/silence/{method}/{shard}"),
        log:
            "<run>/logs/cross_drive/{method}.{shard}.log",
        benchmark:
            "<run>/benchmarks/cross_drive/{method}.{shard}.tsv"
        wildcard_constraints:
            method="|".join(CROSS_DRIVEN),
        conda:
            "../../envs/difftalk.yaml"
        threads: CONFIG.training_threads
        resources:
            mem_mb=(12000 if LARGE_CROPS else 8000) if CONFIG.gpu else 4000,
            runtime=1440,
            gpu=gpus_to_sample("cross_drive"),
        params:
            how=how_to_sample,
            settings=SETTINGS["sample"],
            speech=SETTINGS["speech"],
            state=f"{STATE}/cross_driven/{{method}}/{{shard}}",
            code=fingerprint("difftalk.stages.cross_drive", without=OTHER_SPEECH),
        message:
            "Sample {wildcards.shard} with {wildcards.method}, driven by another voice and by silence"
        shell:
            """
            {params.how.difftalk} cross_drive --method {wildcards.method} --crops {input.crops} --shard-file {input.shard} \
                --pairs {input.pairs} --voice-crops {input.voice_crops} --voice-shards {input.voice_shards} \
                --only {input.only} --autoencoder {input.autoencoder} --model {input.model} \
                --references {input.references} --settings {params.settings:q} --speech {params.speech:q} \
                --state {params.state} --other {output.other} --silence {output.silence} --log {log}
            """
