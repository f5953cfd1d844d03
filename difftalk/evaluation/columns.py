"""The columns of figures: what each is called, which values are better, and in which units."""

from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower", "one", "truth"]

ARROWS: dict[Better, str] = {"higher": "↑", "lower": "↓", "one": "→ 1", "truth": "→ truth"}


@dataclass(frozen=True)
class Column:
    """One column of figures.

    Args:
        name: in files.
        title: for people, without its arrow.
        digits: after the decimal point.
        better: which values are better: higher or lower ones, those near 1, or those near the ground truth's
            own. None: it is shown, and says nothing about quality.
        of_set: whether it is measured on all clips together, and not the mean of a figure per clip.
    """

    name: str
    title: str
    digits: int
    better: Better | None
    of_set: bool = False

    @property
    def heading(self) -> str:
        """The title, and an arrow towards the better values."""
        return f"{self.title} {ARROWS[self.better]}" if self.better else self.title


# In the order of the files: what is added comes last, since scripts elsewhere may read by position.
METRICS = {
    column.name: column
    for column in (
        Column("psnr", "PSNR", 2, "higher"),
        Column("ssim", "SSIM", 4, "higher"),
        Column("lpips", "LPIPS", 4, "lower"),
        Column("psnr_mouth", "PSNR mouth", 2, "higher"),
        Column("ssim_mouth", "SSIM mouth", 4, "higher"),
        Column("lpips_mouth", "LPIPS mouth", 4, "lower"),
        Column("sync_offset", "abs. offset", 2, "lower"),
        Column("sync_confidence", "LSE-C", 3, "higher"),
        Column("sync_distance", "LSE-D", 3, "lower"),
        Column("mouth_corr", "mouth corr.", 3, "higher"),
        Column("offset_within_1", "offset within ±1", 2, "higher"),
        Column("id_distance", "id distance", 3, "lower"),
        Column("st_lpips", "ST-LPIPS", 4, "lower"),
        Column("lmd_mouth", "LMD mouth", 3, "lower"),
        Column("lmd_face", "LMD face", 3, "lower"),
        Column("jitter", "jitter", 2, "one"),
        Column("tof_mouth", "tOF mouth", 3, "lower"),
        Column("lip_dynamics", "lip dynamics", 3, "truth"),
        Column("silent_lip", "silent lip", 4, "truth"),
        Column("lip_loudness", "lip to loudness", 3, "truth"),
        Column("brow_dynamics", "brow dynamics", 4, None),
        Column("head_motion", "head motion", 3, None),
        Column("mouth_sharpness", "mouth sharpness", 2, "one"),
        Column("fid", "FID", 2, "lower", of_set=True),
        Column("fvd", "FVD", 1, "lower", of_set=True),
        Column("csim", "CSIM", 3, "higher"),
        Column("sync2_offset", "abs. offset (2nd expert)", 2, "lower"),
        Column("sync2_confidence", "confidence (2nd expert)", 3, "higher"),
        Column("sync2_distance", "distance (2nd expert)", 3, "lower"),
        Column("method_fps", "frames/s", 2, None),
    )
}

# Of a method driven by another voice than the clip's own, and in no other table.
LEAKAGE = Column("leakage", "leakage", 3, "lower")
LEAK_CONFIDENCE = Column("leak_confidence", "confidence of the original sound", 3, "lower")
