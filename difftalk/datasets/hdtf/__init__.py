"""HDTF, 370 public talking-face videos: the table of its clips, made from the authors' annotation files."""
