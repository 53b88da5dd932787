"""Problems, their compulsory traffic, and the buckets they are cached under."""

from __future__ import annotations

import dataclasses

import pytest

from latune.problem import Bucket, Problem, nearest_power_of_two, next_power_of_two, quarter_above


def problem(**changes: object) -> Problem:
    fields = {"direction": "fwd", "decay": "constant", "dtype": "bf16", "batch": 4, "num_heads": 32, "seqlen": 8192}
    return Problem(**{**fields, "head_dim_k": 128, "head_dim_v": 128, **changes})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("direction", "sideways"),
        ("decay", "vector"),
        ("dtype", "fp8"),
        ("batch", 0),
        ("num_heads", -1),
        ("seqlen", 0),
        ("head_dim_k", 0),
        ("head_dim_v", 0),
    ],
)
def test_bad_fields_are_named_with_what_came(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{name}.*got '?{value}"):
        problem(**{name: value})


def test_a_problem_is_frozen_and_hashable() -> None:
    assert {problem(), problem()} == {problem()}
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem().seqlen = 1


@pytest.mark.parametrize(
    ("changes", "expected_bytes"),
    [
        ({}, 4 * 268_435_456),
        ({"direction": "bwd"}, 7 * 268_435_456),
        ({"dtype": "fp32"}, 8 * 268_435_456),
        ({"head_dim_v": 64}, 3 * 268_435_456),
        ({"direction": "bwd", "head_dim_v": 64}, 5.5 * 268_435_456),
    ],
)
def test_compulsory_bytes_count_each_tensor_once(changes: dict[str, object], expected_bytes: float) -> None:
    assert problem(**changes).compulsory_bytes == expected_bytes


def test_compulsory_bytes_count_the_states_in_fp32() -> None:
    state_bytes = 4 * 32 * 128 * 128 * 4

    def extra(**flags: object) -> int:
        return problem(**flags).compulsory_bytes - problem(direction=flags["direction"]).compulsory_bytes

    assert extra(direction="fwd", has_initial_state=True) == state_bytes
    assert extra(direction="fwd", has_initial_state=True, needs_final_state=True) == 2 * state_bytes
    assert extra(direction="bwd", has_initial_state=True) == 2 * state_bytes  # read it, write its gradient
    assert extra(direction="bwd", needs_final_state=True) == state_bytes


@pytest.mark.parametrize(("value", "power"), [(1, 1), (3, 4), (5, 4), (1000, 1024), (1100, 1024), (1500, 2048), (8192, 8192)])
def test_nearest_power_of_two(value: int, power: int) -> None:
    assert nearest_power_of_two(value) == power


@pytest.mark.parametrize(
    ("value", "step"),
    [
        (1, 1),
        (2, 2),
        (3, 3),
        (5, 5),
        (7, 7),
        (9, 10),
        (28, 28),
        (29, 32),
        (36, 40),
        (40, 40),
        (42, 48),
        (65, 64),
        (67, 80),
        (132, 128),
        (133, 160),
        (512, 512),
    ],
)
def test_quarter_above(value: int, step: int) -> None:
    assert quarter_above(value) == step


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6, 7, 8, 10, 64, 80, 96, 112, 128, 192, 512])
@pytest.mark.parametrize("seqlen", [1, 2, 1024, 8192, 131072])
def test_the_smallest_problem_of_a_bucket_is_just_inside(step: int, seqlen: int) -> None:
    bucket = problem(batch=1, num_heads=step, seqlen=seqlen).bucket()
    smallest = bucket.smallest_problem()
    assert smallest.bucket() == bucket
    assert smallest.num_heads == 1 or dataclasses.replace(smallest, num_heads=smallest.num_heads - 1).bucket() != bucket
    assert smallest.seqlen == 1 or dataclasses.replace(smallest, seqlen=smallest.seqlen - 1).bucket() != bucket


@pytest.mark.parametrize(("value", "power"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128)])
def test_next_power_of_two(value: int, power: int) -> None:
    assert next_power_of_two(value) == power


def test_bucket_joins_batch_with_heads_and_rounds_the_length() -> None:
    bucket = problem(batch=3, num_heads=40, seqlen=1000).bucket()
    assert (bucket.batch_heads, bucket.seqlen) == (128, 1024)
    assert bucket == problem(batch=1, num_heads=128, seqlen=1100).bucket()
    assert problem(batch=5, num_heads=32).bucket().batch_heads == 160


@pytest.mark.parametrize(
    "change",
    [
        {"direction": "bwd"},
        {"decay": "none"},
        {"dtype": "fp16"},
        {"head_dim_k": 96},
        {"head_dim_v": 96},
        {"has_initial_state": True},
        {"needs_final_state": True},
        {"varlen": True},
    ],
)
def test_all_else_is_exact_in_a_bucket(change: dict[str, object]) -> None:
    assert problem(**change).bucket() != problem().bucket()


def test_a_bucket_in_json_has_the_documented_keys() -> None:
    dims = {"op", "direction", "decay", "dtype", "batch_heads", "seqlen", "head_dim_k", "head_dim_v"}
    bucket = problem(needs_final_state=True).bucket()
    assert set(bucket.to_json()) == dims | {"has_initial_state", "needs_final_state", "varlen"}
    assert Bucket(**bucket.to_json()) == bucket


def test_a_buckets_problem_lies_in_the_bucket() -> None:
    bucket = problem(batch=3, num_heads=5, seqlen=300, has_initial_state=True).bucket()
    assert bucket.problem().bucket() == bucket


def test_text_names_shape_dtype_and_flags() -> None:
    assert str(problem()) == "fwd 4,32,8192,128,128 bf16 decay=constant"
    bucket = problem(needs_final_state=True).bucket()
    assert str(bucket) == "fwd bh128 n8192 d128 e128 bf16 decay=constant needs_final_state"
