"""Pictures of floors, walls and views, made from noise: linear RGB, (H, W, 3) float32.

Each painter takes a generator and a size in texels and in metres, so that planks, tiles and bricks
have their true size in the world.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np

Painter = Callable[[np.random.Generator, tuple[int, int], float], np.ndarray]
"""(rng, (height, width) texels, texels per metre) -> (H, W, 3) linear RGB."""


def linear(*rgb: float) -> np.ndarray:
    """An sRGB colour given as 0..255 -> linear light 0..1, (3,) float32."""
    return (np.array(rgb, dtype=np.float32) / 255.0) ** np.float32(2.2)


def pick(rng: np.random.Generator, colours: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """One colour of a palette (sRGB 0..255), varied a little -> linear (3,)."""
    base = np.array(colours[int(rng.integers(len(colours)))], dtype=float)
    varied = np.clip(base * rng.uniform(0.85, 1.12) + rng.normal(0, 6, 3), 3, 252)
    return linear(*varied)


def noise(
    rng: np.random.Generator, shape: tuple[int, int], cell: float, octaves: int = 3
) -> np.ndarray:
    """Smooth noise (H, W) float32 in about -1..1; `cell` is the largest feature in texels."""
    total: np.ndarray = np.zeros(shape, dtype=np.float32)
    for k in range(octaves):
        size = max(cell / 2**k, 1.0)
        grid = (int(shape[0] / size) + 3, int(shape[1] / size) + 3)
        coarse = rng.standard_normal(grid, dtype=np.float32)
        fine = cv2.resize(
            coarse,
            (int(np.ceil(grid[1] * size)), int(np.ceil(grid[0] * size))),
            interpolation=cv2.INTER_CUBIC,
        )
        total += 0.5**k * fine[: shape[0], : shape[1]]
    return np.clip(total * 0.6, -1.5, 1.5)


def _tint(colour: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """A colour (3,) made lighter and darker by (H, W) relative amounts."""
    shaded: np.ndarray = colour * np.maximum(1.0 + amount, 0.05)[..., None]
    return shaded.astype(np.float32)


def _grid(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    return rows, columns


WOODS = (
    (150, 105, 66),
    (186, 142, 96),
    (98, 66, 44),
    (205, 172, 130),
    (122, 84, 58),
    (166, 128, 98),
)
STONES = ((190, 184, 174), (132, 130, 128), (88, 86, 88), (214, 206, 192), (160, 142, 122))
PAINTS = (
    (236, 232, 222), (222, 226, 228), (200, 210, 214), (226, 210, 184), (170, 188, 196),
    (206, 190, 176), (150, 166, 150), (190, 150, 134), (120, 138, 158),
    (232, 220, 200), (98, 112, 122), (214, 200, 214),
)  # fmt: skip
CARPETS = (
    (126, 118, 110),
    (96, 104, 122),
    (150, 86, 74),
    (84, 102, 84),
    (168, 158, 140),
    (70, 70, 78),
)


def planks(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Floor boards, along the second axis."""
    rows, columns = _grid(shape)
    width, length = rng.uniform(0.08, 0.2) * scale, rng.uniform(0.8, 1.8) * scale
    row = np.floor(rows / width).astype(int)
    shift = rng.uniform(0, length, row.max() + 1).astype(np.float32)
    along = (columns + shift[row]) / length
    board = np.floor(along).astype(int)
    tone = rng.normal(0, 0.16, (row.max() + 1, board.max() + 2)).astype(np.float32)[row, board]
    grain = cv2.resize(noise(rng, (shape[0], max(shape[1] // 10, 4)), 5, 2), shape[::-1])
    gap = ((rows / width) % 1 < 0.05) | (along % 1 < 0.012 * scale / 50)
    return _tint(pick(rng, WOODS), tone + 0.13 * grain - 0.5 * gap)


def tiles(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Square tiles, plain or chequered, with joints."""
    rows, columns = _grid(shape)
    side = rng.uniform(0.2, 0.6) * scale
    i, j = np.floor(rows / side).astype(int), np.floor(columns / side).astype(int)
    tone = rng.normal(0, 0.05, (i.max() + 1, j.max() + 1)).astype(np.float32)[i, j]
    mottle = noise(rng, shape, 0.15 * scale, 3)
    first, second = pick(rng, STONES), pick(rng, STONES)
    if rng.random() < 0.5:
        second = first
    image = np.where(((i + j) % 2 == 0)[..., None], first, second)
    joint = np.minimum((rows / side) % 1, (columns / side) % 1) < 0.03
    shade = 1 + tone + 0.1 * mottle - 0.35 * joint
    return (image * np.maximum(shade, 0.05)[..., None]).astype(np.float32)


def carpet(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Carpet or lino: fine noise, sometimes with a large pattern."""
    image = _tint(
        pick(rng, CARPETS), 0.16 * noise(rng, shape, 2, 1) + 0.12 * noise(rng, shape, scale, 2)
    )
    if rng.random() < 0.4:
        rows, columns = _grid(shape)
        size = rng.uniform(0.3, 0.9) * scale
        figure = np.cos(2 * np.pi * rows / size) * np.cos(2 * np.pi * columns / size)
        image = np.where((figure > rng.uniform(0.1, 0.6))[..., None], 0.6 * image, image)
    return image.astype(np.float32)


def concrete(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Concrete or asphalt: mottled grey."""
    mottle = 0.22 * noise(rng, shape, 0.8 * scale, 4) + 0.1 * noise(rng, shape, 1.5, 1)
    return _tint(pick(rng, STONES), mottle)


def grass(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Grass, or earth and sand."""
    base = pick(rng, ((92, 116, 58), (112, 126, 70), (78, 98, 52), (152, 132, 96), (186, 168, 130)))
    mottle = 0.3 * noise(rng, shape, 1.6 * scale, 4) + 0.22 * noise(rng, shape, 2, 1)
    return _tint(base, mottle)


def paint(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """A painted wall, sometimes in two colours divided at hip height."""
    image = _tint(pick(rng, PAINTS), 0.04 * noise(rng, shape, 1.2 * scale, 4))
    if rng.random() < 0.3:
        low = shape[0] - int(rng.uniform(0.8, 1.3) * scale)
        image[max(low, 0) :] = _tint(pick(rng, PAINTS), 0.04 * noise(rng, shape, scale, 3))[
            max(low, 0) :
        ]
    return image


def wallpaper(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Stripes or a repeated motif."""
    rows, columns = _grid(shape)
    first = pick(rng, PAINTS)
    second = first * rng.uniform(0.55, 0.85) if rng.random() < 0.6 else pick(rng, PAINTS)
    size = rng.uniform(0.08, 0.35) * scale
    if rng.random() < 0.5:
        on = (columns / size) % 1 < rng.uniform(0.3, 0.6)
    else:
        stagger = np.floor(rows / size) % 2 * 0.5
        dy, dx = (rows / size) % 1 - 0.5, (columns / size + stagger) % 1 - 0.5
        on = dx**2 + dy**2 * rng.uniform(0.6, 2.0) < rng.uniform(0.03, 0.1)
    image = np.where(on[..., None], second, first)
    return (image * (1 + 0.04 * noise(rng, shape, scale, 3))[..., None]).astype(np.float32)


def bricks(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """A brick or block wall."""
    rows, columns = _grid(shape)
    high = rng.uniform(0.07, 0.2) * scale
    long = high * rng.uniform(2.2, 3.2)
    course = np.floor(rows / high).astype(int)
    along = columns / long + 0.5 * (course % 2)
    block = np.floor(along).astype(int)
    tone = rng.normal(0, 0.14, (course.max() + 1, block.max() + 1)).astype(np.float32)
    colour = pick(
        rng, ((150, 84, 66), (176, 118, 92), (196, 190, 180), (128, 122, 118), (206, 176, 140))
    )
    image = _tint(colour, tone[course, block] + 0.14 * noise(rng, shape, 0.1 * scale, 3))
    mortar = ((rows / high) % 1 < 0.1) | (along % 1 < 0.1 * high / long * 2)
    image[mortar] = pick(rng, STONES) * 0.8
    return image


def _rectangle(
    image: np.ndarray, x: float, y: float, w: float, h: float, colour: np.ndarray
) -> None:
    """Fill a rectangle given in texels, clipped to the picture. In place."""
    x0, y0 = max(int(x), 0), max(int(y), 0)
    image[y0 : max(int(y + h), y0), x0 : max(int(x + w), x0)] = colour


def _paste(image: np.ndarray, x: float, y: float, patch: np.ndarray) -> None:
    """Lay a picture on another at texel x, y, clipped to it. In place."""
    x0, y0 = int(x), int(y)
    left, top = max(-x0, 0), max(-y0, 0)
    room = image[y0 + top : max(y0 + patch.shape[0], 0), x0 + left : max(x0 + patch.shape[1], 0)]
    room[:] = patch[top : top + room.shape[0], left : left + room.shape[1]]


def furnish_wall(rng: np.random.Generator, image: np.ndarray, scale: float) -> None:
    """Paint what hangs on a wall: skirting, a door, windows, pictures, shelves. In place."""
    height, width = image.shape[:2]
    _rectangle(image, 0, height - 0.1 * scale, width, 0.1 * scale, pick(rng, PAINTS + WOODS))
    spot = rng.uniform(0, 1.0) * scale
    while spot < width - scale:
        kind = rng.choice(["door", "window", "picture", "board", "shelf", "none"])
        w = rng.uniform(0.7, 1.5) * scale
        if kind == "door":
            w = 0.9 * scale
            frame, leaf = pick(rng, WOODS + PAINTS), pick(rng, WOODS + PAINTS)
            _rectangle(image, spot, height - 2.1 * scale, w, 2.1 * scale, frame)
            _rectangle(
                image,
                spot + 0.07 * scale,
                height - 2.03 * scale,
                w - 0.14 * scale,
                2.03 * scale,
                leaf,
            )
            knob = (spot + w - 0.16 * scale, height - 1.05 * scale, 0.06 * scale, 0.06 * scale)
            _rectangle(image, *knob, linear(200, 190, 160))
        elif kind == "window":
            top = height - rng.uniform(2.1, 2.4) * scale
            h = rng.uniform(1.0, 1.4) * scale
            _rectangle(image, spot, top, w, h, linear(238, 238, 234))
            pane = sky(rng, (max(int(h - 0.12 * scale), 2), max(int(w - 0.12 * scale), 2)), scale)
            _paste(image, spot + 0.06 * scale, top + 0.06 * scale, 1.3 * pane)
            _rectangle(image, spot + w / 2, top, 0.05 * scale, h, linear(238, 238, 234))
        elif kind in ("picture", "board"):
            h = rng.uniform(0.4, 1.0) * scale
            top = height - rng.uniform(1.7, 2.1) * scale
            _rectangle(image, spot, top, w, h, pick(rng, WOODS + STONES))
            inside = (max(int(h - 0.08 * scale), 2), max(int(w - 0.08 * scale), 2))
            motif = abstract(rng, inside) if kind == "picture" else np.broadcast_to(
                linear(60, 78, 68) if rng.random() < 0.5 else linear(236, 236, 238), (*inside, 3)
            )  # fmt: skip
            _paste(image, spot + 0.04 * scale, top + 0.04 * scale, motif)
        elif kind == "shelf":
            for level in rng.uniform(0.5, 2.0, 3):
                y = height - level * scale
                _rectangle(image, spot, y, w, 0.04 * scale, pick(rng, WOODS))
                _books(rng, image, spot, y, w, scale)
        spot += w + rng.uniform(0.2, 1.2) * scale


def _books(
    rng: np.random.Generator, image: np.ndarray, x: float, y: float, w: float, scale: float
) -> None:
    """A row of book spines standing on the line y. In place."""
    end = x + w
    while x < end - 0.08 * scale:
        wide, high = rng.uniform(0.03, 0.08) * scale, rng.uniform(0.16, 0.3) * scale
        if rng.random() < 0.85:
            _rectangle(image, x, y - high, wide, high, linear(*rng.uniform(20, 210, 3)))
        x += wide


def abstract(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """A poster: blurred patches of colour and a few figures."""
    palette = np.stack([linear(*rng.uniform(10, 240, 3)) for _ in range(4)])
    field = noise(rng, shape, max(shape) / 2.5, 2)
    image = palette[np.clip(((field + 1) * 2).astype(int), 0, 3)].astype(np.float32)
    for _ in range(rng.integers(0, 4)):
        centre = (int(rng.uniform(0, shape[1])), int(rng.uniform(0, shape[0])))
        colour = tuple(float(c) for c in linear(*rng.uniform(10, 250, 3)))
        cv2.circle(image, centre, int(rng.uniform(0.05, 0.3) * max(shape)), colour, -1)
    return image


def sky(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """A sky that is paler towards the bottom, with clouds."""
    high = pick(rng, ((96, 142, 206), (150, 176, 206), (186, 192, 200), (128, 160, 214)))
    low = 0.5 * high + 0.5 * linear(228, 232, 236)
    up = np.linspace(1, 0, shape[0], dtype=np.float32)[:, None, None]
    image = up * high + (1 - up) * low
    cloud = np.clip(noise(rng, shape, max(shape) / 3, 4) - rng.uniform(-0.2, 0.8), 0, 1)[..., None]
    return (image * (1 - cloud) + cloud * linear(240, 240, 242)).astype(np.float32)


def skyline(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> np.ndarray:
    """A view to the horizon: sky, then hills, trees or houses standing on the bottom edge."""
    image = sky(rng, shape, scale)
    height, width = shape
    ridge = height - (0.12 + 0.06 * noise(rng, (1, width), width / 4, 4)[0]) * height
    rows: np.ndarray = np.arange(height, dtype=np.float32)[:, None]
    hill = pick(rng, ((96, 116, 112), (112, 124, 104), (128, 138, 150)))
    image = np.where((rows > ridge)[..., None], hill, image)
    if rng.random() < 0.55:
        spot = 0.0
        while spot < width:
            w, h = rng.uniform(4, 12) * scale, rng.uniform(3, 12) * scale
            wall = bricks if rng.random() < 0.5 else paint
            house = wall(rng, (max(int(h), 2), max(int(w), 2)), scale) * 0.85
            _windows(rng, house, scale)
            _paste(image, spot, height - house.shape[0], house)
            spot += w + (rng.uniform(0, 8) * scale if rng.random() < 0.5 else 0)
    leaves = noise(rng, shape, 1.5 * scale, 4)
    crown = noise(rng, (1, width), 3.5 * scale, 3)[0]
    top = height - (rng.uniform(1.0, 4.5) + 3.0 * crown) * scale
    tree = _tint(
        pick(rng, ((66, 88, 48), (84, 102, 60), (108, 104, 60), (54, 74, 50))), 0.5 * leaves
    )
    return np.where((rows + 0.5 * scale * leaves > top)[..., None], tree, image).astype(np.float32)


def _windows(rng: np.random.Generator, house: np.ndarray, scale: float) -> None:
    """Rows of windows on a house front. In place."""
    glass = linear(*rng.uniform(40, 110, 3))
    for y in np.arange(0.8 * scale, house.shape[0] - 1.4 * scale, 2.6 * scale):
        for x in np.arange(0.8 * scale, house.shape[1] - 1.2 * scale, 2.2 * scale):
            _rectangle(house, x, y, 1.0 * scale, 1.3 * scale, glass * rng.uniform(0.6, 1.6))


FLOORS: tuple[Painter, ...] = (planks, planks, tiles, carpet, concrete)
GROUNDS: tuple[Painter, ...] = (grass, grass, concrete, tiles)
WALLS: tuple[Painter, ...] = (paint, paint, wallpaper, bricks)


def sample(
    picture: np.ndarray,
    column: np.ndarray,
    row: np.ndarray,
    border: int,
    outside: tuple[float, ...] = (0.0,),
) -> np.ndarray:
    """Bilinear look-ups (n, C) in a picture (H, W, C) at texel coordinates (n,)."""
    count = len(column)
    width = 256  # OpenCV's maps must be narrower than 32768
    height = -(-count // width)
    maps: np.ndarray = np.zeros((2, height * width), dtype=np.float32)
    maps[0, :count], maps[1, :count] = column, row
    x, y = maps.reshape(2, height, width)
    found = cv2.remap(picture, x, y, cv2.INTER_LINEAR, borderMode=border, borderValue=outside)
    return found.reshape(-1, picture.shape[2])[:count]
