"""What stages import and load when they run, for the process that `small_run` forks their commands from."""

import importlib
import pkgutil
from contextlib import suppress

import difftalk

OTHERS = ("diffusers.models", "matplotlib.pyplot", "torch.utils.tensorboard")

for module in pkgutil.walk_packages(difftalk.__path__, "difftalk."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for name in OTHERS:
    importlib.import_module(name)

# Models that a process keeps. They read a hundred megabytes.
with suppress(AttributeError):
    from difftalk.pretrained import dlib_models

    dlib_models.landmark_predictor()
    dlib_models.face_detector()
