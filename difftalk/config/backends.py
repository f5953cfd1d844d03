"""The modules of datasets and backends, of which a run uses one each."""

from collections.abc import Mapping

# The modules of which a stage uses one, so that its fingerprint can leave out the others.
DATASET_MODULES = {
    "demo": "difftalk.datasets.demo.dataset",
    "local": "difftalk.datasets.local",
    "hdtf": "difftalk.datasets.hdtf.dataset",
    "table": "difftalk.datasets.table",
}
LANDMARK_MODULES = {
    "dlib": "difftalk.face.dlib_backend",
    "face_alignment": "difftalk.face.face_alignment_backend",
}
SPEECH_MODULES = {"mfcc": "difftalk.speech.mfcc", "deepspeech": "difftalk.speech.deepspeech"}


def unused_modules(modules: Mapping[str, str], chosen: str) -> list[str]:
    """Return the modules that are not used where `chosen` is."""
    return [module for name, module in modules.items() if name != chosen]
