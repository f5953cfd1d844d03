"""The configuration: one typed model a section, its checks, its schema and its table of keys."""
