# The targets beside `all`, `tables` and `report`.


rule prepare_all:
    input:
        rules.funnel.output,
        rules.clip_scores.output,
        rules.freeze.output,
        expand("<run>/shards/{shard}.tar", shard=SHARDS),
    localrule: True
    message:
        f"Done: the data of the run {CONFIG.run} is prepared"


rule train_all:
    input:
        expand("<run>/models/{model}", model=MODELS),
    localrule: True
    message:
        f"Done: the models of the run {CONFIG.run} are trained"


rule sample_all:
    input:
        expand("<run>/samples/{method}/{shard}", method=METHODS, shard=TEST_SHARDS),
    localrule: True
    message:
        f"Done: the test clips of the run {CONFIG.run} are sampled"


onstart:
    check_accounting()
    say_what_sampling_costs()


onerror:
    print(
        f"A job failed: see its message above, or {RUN}/logs. The same command continues from there.",
        file=sys.stderr,
    )
    write_unfinished_funnel()


# What is taken from its cache has no benchmark, and Snakemake refuses rules that have both.
for rule_of in workflow.rules if MAY_BE_CACHED else ():
    if rule_of.cache.output:
        rule_of._benchmark = None


remembered.save()
