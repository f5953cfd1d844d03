# The workflow is in workflow/Snakefile, where the workflow catalogue expects it; this lets `snakemake` find it.
include: "workflow/Snakefile"


# An included file's default target does not count.
workflow.default_target = "all"
