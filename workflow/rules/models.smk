# The first stage, the sync expert, and one model per experiment and seed.


rule autoencoder:
    input:
        crops=part_crops("autoencoder"),
        plan=part_plan("autoencoder"),
        rejects=part_rejects("autoencoder"),
    output:
        model=directory("<run>/models/autoencoder"),
    log:
        "<run>/logs/autoencoder.log",
    benchmark:
        "<run>/benchmarks/autoencoder.tsv"
    cache: MAY_BE_CACHED
    # One that is copied waits for no node.
    localrule: CONFIG.autoencoder != "train"
    conda:
        "../../envs/difftalk.yaml"
    threads: CONFIG.training_threads
    resources:
        mem_mb=part_mem_mb("autoencoder"),
        runtime=1440,
        gpu=GPUS["autoencoder"],
    params:
        how=HOW,
        source=part_source("autoencoder"),
        settings=part_settings("autoencoder"),
        state=f"{STATE}/autoencoder",
        weights=part_weights("autoencoder"),
        base=part_base("autoencoder"),
        code=part_code("autoencoder"),
    message:
        "Get the first stage ({params.source})"
    shell:
        """
        trap : TERM USR1
        {params.how.difftalk} autoencoder --crops {input.crops} --plan {input.plan:q} --rejects {input.rejects} --settings {params.settings:q} --source {params.source:q} \
            --state {params.state} --out {output.model} --log {log}
        """


rule syncnet:
    input:
        crops=part_crops("syncnet"),
        plan=part_plan("syncnet"),
        rejects=part_rejects("syncnet"),
    output:
        model=directory("<run>/models/syncnet"),
    log:
        "<run>/logs/syncnet.log",
    benchmark:
        "<run>/benchmarks/syncnet.tsv"
    cache: MAY_BE_CACHED
    # One that is copied waits for no node.
    localrule: CONFIG.syncnet != "train"
    conda:
        "../../envs/difftalk.yaml"
    threads: CONFIG.training_threads
    resources:
        mem_mb=part_mem_mb("syncnet"),
        runtime=1440,
        gpu=GPUS["syncnet"],
    params:
        how=HOW,
        source=part_source("syncnet"),
        settings=part_settings("syncnet"),
        state=f"{STATE}/syncnet",
        weights=part_weights("syncnet"),
        base=part_base("syncnet"),
        code=part_code("syncnet"),
    message:
        "Get the sync expert ({params.source})"
    shell:
        """
        trap : TERM USR1
        {params.how.difftalk} syncnet --crops {input.crops} --plan {input.plan:q} --rejects {input.rejects} --settings {params.settings:q} --source {params.source:q} \
            --state {params.state} --out {output.model} --log {log}
        """


rule train:
    input:
        shards=expand("<run>/shards/{shard}.tar", shard=TRAIN_SHARDS),
        autoencoder="<run>/models/autoencoder",
        base=base_of,
        plan=ancient("<run>/plan/clips.parquet") if IS_FOLDER else [],
        rejects=ancient(ALL_REJECTS) if IS_FOLDER else [],
    output:
        model=directory("<run>/models/{model}"),
    log:
        "<run>/logs/train/{model}.log",
    benchmark:
        "<run>/benchmarks/train/{model}.tsv"
    cache: MAY_BE_CACHED
    # Above the stages beside it: everything that follows waits for the last training.
    priority: 10
    conda:
        "../../envs/difftalk.yaml"
    # Of each node: a process and its workers, for each GPU.
    threads: max(CONFIG.training_threads, CONFIG.training_processes * (1 + CONFIG.training_workers))
    resources:
        **ON_NODES,
        mem_mb=(16000 if CONFIG.gpu else 4000) * CONFIG.training_processes,
        runtime=2880,
        gpu=GPUS["train"],
        # Of one node where nothing else is said: else SLURM may take GPUs of several.
        nodes=CONFIG.training_nodes,
    params:
        how=HOW,
        settings=train_settings,
        base=base_content,
        state=f"{STATE}/{{model}}",
        curves=f"{LOGS}/train/{{model}}",
        code=fingerprint("difftalk.stages.train", without=CHECK_OF_SIDES + HOW_IT_STARTS),
    message:
        "Train {wildcards.model}"
    shell:
        # Signals that SLURM sends to every process end the training when it has saved, and this shell after it.
        """
        trap : TERM USR1
        {params.how.difftalk} train --shards {input.shards} --autoencoder {input.autoencoder} \
            --settings {params.settings:q} --state {params.state} --curves {params.curves} \
            --processes {params.how.processes} --nodes {params.how.nodes} --data-workers {params.how.workers} --plan {input.plan:q} \
            --rejects {input.rejects} --out {output.model} --log {log}
        """
