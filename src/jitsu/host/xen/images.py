"""Kernel images in memory, ready to be put into a domain."""

from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from jitsu.config.image import ImageError, image_is_linux
from jitsu.errors import HostError
from jitsu.host.xen.domain import Kind

_IMAGES_MAX = 256 << 20
"""Bytes of images that are kept; who has more services reads some again."""


@dataclass(slots=True)
class Image:
    """An image; `data` without its compression once it has been built from."""

    kind: Kind
    data: bytes
    stamp: tuple[int, int]


class Images:
    """Those that were booted, as long as their files are the same."""

    def __init__(self) -> None:
        self._images: dict[str, Image] = {}
        self._keeping = Lock()
        """Boots load images on threads of their own."""

    def load(self, path: str) -> Image:
        """Return the image at `path`. Blocks when it is not here yet. Raises HostError."""
        try:
            found = Path(path).stat()
            stamp = (found.st_mtime_ns, found.st_size)
            image = self._images.get(path)
            if image is None or image.stamp != stamp:
                kind = Kind.PV if image_is_linux(Path(path)) else Kind.PVH
                image = Image(kind, Path(path).read_bytes(), stamp)
                self._keep(path, image)
        except ImageError as error:
            raise HostError(f"{path} {error}") from error
        except OSError as error:
            raise HostError(f"{path} cannot be read: {error.strerror}") from error
        return image

    def _keep(self, path: str, image: Image) -> None:
        with self._keeping:
            self._images.pop(path, None)
            self._images[path] = image
            sizes = [len(image.data) for image in self._images.values()]
            while len(sizes) > 1 and sum(sizes) > _IMAGES_MAX:
                del self._images[next(iter(self._images))], sizes[0]
