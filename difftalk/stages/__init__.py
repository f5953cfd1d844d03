"""One module a verb of the command line: settings and files in, libraries called, files out."""
