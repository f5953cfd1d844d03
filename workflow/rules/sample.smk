# Videos of the test clips: by each model, and by the methods that need none.


rule sample:
    input:
        crops="<run>/crops/{shard}.tar",
        shard="<run>/shards/{shard}.tar",
        autoencoder="<run>/models/autoencoder",
        model=model_of,
        references=references_of,
    output:
        samples=directory("<run>/samples/{method}/{shard}"),
    log:
        "<run>/logs/sample/{method}.{shard}.log",
    benchmark:
        "<run>/benchmarks/sample/{method}.{shard}.tsv"
    conda:
        "../../envs/difftalk.yaml"
    threads: CONFIG.training_threads
    resources:
        mem_mb=(12000 if LARGE_CROPS else 8000) if CONFIG.gpu else 4000,
        runtime=720,
        gpu=GPUS["sample"],
    params:
        settings=SETTINGS["sample"],
        state=f"{RUN}/state/samples/{{method}}/{{shard}}",
        code=fingerprint("difftalk.stages.sample"),
    message:
        "Sample {wildcards.shard} with {wildcards.method}"
    shell:
        """
        difftalk sample --method {wildcards.method} --crops {input.crops} --shard-file {input.shard} \
            --autoencoder {input.autoencoder} --model {input.model} --references {input.references} \
            --settings {params.settings:q} \
            --state {params.state} --out {output.samples} --log {log}
        """
