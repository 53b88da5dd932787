from __future__ import annotations

import pytest

from latune.cli.presets import read_presets
from latune.errors import SpaceError


def test_the_shipped_presets():
    presets = read_presets()
    models = {"minimax-01", "ling-2.5", "transnormer-7b", "retnet", "long-context"}
    assert {"default", "grid", "grid-core", "off-grid", *models} == set(presets)
    buckets = {name: _buckets(presets[name].shapes) for name in ("grid", "off-grid")}
    assert len(buckets["off-grid"]) >= 20 and buckets["off-grid"] <= buckets["grid"]
    assert set(presets["grid-core"].shapes) < set(presets["grid"].shapes) and len(presets["grid"].shapes) == 25 * 9 * 7
    assert len(_buckets(presets["default"].shapes)) == 8
    assert {(shape.num_heads, shape.head_dim_k) for shape in presets["minimax-01"].shapes} == {(64, 128)}


def _buckets(shapes):
    return {shape.problem(direction="fwd", decay="constant", dtype="bf16").bucket() for shape in shapes}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1,2,3,16", "expected presets by name, got list"),
        ("", "expected presets by name, got NoneType"),
        ("a: [", "expected a YAML file of presets"),
        ("a: {shapes: [1,2,3,16]}", "a: expected the keys about and shapes, or about and product, got shapes"),
        ("a: 1,2,3,16", "a: expected the keys about and shapes, or about and product, got '1,2,3,16'"),
        ("a: {about: x, shapes: [], more: 1}", "a: expected the keys about and shapes, .* got about, shapes, more"),
        ("a: {about: x, product: [1]}", "a.product: expected lists for batch_heads, seqlen, head_dims, got"),
        ("a: {about: x, product: {batch_heads: 1, seqlen: [2], head_dims: [16]}}", "a.product: expected lists for"),
        ("a: {about: x, product: {batch_heads: [1], seqlen: [2], head_dims: [17]}}", "a.product: expected head dims"),
        ("a: {about: '', shapes: ['1,2,3,16']}", "a.about: expected a sentence"),
        ("a: {about: x, shapes: []}", "a.shapes: expected a list of shapes"),
        ("a: {about: x, shapes: '1,2,3,16'}", "a.shapes: expected a list of shapes"),
        ("a: {about: x, shapes: ['1,2,3,16', '1,2']}", r"a.shapes\[1\]: expected B,H,N,D .* got '1,2'"),
    ],
)
def test_a_mistake_is_named_by_file_and_key(tmp_path, text, message):
    path = tmp_path / "presets.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SpaceError, match=message) as caught:
        read_presets(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_a_space_error(tmp_path):
    with pytest.raises(SpaceError, match="No such file"):
        read_presets(tmp_path / "presets.yaml")
