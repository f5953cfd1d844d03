"""Faces of a clip: found and followed (`follow`), judged (`gates`), cropped (`crops`)."""
