"""Measure the videos of one method that another voice, or silence, drives."""

from typing import Any

from difftalk.config.evaluation import Evaluation
from difftalk.runtime.arguments import CacheFolder, InputFile, InputFolder, OutputFile


def run(
    *,
    method: str,
    other: InputFolder,
    silence: InputFolder,
    crops: InputFile,
    pairs: InputFile,
    voice_crops: list[InputFile],
    syncnet: InputFolder,
    settings: Evaluation,
    out_other: OutputFile,
    out_silence: OutputFile,
    only: InputFile | None = None,
    cache: CacheFolder | None = None,
) -> None:
    """Write the metrics of one method on one shard for each voice, a row per clip.

    Args:
        method: the row's name in the table.
        other: folder of its videos driven by another voice.
        silence: folder of its videos driven by silence.
        crops: crops/SHARD.tar, the true clips.
        pairs: cross_driven/pairs.csv: whose voice drives which clip.
        voice_crops: crops/SHARD.tar of all test shards, for the voices.
        syncnet: folder of the sync expert.
        settings: the config's section `evaluation`.
        out_other: the parquet file to write for the other voices.
        out_silence: the parquet file to write for silence.
        only: plan/evaluated.csv: how much of each clip is evaluated; without, the whole.
        cache: folder in which what was measured is kept, that of `score`.

    Raises:
        UserError: where every clip failed with an unexpected error.
    """
    from difftalk.datasets.chosen import read_chosen
    from difftalk.datasets.pairs import read_pairs
    from difftalk.evaluation.cross_driven import PROTOCOL, CrossScorer
    from difftalk.evaluation.samples import check_folder
    from difftalk.evaluation.scorer import Scorer
    from difftalk.evaluation.scores import write_scores
    from difftalk.media.shards import Crop, read_crops
    from difftalk.runtime.errors import ClipError, UserError
    from difftalk.runtime.parallel import guarded
    from difftalk.runtime.progress import progress
    from difftalk.runtime.sample_folder import find_video
    from difftalk.sampling.voices import OtherVoices, silence_of

    paired = read_pairs(pairs, crops.stem)
    limits = read_chosen(only) if only is not None else None
    voices, scorer = OtherVoices(voice_crops), CrossScorer.load(syncnet, settings, cache)
    for voice, folder, out in (("other", other, out_other), ("silence", silence, out_silence)):
        asked = {c for c, pair in paired.items() if voice == "silence" or pair.driven_by}
        check_folder(folder, sorted(asked))

        def score(clip: Crop, voice: str = voice, folder: Any = folder) -> dict[str, Any]:
            pair = paired[clip.clip_id]
            driving = voices.of(pair) if voice == "other" else silence_of(clip)
            frames = pair.frames if voice == "other" else len(clip.landmarks)
            path = find_video(folder, clip.clip_id)
            return scorer.score(method, voice, clip, frames, path, driving.samples)

        rows, failed = [], 0
        clips = progress(read_crops(crops, asked, limits), len(asked), f"cross_score {voice}", "clips")
        for clip in clips:
            row = guarded(score, clip, clip.clip_id)
            if isinstance(row, ClipError):
                row = Scorer.problem(method, clip, row)
                failed += 1
            rows.append(row)
        if rows and failed == len(rows):
            raise UserError(f"cross_score: none of {failed} clips could be scored: {rows[0]['problem']}")
        write_scores(out, method, rows, {"voice": voice, **PROTOCOL})
