"""Measure what tells the clips of a shard, and their speakers, apart from others."""

from difftalk.runtime.arguments import InputFile, OutputFile

STAGE = "descriptors"


def run(*, crops: InputFile, out: OutputFile) -> None:
    """Write the fingerprint of the audio and the descriptor of the face of each crop.

    A clip that cannot be measured has no row: the stages after this one say why.

    Args:
        crops: crops/SHARD.tar.
        out: descriptors/SHARD.parquet, to be written.
    """
    from difftalk.datasets.overlap import write_contents
    from difftalk.face.crop_content import crop_content
    from difftalk.media.shards import read_crops
    from difftalk.runtime.errors import ClipError
    from difftalk.runtime.parallel import guarded

    measured = []
    for crop in read_crops(crops):
        content = guarded(crop_content, crop, crop.clip_id)
        if not isinstance(content, ClipError):
            measured.append((crop.clip_id, content))
    write_contents(out, measured)
