"""One module a verb of the command line: settings and files in, libraries called, files out."""

# The commands, in the order of the flow. The module, the rule and the log of a stage bear its name.
STAGES = (
    "plan", "fetch", "landmarks", "gates", "crops", "descriptors", "overlap", "speech", "autoencoder",
    "syncnet", "sync", "encode", "train", "evaluated", "sample", "run_method", "pairs", "cross_drive",
    "score", "cross_score", "tables", "funnel", "clip_scores", "freeze", "report", "animate", "app",
    "dataset", "weights", "cache",
)  # fmt: skip
