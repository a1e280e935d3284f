"""Gymnasium's CarRacing-v3, drawn faster: the same tracks, physics, rewards and seeds, and the same pixels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pygame
from gymnasium.envs.box2d.car_racing import PLAYFIELD, SCALE, STATE_H, STATE_W, WINDOW_H, WINDOW_W, ZOOM, CarRacing
from pygame import gfxdraw
from pygame.math import Vector2
from pygame.surfarray import pixels2d

from wm_gym.checks import check_flag, check_options

PANEL = pygame.Rect(0, WINDOW_H - WINDOW_H // 8, WINDOW_W, WINDOW_H // 8)  # gauges and score, opaque
VIEW = pygame.Rect(0, PANEL.height, WINDOW_W, PANEL.top)  # what they leave of the world, which is drawn upside down
SEEN = VIEW.inflate(4, 4)  # antialiasing and rounding reach less than two pixels beyond a polygon's corners


class CheckedCarRacing(CarRacing):
    """CarRacing, but for what it does not know: options of `reset` that it would ignore, or stumble over halfway."""

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode.

        Raises:
            ValueError: for an unknown option, or "randomize" that is neither True nor False; nothing has happened then.
        """
        if (randomize := check_options(options, "randomize")["randomize"]) is not None:
            check_flag("options['randomize']", randomize)
        return super().reset(seed=seed, options=options)


class FastCarRacing(CheckedCarRacing):
    """CarRacing with the same observations in a fraction of the time.

    Nearly all of CarRacing's time goes into drawing the observation. This is what is done otherwise here:

    * CarRacing transforms every polygon of the world for every frame. Here numpy finds the few that reach the view, and
      only they are transformed, by the same pygame calls, since any other arithmetic rounds differently.
    * CarRacing flips the window, then shrinks it to the observation's width, then to its height. Here the width comes
      first, which leaves little to flip; rows are shrunk one by one, so that the order makes no difference.
    * CarRacing opens a font for every frame. Here it stays open.

    The modes "rgb_array" and "human" are drawn by CarRacing itself. So is the first frame of each track, to compare: a
    version of gymnasium or pygame that draws otherwise gives an error and not a different observation.

    Args:
        *args: CarRacing's.
        **kwargs: CarRacing's.
    """

    surf: Any  # None until something is drawn
    car: Any  # None until the first reset

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._world = pygame.Surface((WINDOW_W, WINDOW_H))
        self._panel = pygame.Surface((WINDOW_W, WINDOW_H))
        self._narrow = pygame.Surface((STATE_W, WINDOW_H))
        self._open_font()

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode as CarRacing does.

        Raises:
            ValueError: as `CheckedCarRacing` does.
            RuntimeError: if the installed gymnasium and pygame draw another frame than this class.
        """
        frame, info = super().reset(seed=seed, options=options)
        if not np.array_equal(frame, super()._render("state_pixels")):
            raise RuntimeError("this gymnasium or pygame draws another frame than FastCarRacing; use CarRacing instead")
        return frame, info

    def _create_track(self) -> bool:
        """Create a track, and note all polygons that CarRacing would draw: the field, the grass, the road."""
        if not super()._create_track():
            return False
        polygons: list[tuple[Any, Any]] = []
        recorder: Any = SimpleNamespace(
            surf=None,
            bg_color=self.bg_color,
            grass_color=self.grass_color,
            road_poly=self.road_poly,
            _draw_colored_polygon=lambda surface, polygon, color, *_, **__: polygons.append((polygon, color)),
        )
        CarRacing._render_road(recorder, 1.0, (0.0, 0.0), 0.0)
        self._polygons = [[Vector2(corner) for corner in polygon] for polygon, _ in polygons]
        self._corners = np.array([polygon for polygon, _ in polygons]).T.reshape(2, -1)  # (x and y, 4 * polygons)
        # The road's colours are taken from the env: those of a tile are overwritten in place when it is visited.
        self._colors = [color for _, color in polygons[: -len(self.road_poly)] + self.road_poly]
        return True

    def _render(self, mode: str) -> Any:
        """Draw the observation; leave the other modes to CarRacing, and gauges so high that they cover the world."""
        if mode != "state_pixels" or "t" not in vars(self) or not self._draw_panel():
            return super()._render(mode)
        self._draw_world()
        world = pygame.transform.smoothscale(self._world.subsurface(VIEW), (STATE_W, VIEW.height))
        panel = pygame.transform.smoothscale(self._panel.subsurface(PANEL), (STATE_W, PANEL.height))
        pixels2d(self._narrow)[:, : PANEL.top] = pixels2d(world)[:, ::-1]
        pixels2d(self._narrow)[:, PANEL.top :] = pixels2d(panel)
        return self._create_image_array(self._narrow, (STATE_W, STATE_H))

    def _draw_panel(self) -> bool:
        """Draw gauges and score; return False if a gauge is beyond its scale and leaves the panel."""
        self.surf = self._panel
        self._render_indicators(WINDOW_W, WINDOW_H)
        if any(pygame.transform.average_color(self._panel, pygame.Rect(0, PANEL.top - 1, WINDOW_W, 1))):
            self._panel.fill(0)
            return False
        score = f"{self.reward:04.0f}", True, (255, 255, 255), (0, 0, 0)
        try:
            text = self._font.render(*score)
        except pygame.error:  # pygame.quit(), which closing any env with a window calls, has closed the font
            self._open_font()
            text = self._font.render(*score)
        self._panel.blit(text, text.get_rect(center=(60, WINDOW_H - WINDOW_H * 2.5 / 40.0)))
        return True

    def _open_font(self) -> None:
        pygame.font.init()
        self._font = pygame.font.Font(pygame.font.get_default_font(), 42)

    def _draw_world(self) -> None:
        """Draw field, grass, road and car, as far as they reach the view."""
        self.surf = self._world
        hull = self.car.hull
        angle = -hull.angle
        zoom = 0.1 * SCALE * max(1 - self.t, 0) + ZOOM * SCALE * min(self.t, 1)
        scroll = Vector2(-hull.position[0] * zoom, -hull.position[1] * zoom).rotate_rad(angle)
        shift = Vector2(WINDOW_W / 2 + scroll.x, WINDOW_H / 4 + scroll.y)

        rotation = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corners = (rotation @ self._corners).reshape(2, 4, -1)
        (left, top), (right, bottom) = corners.min(axis=1), corners.max(axis=1)
        visible = (left < SEEN.right - shift.x) & (right > SEEN.left - shift.x)
        visible &= (top < SEEN.bottom - shift.y) & (bottom > SEEN.top - shift.y)

        # No pixel is farther from the car than the window is wide: if the field reaches that far, it fills the view.
        inside = max(abs(hull.position[0]), abs(hull.position[1])) + WINDOW_W / zoom < PLAYFIELD
        background = self.surf.map_rgb([int(c) for c in self.bg_color]) if inside else 0
        pixels2d(self.surf)[:, VIEW.top :] = background
        visible[0] = not inside

        for i in np.flatnonzero(visible).tolist():
            polygon = [corner.rotate_rad(angle) * zoom + shift for corner in self._polygons[i]]
            color = [int(c) for c in self._colors[i]]
            gfxdraw.aapolygon(self.surf, polygon, color)
            gfxdraw.filled_polygon(self.surf, polygon, color)
        self.car.draw(self.surf, zoom, shift, angle, False)
