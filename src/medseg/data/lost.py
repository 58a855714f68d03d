"""What is lost between the images and their samples: objects, whole images, grey levels. In words, with what helps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from medseg.data.geometry import Geometry, Patchify, Scale

FEW_LEVELS = 64  # of 256; fewer are told
_SHOWN = 3  # names of files


@dataclass(frozen=True)
class Kept:
    """What was kept of one image."""

    file: str
    samples: int
    objects: int  # annotated, 8-connected
    lost: int  # of these, without a pixel of foreground in any sample
    levels: int | None  # different values of its 256; None where the file itself has no more


def lost_in_words(split: str, kept: Sequence[Kept], geometry: Geometry) -> Iterator[str]:
    """A sentence for each kind of loss among the images of a split, with what helps; none where nothing is lost."""
    if left_out := [image for image in kept if not image.samples]:
        yield (
            f"{split}: {_images(len(left_out), kept)} smaller than a patch and left out ({_names(left_out)}); a "
            "smaller prepare.patch or prepare.border = pad keeps them"
        )
    sampled = [image for image in kept if image.samples]
    if losing := [image for image in sampled if image.lost]:
        emptied = [image for image in losing if image.lost == image.objects]
        count, all_objects = sum(image.lost for image in losing), sum(image.objects for image in sampled)
        consequence = f", of which {len(emptied)} count as empty ({_names(emptied)})" if emptied else ""
        yield (
            f"{split}: {count} of {all_objects} annotated objects leave no pixel in the samples, in {len(losing)} of "
            f"{sum(image.objects > 0 for image in sampled)} annotated images{consequence}; {_advice(geometry)}"
        )
    if few := [image for image in kept if image.levels is not None and image.levels < FEW_LEVELS]:
        levels = [image.levels for image in few if image.levels is not None]
        yield (
            f"{split}: of the grey levels of {_images(len(few), kept)} of more than 8 bits only {min(levels)} to "
            f"{max(levels)} of 256 are left ({_names(few)}); say which values the device gives: intensity = window, or "
            "intensity = percentiles"
        )


def _advice(geometry: Geometry) -> str:
    if isinstance(geometry, Patchify):
        return "they lie where no whole patch fits: prepare.border = pad keeps them"
    larger = "a larger prepare.factor" if isinstance(geometry, Scale) else "larger prepare.height and prepare.width"
    return f"{larger} or prepare = patchify keep them, prepare.small_objects = keep a pixel of each"


def _images(count: int, among: Sequence[Kept]) -> str:
    return f"{count} of {len(among)} images"


def _names(images: Sequence[Kept]) -> str:
    names = [image.file for image in images[:_SHOWN]]
    return ", ".join([*names, "..."] if len(images) > _SHOWN else names)
