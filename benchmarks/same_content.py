"""How far apart the files of a folder are: in frames and audio, by which copies are told, and in their faces.

python benchmarks/same_content.py FOLDER

Prints the seconds that each file takes, then for each two files the share of bits in which the hashes of
their frames and the fingerprints of their audio differ, and the distance of their faces. docs/videos.md has
the limits.
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np

from difftalk.datasets.file_features import FeaturesJob, FileFeatures, file_features
from difftalk.datasets.fingerprints import audio_distance, frame_distance
from difftalk.runtime.video_folder import list_videos, to_uri


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    looks: dict[str, FileFeatures] = {}
    for name in list_videos(folder).videos:
        start = time.process_time()
        looks[name] = file_features(FeaturesJob(folder / name, faces=True, compare=True))
        said = looks[name].unusable or ("face" if looks[name].face is not None else "no face")
        print(f"{to_uri(name)}: {time.process_time() - start:.1f} s of CPU, {said}")
    for (a, one), (b, other) in itertools.combinations(looks.items(), 2):
        columns = ["", "", ""]
        if one.hashes is not None and other.hashes is not None:
            columns[0] = f"frames {frame_distance(one.hashes, other.hashes):.2f}"
        if one.audio is not None and other.audio is not None:
            columns[1] = f"audio {audio_distance(one.audio, other.audio):.2f}"
        if one.face is not None and other.face is not None:
            columns[2] = f"faces {float(np.linalg.norm(one.face - other.face)):.2f}"
        print(f"{to_uri(a)} {to_uri(b)}: {' '.join(columns)}")


if __name__ == "__main__":
    main()
