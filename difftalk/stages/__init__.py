"""One module a verb of the command line: settings and files in, libraries called, files out."""

# The verbs, in the order of the flow. Module, rule, log and results folder of a stage bear its name.
STAGES = (
    "plan", "fetch", "landmarks", "gates", "crops", "speech", "autoencoder", "syncnet", "sync", "encode",
    "train", "sample", "score", "tables", "funnel", "clip_scores", "freeze", "report", "weights",
)  # fmt: skip
