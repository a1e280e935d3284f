"""Showing frames to people; pygame and moviepy are imported when the first frame is drawn or written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pygame

WIDTH = 384
"""Pixels that an enlarged frame is at least wide, or nearly so: four for one of CarRacing's."""


def enlarge(frame: npt.NDArray[np.uint8], picture: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Scale an encoder-sized frame ``(64, 64, 3)`` up to a multiple of the picture's height and width that V sees."""
    import pygame

    surface = pygame.surfarray.make_surface(frame.swapaxes(0, 1))
    height, width = (max(1, WIDTH // picture[1]) * size for size in picture)
    large = pygame.transform.smoothscale(surface, (width, height))
    return np.ascontiguousarray(pygame.surfarray.array3d(large).swapaxes(0, 1))


class Window:
    """A window that shows frames in real time; it opens at the first frame, in the frame's size.

    pygame has one window a process: what other envs close or resize opens again, in its own size, at the next frame.

    Args:
        title: of the window.
        fps: frames a second at most; `show` waits.
    """

    def __init__(self, title: str, fps: int) -> None:
        self.title, self.fps = title, fps
        self.screen: pygame.Surface | None = None
        self.clock: pygame.time.Clock | None = None

    def show(self, frame: npt.NDArray[np.uint8]) -> None:
        """Show a frame ``(H, W, 3)`` and wait until the next is due."""
        import pygame

        size, shown = (frame.shape[1], frame.shape[0]), pygame.display.get_surface()
        if self.clock is None or shown is None or shown is not self.screen or shown.get_size() != size:
            pygame.display.init()
            pygame.display.set_caption(self.title)
            self.screen = pygame.display.set_mode(size)
            self.clock = pygame.time.Clock()
        pygame.surfarray.blit_array(self.screen, frame.swapaxes(0, 1))
        pygame.event.pump()
        pygame.display.flip()
        self.clock.tick(self.fps)

    def close(self) -> None:
        """Close the window."""
        if self.screen is not None:
            import pygame

            if pygame.display.get_surface() is self.screen:  # and not another env's
                pygame.display.quit()
            self.screen = None


class Video:
    """An .mp4 that stands at its path once it is whole: frames go to a file beside it, which is renamed on success.

    Args:
        path: of the video; an older one is replaced.
        fps: frames a second.
        preset: of ffmpeg's encoder, such as "veryfast" for larger files in less time.

    Raises:
        OSError: at the end, when ffmpeg could not finish it.
    """

    def __init__(self, path: Path, fps: int, preset: str = "medium") -> None:
        self.path, self.fps, self.preset = path, fps, preset
        self.partial = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
        self.writer: Any = None

    def add(self, frame: npt.NDArray[np.uint8]) -> None:
        """Append a frame ``(H, W, 3)``; all have the size of the first."""
        if self.writer is None:
            from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter

            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.writer = FFMPEG_VideoWriter(str(self.partial), frame.shape[1::-1], self.fps, preset=self.preset)
        self.writer.write_frame(frame)

    def __enter__(self) -> Video:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if self.writer is None:
            return
        encoder = self.writer.proc
        try:
            self.writer.close()
            if failure is None and encoder.returncode != 0:
                raise OSError(f"ffmpeg could not finish {self.path}: exit status {encoder.returncode}")
            if failure is None:
                os.replace(self.partial, self.path)
        finally:
            self.partial.unlink(missing_ok=True)
