"""Adapters: what a dataset publishes, read as rows of the table of clips; one module per dataset."""
