"""The drawing of synthetic faces: random numbers, traits and nuisances, geometry, light."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from recordio_tools.sources.faces import camera, curves, head, identity, nuisance, paint
from recordio_tools.sources.faces.chance import GOLDEN, bell, mix, uniforms
from recordio_tools.sources.faces.identity import TRAITS, draw_identities
from recordio_tools.sources.faces.nuisance import NUISANCES, draw_shots

PEOPLE = 12


def plain_shots(count: int) -> np.ndarray:
    """A studio: no pose, no expression, no noise."""
    shots = np.zeros(count, nuisance.DTYPE).view(np.recarray)
    shots.scale, shots.brightness, shots.contrast, shots.quality = 1, 1, 1, 95
    shots.backdrop_light, shots.clothes_light = 0.6, 0.4
    return shots


def arrays(pictures) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures])


# Random numbers


def test_mix_gives_the_published_sequence_of_splitmix64():
    states = np.arange(1, 4, dtype=np.uint64) * GOLDEN
    assert [hex(value) for value in mix(states)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


def slow_uniforms(count, seed, stream, *keys):
    def hashed(z):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    state = seed
    for key in (stream, *keys):
        state = hashed(((state ^ key) + 0x9E3779B97F4A7C15) % 2**64)
    return [(hashed((state + k * 0x9E3779B97F4A7C15) % 2**64) >> 11) / 2**53 for k in range(1, count + 1)]


@given(st.integers(0, 2**63), st.integers(0, 9), st.integers(0, 2**40), st.integers(0, 2**40))
def test_uniforms_against_whole_numbers(seed, stream, first, second):
    drawn = uniforms(5, seed, stream, np.array([7, first]), np.array([7, second]))
    assert drawn[1].tolist() == slow_uniforms(5, seed, stream, first, second)


def test_uniforms_are_uniform_and_uncorrelated():
    drawn = uniforms(4, 0, 1, np.arange(20_000))
    assert np.allclose(drawn.mean(0), 0.5, atol=0.01)
    assert np.allclose(drawn.var(0), 1 / 12, atol=0.002)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.03


def test_bell_inverts_the_triangular_law():
    for u in (0.0, 0.1, 0.5, 0.8):
        value = float(2 * bell(np.array([u]))[0] - u)  # the triangular half
        law = 2 * value**2 if value < 0.5 else 1 - 2 * (1 - value) ** 2
        assert law == pytest.approx(u, abs=1e-12)


# Traits and nuisances


def test_there_are_enough_of_both_and_their_names_are_distinct():
    assert len(set(identity.NAMES)) == len(TRAITS) >= 30
    assert len(set(nuisance.NAMES)) == len(NUISANCES) >= 8


def test_traits_stay_in_their_ranges_belong_to_the_identity_and_differ_between_identities():
    face = draw_identities(3, np.repeat(np.arange(500), 2))
    assert (face[::2] == face[1::2]).all()
    assert len(np.unique(face)) == 500
    for trait in TRAITS:
        for sex, (low, high) in (("male", trait.male), ("female", trait.female)):
            values = face[trait.name][face.male == (sex == "male")]
            assert low <= values.min() <= values.max() <= high
            if low < high:
                assert np.ptp(values) > 0.6 * (high - low)


def test_the_people_of_a_seed_never_change():
    # A digest of what was drawn when sets were first written: a change here changes everybody's sets.
    drawn = draw_identities(0, np.arange(100)).tobytes() + draw_shots(0, np.arange(100), np.arange(100)).tobytes()
    assert hashlib.sha256(drawn).hexdigest() == "de0b0305eb6c232714cbd35064129f17096bc93d622571a2b059f5432afa17b0"


def test_nuisances_stay_in_their_ranges_and_come_as_often_as_stated():
    count = 20_000
    shots = draw_shots(3, np.arange(count) % 50, np.arange(count) // 50, grey=0.2)
    for n in NUISANCES:
        values = shots[n.name]
        if n.name == "grey":
            assert set(values) == {0.0, 1.0}
            assert values.mean() == pytest.approx(0.2, abs=0.015)
            continue
        there = values[values != 0]
        assert n.low <= there.min() <= there.max() <= n.high
        assert len(there) / count == pytest.approx(n.chance, abs=0.015)


@pytest.mark.parametrize("trait", TRAITS, ids=lambda trait: trait.name)
def test_every_trait_shows(trait):
    people = draw_identities(0, np.arange(PEOPLE))
    low, high = people.copy(), people.copy()
    bounds = np.where(people.male[:, None] > 0, trait.male, trait.female)
    low[trait.name], high[trait.name] = bounds.T
    shots = plain_shots(PEOPLE)
    shots.yaw = 0.25  # depth shows only from the side
    one, other = (arrays(paint.render(face, shots, 64)) for face in (low, high))
    assert (one != other).any(axis=(1, 2, 3)).sum() >= 2


@pytest.mark.parametrize("changed", NUISANCES, ids=lambda changed: changed.name)
def test_every_nuisance_shows(changed):
    people = draw_identities(0, np.arange(4))
    shots = draw_shots(0, np.arange(4), np.zeros(4, int), grey=0.0)
    shots.glasses, shots.sunglasses, shots.mask, shots.eyelids = 0, 0, 0, 0
    shots.noise, shots.light_strength, shots.backdrop_pattern = 2.0, 0.5, 0.6
    low, high = shots.copy(), shots.copy()
    low[changed.name] = 0 if changed.chance < 1 else changed.low
    high[changed.name] = changed.high / 2 if changed.name.endswith("hue") else changed.high  # a hue of 1 is one of 0
    files = [
        [camera.encode(p, round(q)) for p, q in zip(paint.render(people, s, 64), s.quality, strict=True)]
        for s in (low, high)
    ]
    assert all(one != other for one, other in zip(*files, strict=True))


def test_pictures_do_not_depend_on_their_batch():
    numbers = np.arange(40)
    face, shots = draw_identities(0, numbers // 4), draw_shots(0, numbers // 4, numbers % 4)
    together = arrays(paint.render(face, shots, 48))
    apart = np.concatenate([arrays(paint.render(face[k : k + 1], shots[k : k + 1], 48)) for k in numbers])
    assert (together == apart).all()


def nearest_is_own(pictures: np.ndarray, images: int) -> float:
    """1-shot rank-1 of raw grey pixels: mean-removed cosine, image 0 of each identity is the gallery."""
    flat = pictures.mean(axis=3).reshape(len(pictures), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    flat = flat.reshape(-1, images, flat.shape[1])
    best = np.einsum("imd,gd->img", flat[:, 1:], flat[:, 0]).argmax(axis=2)
    return float((best == np.arange(len(flat))[:, None]).mean())


def test_identity_is_told_by_pixels_in_the_studio_and_not_in_the_wild():
    who, which = np.repeat(np.arange(60), 4), np.tile(np.arange(4), 60)
    face, wild = draw_identities(1, who), draw_shots(1, who, which)
    studio = plain_shots(len(who))
    for name in ("mouth_open", "smile", "gaze_x", "brow_raise", "noise"):
        studio[name] = wild[name]
    in_studio, in_the_wild = (arrays(p.reduce(2) for p in paint.render(face, s, 64)) for s in (studio, wild))
    assert nearest_is_own(in_studio, 4) > 0.9
    assert nearest_is_own(in_the_wild, 4) < 0.3


# Geometry


def test_spline_passes_through_its_points_and_keeps_lines_straight():
    points = np.random.default_rng(0).normal(size=(2, 5, 3))
    assert np.allclose(curves.spline(points, 4)[:, ::4], points)
    assert np.allclose(curves.spline(points, 3, closed=False)[:, ::3], points)
    line = np.linspace(0, 1, 6)[None, :, None] * np.array([1.0, 2.0, 3.0])
    middle = curves.spline(line, 4, closed=False)[:, 4:-4]  # the ends ease in, the rest is even
    assert np.allclose(np.diff(middle, axis=1), np.array([1.0, 2.0, 3.0]) / 20)


def test_arc_interpolates_a_polyline():
    ruler = np.arange(11.0)[None, :, None] * np.ones((2, 1, 3))
    places = curves.arc(ruler, np.array([0.0, 0.25]), np.array([1.0, 0.75]), 3)[..., 0]
    assert places.tolist() == [[0, 5, 10], [2.5, 5, 7.5]]


def test_ribbon_is_as_wide_as_asked_in_the_middle_and_pointed_at_the_ends():
    path = np.zeros((1, 5, 3))
    path[0, :, 0] = np.arange(5)
    shape = curves.ribbon(path, 0.6)[0]
    assert shape.shape == (8, 3)
    assert np.allclose(shape[[0, 4], :2], [[0, 0], [4, 0]])
    assert np.allclose(sorted([shape[2, 1], shape[6, 1]]), [-0.3, 0.3])


def slow_place(point, rigid, turn, shot, size):
    """Where a point falls, by hand."""
    x, y, z = point

    def rolled(x, y, angle):
        y -= 1.35
        return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle) + 1.35

    yaw, pitch, roll = float(shot.yaw), float(shot.pitch), float(shot.roll)
    head_x = x * (1 - turn + turn * math.cos(yaw)) + z * math.sin(yaw)
    head_y = y * (1 - turn + turn * math.cos(pitch)) - z * math.sin(pitch)
    head_x, head_y = rolled(head_x, head_y, roll)
    body_x, body_y = rolled(x, y, 0.35 * roll)
    x, y = rigid * head_x + (1 - rigid) * body_x, rigid * head_y + (1 - rigid) * body_y
    unit = 24 / 112 * size * float(shot.scale)
    return size / 2 + unit * (x + float(shot.shift_x)), size / 2 + unit * (y + float(shot.shift_y))


def test_project_against_trigonometry_by_hand():
    random = np.random.default_rng(0)
    points, rigid, turn = random.normal(size=(3, 7, 3)), random.random(7), random.random(7)
    shots = draw_shots(0, np.arange(3), np.arange(3))
    places = paint.project(points, rigid, turn, shots, 112)
    for b in range(3):
        for k in range(7):
            assert np.allclose(places[b, k], slow_place(points[b, k], rigid[k], turn[k], shots[b], 112), atol=1e-9)


def test_turning_the_head_moves_the_nose_further_than_the_eyes_and_leaves_the_shoulders():
    shots = plain_shots(2)
    shots.yaw[1] = 0.4
    nose, eye, shoulder = (0.0, 0.6, 1.1), (0.42, 0.0, 0.7), (1.9, 2.3, 0.0)
    points = np.tile(np.array([nose, eye, shoulder]), (2, 1, 1))
    places = paint.project(points, np.array([1.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0]), shots, 112)
    moved = places[1, :, 0] - places[0, :, 0]
    assert moved[0] > moved[1] > 0
    assert moved[2] == 0


# Light and film


def test_light_against_its_formula_point_by_point():
    shots = draw_shots(0, np.arange(2), np.arange(2))
    sitting = head.sit(draw_identities(0, np.arange(2)), shots)
    centre = np.array([[30.0, 34.0], [35.0, 28.0]])
    photographer = camera.Photographer(sitting, centre, 64)
    shade = Image.new("L", (32, 32), 100)
    for b in range(2):
        light = np.asarray(photographer._light(b, shade))
        shot, radius = shots[b], shots.scale[b] * 64 * 24 / 112
        for row, column in ((0, 0), (31, 5), (16, 16), (9, 27)):
            u = np.clip((2 * column + 1 - centre[b, 0]) / (1.25 * radius), -1.5, 1.5)
            v = np.clip((2 * row + 1 - centre[b, 1]) / (1.65 * radius), -1.5, 1.5)
            front = 1 / (1 + 0.55 * (u**2 + v**2))
            sideways = 0.75 * (shot.light_x * u + shot.light_y * v)
            factor = np.clip(1 + shot.light_strength * (sideways + 0.9 * (front - 0.72)), 0.2, 1.6)
            assert abs(light[row, column] - min(100 * factor, 255)) <= 1.001


def test_film_grain_has_the_strength_of_the_shot():
    shots = plain_shots(1)
    shots.noise, shots.grain, shots.backdrop_light = 8.0, 0.37, 0.5
    clean = plain_shots(1)
    clean.grain, clean.backdrop_light = 0.37, 0.5
    face = draw_identities(0, np.array([4]))
    noisy, quiet = (arrays(paint.render(face, s, 112))[0].astype(float) for s in (shots, clean))
    middle = (quiet > 40) & (quiet < 215)  # where nothing is cut off
    assert (noisy - quiet)[middle].std() == pytest.approx(8.0, rel=0.05)


def test_light_pictures_keep_their_contrast_about_the_middle():
    shots = plain_shots(2)
    shots.contrast = [1.0, 0.5]
    face = draw_identities(0, np.array([4, 4]))
    full, half = arrays(paint.render(face, shots, 64)).astype(float)
    inside = (full > 0) & (full < 255)
    assert np.abs(half - (camera.MIDDLE + 0.5 * (full - camera.MIDDLE)))[inside].max() <= 1.0
