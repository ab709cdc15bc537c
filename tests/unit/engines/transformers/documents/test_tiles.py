"""A picture that is looked at in tiles is seen as if at once."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from engines.transformers.documents.text_detection import in_tiles


@pytest.mark.parametrize(
    "size", [(32, 32), (960, 960), (992, 480), (256, 2304), (1728, 2272), (4000, 32), (1120, 1152)]
)
def test_every_pixel_comes_from_one_tile_and_not_from_its_edge(size: tuple[int, int]) -> None:
    columns, rows = size
    numbers = np.arange(columns * rows, dtype=np.uint32).reshape(rows, columns)
    picture = Image.fromarray(numbers.view(np.uint8).reshape(rows, columns, 4), "RGBA")
    tiles: list[tuple[int, int]] = []

    def look(tile: Image.Image) -> NDArray[np.float32]:
        tiles.append(tile.size)
        seen = np.asarray(tile).view(np.uint32)[:, :, 0].astype(np.float32)
        edges = np.full(seen.shape, np.nan, np.float32)
        top, left = seen[0, 0] // columns, seen[0, 0] % columns
        up, before = (0 if at == 0 else 64 for at in (top, left))
        down = seen.shape[0] - (0 if top + seen.shape[0] == rows else 64)
        after = seen.shape[1] - (0 if left + seen.shape[1] == columns else 64)
        edges[up:down, before:after] = seen[up:down, before:after]
        return edges

    np.testing.assert_array_equal(in_tiles(picture, look), numbers.astype(np.float32))
    assert all(side % 32 == 0 and side <= 960 for tile in tiles for side in tile)
    assert sum(width * height for width, height in tiles) <= max(2 * columns * rows, 960 * 960)
