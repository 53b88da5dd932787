"""The contest on the CPU: everything but the GPU's own clock."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from latune.cli.accuracy import relative_rms, worst_head_rms
from latune.cli.benchmark.case import LINEAR, SOFTMAX, make_case, softmax_reference
from latune.cli.benchmark.contest import contest
from latune.cli.benchmark.hosttime import HostTime
from latune.cli.benchmark.peers import PEERS, Peer
from latune.cli.benchmark.report import Report
from latune.cli.benchmark.stopwatch import Timer
from latune.cli.benchmark.tables import print_report
from latune.ops import reference
from latune.problem import Problem

FWD = Problem(direction="fwd", decay="constant", dtype="fp32", batch=2, num_heads=3, seqlen=65, head_dim_k=16, head_dim_v=32)
BWD = replace(FWD, direction="bwd")
ROUNDS = 8
SETS = 2


class FakeStopwatch:
    """Gives out times of its own; runs the calls all the same."""

    def __init__(self) -> None:
        self.released = 0
        self._ms = itertools.count(1)

    def stream(self):
        return contextlib.nullcontext()

    def input_sets(self, input_bytes) -> int:
        return SETS

    def timer(self, calls) -> Timer:
        for call in calls:
            call()
        ms = float(next(self._ms))
        return Timer(sample=lambda count: [ms * 1.01, ms, ms * 0.99][:count], calls=len(calls), replayed=True)

    def unit_us(self) -> float:
        return 10.0

    def host(self, call, unit_us) -> HostTime:
        call()
        return HostTime(unit_us=unit_us, wall_us=250.0, gpu_us=40.0)

    def extra_bytes(self, call):
        outputs = call()
        return outputs, 3 * sum(output.numel() * output.element_size() for output in outputs)

    def release(self) -> None:
        self.released += 1


def _peer(name, load, layout="BHND"):
    return Peer(name=name, function=LINEAR, layout=layout, load=load, package="torch")


def _right(case):
    return lambda q, k, v: reference.chunked(q, k, v, case.slopes)[0]


def _token_major(case):
    def operate(q, k, v):
        assert q.is_contiguous() and q.shape[1] == FWD.seqlen
        return _right(case)(*(tensor.transpose(1, 2) for tensor in (q, k, v))).transpose(1, 2)

    return operate


def _missing(_):
    raise ModuleNotFoundError("No module named 'missing'")


def _out_of_memory(_):
    def operate(q, k, v):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB")

    return operate


def _without_a_head(o):
    return o * torch.tensor([1.0, 0.0, 1.0])[:, None, None]


GOOD = _peer("right", _right)


@pytest.fixture(scope="module")
def case():
    return make_case(FWD, torch.device("cpu"))


@pytest.mark.parametrize("problem", [FWD, BWD])
def test_a_right_peer_is_timed_in_its_own_layout(case, problem):
    base, other = contest(problem, case, FakeStopwatch(), peers=[GOOD, _peer("other", _token_major, "BNHD")], rounds=ROUNDS)
    assert (base.verdict, other.verdict) == ("ok", "ok")
    assert 0 < base.error < 1e-5 and 0 < other.error < 1e-5
    assert base.timing.median_ms == 1.0 and other.timing.median_ms == 2.0 and other.timing.samples == 3 * ROUNDS
    assert base.ratio == (1.0, 1.0, 1.0) and other.ratio == (2.0, 2.0, 2.0)
    widths = {"fwd": 32, "bwd": 16 + 16 + 32}[problem.direction]
    assert base.output_bytes == 2 * 3 * 65 * widths * 4 and base.extra_bytes == 3 * base.output_bytes
    assert base.step_bytes == (None if problem == FWD else base.extra_bytes)


@pytest.mark.parametrize("problem", [FWD, BWD])
@pytest.mark.parametrize("spoil", [lambda o: 1.1 * o, lambda o: o * torch.nan, lambda o: o.roll(1, 2), _without_a_head])
def test_a_wrong_peer_is_shown_and_not_timed(case, problem, spoil):
    wrong = _peer("wrong", lambda case: lambda q, k, v: spoil(_right(case)(q, k, v)))
    results = contest(problem, case, FakeStopwatch(), peers=[GOOD, wrong], rounds=ROUNDS)
    assert [(result.peer.name, result.verdict) for result in results] == [("right", "ok"), ("wrong", "wrong")]
    assert results[1].timing is None and results[1].ratio is None and not results[1].error <= 1e-2
    json.dumps(results[1].to_json(), allow_nan=False)


@pytest.mark.parametrize(("load", "detail"), [(_missing, "No module named 'missing'"), (_out_of_memory, "CUDA out of memory.")])
def test_an_unavailable_peer_is_shown_with_its_reason(case, load, detail):
    stopwatch = FakeStopwatch()
    results = contest(FWD, case, stopwatch, peers=[_peer("absent", load), GOOD], rounds=ROUNDS)
    assert results[0].verdict == "unavailable" and results[0].detail.endswith(detail) and results[0].timing is None
    assert results[1].verdict == "ok" and results[1].ratio is None
    assert stopwatch.released == 1


def test_a_peer_of_a_hundred_times_the_time_draws_few_samples_and_has_no_host_time(case):
    class Slow(FakeStopwatch):
        def timer(self, calls) -> Timer:
            timer = super().timer(calls)
            return replace(timer, sample=lambda count: [100 * ms for ms in timer.sample(count)])

    base, slow = contest(FWD, case, Slow(), peers=[GOOD, replace(GOOD, name="slow")], rounds=ROUNDS)
    assert base.timing.median_ms == 100.0 and slow.timing.median_ms == 200.0
    assert (base.timing.samples, slow.timing.samples) == (6, 3)
    assert base.host is None and slow.host is None


def test_a_peer_that_fails_while_it_is_timed_spoils_no_one_elses_times(case):
    class Failing(FakeStopwatch):
        def timer(self, calls) -> Timer:
            timer = super().timer(calls)
            return timer if timer.sample(1)[0] < 2 else replace(timer, sample=self._fail)

        def _fail(self, count):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    results = contest(FWD, case, Failing(), peers=[GOOD, _peer("late", _right)], rounds=ROUNDS)
    assert [result.verdict for result in results] == ["ok", "unavailable"]
    assert results[0].timing.samples == 3 * ROUNDS and "out of memory" in results[1].detail


@pytest.mark.parametrize("problem", [FWD, BWD])
@pytest.mark.parametrize("decay", ["constant", "none"])
def test_the_shipped_peers_agree_with_their_references(problem, decay):
    problem = replace(problem, decay=decay)
    results = {
        result.peer.name: result for result in contest(problem, make_case(problem, torch.device("cpu")), FakeStopwatch())
    }
    assert list(results) == [peer.name for peer in PEERS]
    assert not [name for name, result in results.items() if result.verdict == "wrong"]
    for name in ("latune", "PyTorch chunked", "PyTorch quadratic"):
        assert results[name].verdict == "ok", results[name].detail


def test_the_softmax_reference_is_attention():
    generator = torch.Generator().manual_seed(0)
    q, k, v, do = (torch.randn(1, 37, width, dtype=torch.float64, generator=generator) for width in (16, 16, 24, 24))
    leaves = [tensor.requires_grad_() for tensor in (q, k, v)]
    o = scaled_dot_product_attention(*leaves, is_causal=True)
    expected = (o, *torch.autograd.grad(o, leaves, do))
    for rows in (10, 37, 1024):
        found = softmax_reference(*(tensor.detach()[0] for tensor in (q, k, v, do)), rows=rows)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other[0].detach())


def test_relative_rms():
    ones = torch.ones(2, 3)
    assert relative_rms(ones, ones) == 0
    assert relative_rms(1.5 * ones, ones) == pytest.approx(0.5)
    assert relative_rms(ones, 0 * ones) == 1 and relative_rms(0 * ones, 0 * ones) == 0


def test_a_nan_makes_the_error_nan():
    assert math.isnan(relative_rms(torch.tensor([[1.0, torch.nan]]), torch.ones(1, 2)))
    assert math.isnan(worst_head_rms(torch.tensor([1.0, torch.nan, 2.0]).reshape(1, 3, 1, 1), torch.ones(1, 3, 1, 1)))


def test_a_small_head_counts_as_any_other():
    expected = torch.tensor([100.0, 1.0]).reshape(1, 2, 1, 1).expand(3, 2, 4, 5)
    output = expected.clone()
    output[1, 1] = 0
    assert relative_rms(output, expected) < 0.01 and worst_head_rms(output, expected) == pytest.approx(3**-0.5)


@pytest.mark.parametrize("problem", [FWD, BWD])
def test_the_hosts_time_is_that_of_the_forward_pass_or_of_a_step_of_both(case, problem):
    """Counted in passes: a step makes a graph of its own, from inputs that are prepared before."""
    called = []

    class Counting(FakeStopwatch):
        def host(self, call, unit_us) -> HostTime:
            called.clear()
            outputs = call()
            assert [output.shape[-1] for output in outputs] == ([32] if problem.direction == "fwd" else [16, 16, 32])
            assert called == [problem.direction == "bwd"]
            return super().host(call, unit_us)

    def counted(case):
        return lambda q, k, v: called.append(q.requires_grad and q.is_leaf) or _right(case)(q, k, v)

    (result,) = contest(problem, case, Counting(), peers=[_peer("counted", counted)], rounds=ROUNDS)
    assert result.to_json()["host"] == {
        "host_us": 250.0,
        "units": 25.0,
        "unit_us": 10.0,
        "wall_us": 250.0,
        "gpu_us": 40.0,
        "gpu_bound": False,
        "detail": "",
    }


@pytest.mark.parametrize("problem", [FWD, BWD])
def test_each_call_of_a_timer_reads_memory_of_its_own(case, problem):
    read = set()

    def watched(case):
        return lambda q, k, v: read.update(tensor.data_ptr() for tensor in (q, k, v)) or _right(case)(q, k, v)

    (result,) = contest(problem, case, FakeStopwatch(), peers=[_peer("watched", watched)], rounds=ROUNDS)
    assert result.verdict == "ok" and len(read) == 3 * SETS


def test_a_peer_whose_graph_fits_once_is_timed_on_one_set_of_inputs(case):
    """A graph that is kept for each set may not fit, where a call by itself does."""
    made = []

    class Watching(FakeStopwatch):
        def timer(self, calls) -> Timer:
            made.append(len(calls))
            return super().timer(calls)

    def hungry(case):
        def operate(q, k, v):
            if q.data_ptr() != case.q.data_ptr():
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return _right(case)(q, k, v)

        return operate

    stopwatch = Watching()
    results = contest(BWD, case, stopwatch, peers=[GOOD, _peer("hungry", hungry)], rounds=ROUNDS)
    assert [result.verdict for result in results] == ["ok", "ok"] and made == [SETS, 1] and stopwatch.released == 1


def test_a_peer_that_cannot_be_captured_is_marked(case, capsys):
    class Launching(FakeStopwatch):
        def timer(self, calls) -> Timer:
            return replace(super().timer(calls), calls=1, replayed=False)

    (result,) = contest(FWD, case, Launching(), peers=[GOOD], rounds=ROUNDS)
    assert result.to_json()["replayed"] is False
    print_report(Report(problem=FWD, roof_ms=0.5, served="exact bucket", results=[result]))
    assert "cannot be captured" in capsys.readouterr().out


def test_a_failure_while_the_host_is_measured_costs_the_host_time_alone(case, capsys):
    class Failing(FakeStopwatch):
        def host(self, call, unit_us):
            raise torch.OutOfMemoryError("CUDA out of memory.")

    stopwatch = Failing()
    (result,) = contest(FWD, case, stopwatch, peers=[GOOD], rounds=ROUNDS)
    assert result.verdict == "ok" and result.timing is not None and stopwatch.released == 1
    assert result.host.host_us is None and "out of memory" in result.host.detail
    print_report(Report(problem=FWD, roof_ms=0.5, served="exact bucket", results=[result]))
    assert "failed" in capsys.readouterr().out


def test_the_table_says_what_each_row_is(case, capsys):
    softmax = Peer(name="attention", function=SOFTMAX, layout="BHND", load=lambda _: _attend, package="torch")
    doubled = _peer("doubled", lambda case: lambda q, k, v: 2 * _right(case)(q, k, v))
    peers = [GOOD, softmax, doubled, _peer("absent", _missing)]
    results = contest(FWD, case, FakeStopwatch(), peers=peers, rounds=ROUNDS)
    print_report(Report(problem=FWD, roof_ms=0.5, served="exact bucket", results=results))
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "50%" in rows["right"] and "3.00" in rows["right"]
    assert rows["right"].split()[7:10] == ["250.0", "25.0", "40.0"]
    assert "softmax attention: another function" in rows["attention"] and "2.00" in rows["attention"]
    assert rows["doubled"].rstrip().endswith("wrong") and "1.0e+00" in rows["doubled"]
    assert "unavailable: ModuleNotFoundError: No module named 'missing'" in rows["absent"]


def _attend(q, k, v):
    return scaled_dot_product_attention(q, k, v, is_causal=True)
