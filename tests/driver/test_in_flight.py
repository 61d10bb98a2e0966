"""What may be changed, closed or launched while another thread's launch is inside the driver."""

from __future__ import annotations

import gc
import threading

from helpers.fake_driver import FakeDriver
from helpers.native_launch import InFlight, Native, ready

from pyferrum_kv import CudaContext, LaunchConfig


def test_the_first_change_leaves_a_launch_in_flight_alone(
    native: Native, direct_ctx: CudaContext
) -> None:
    _, _, _, launch = ready(direct_ctx)
    flight = InFlight(native, launch.launch)
    launch.set("n", 5)
    launch.configure(LaunchConfig(1, 32))
    flight.let_go()
    launch.launch()
    assert [seen["arguments"][2] for seen in native.seen] == [40, 5]
    assert [seen["dims"][0] for seen in native.seen] == [2, 1]


def test_later_changes_wait_for_a_launch_in_flight(native: Native, direct_ctx: CudaContext) -> None:
    _, _, _, launch = ready(direct_ctx)
    launch.set("n", 5)
    flight = InFlight(native, launch.launch)
    changed = threading.Thread(target=launch.set, args=("n", 6))
    changed.start()
    changed.join(0.05)
    assert changed.is_alive()
    flight.let_go()
    changed.join()
    launch.launch()
    assert [seen["arguments"][2] for seen in native.seen] == [5, 6]


def test_another_stream_leaves_a_launch_in_flight_alone(
    native: Native, direct_ctx: CudaContext
) -> None:
    stream, _, _, launch = ready(direct_ctx)
    other = direct_ctx.new_stream()
    flight = InFlight(native, launch.launch)
    launch.launch(other)
    flight.let_go()
    assert [seen["stream"] for seen in native.seen] == [other.handle, stream.handle]


def test_what_a_launch_in_flight_reads_is_kept(
    native: Native, fake: FakeDriver, direct_ctx: CudaContext
) -> None:
    _, x, y, launch = ready(direct_ctx)
    flight = InFlight(native, launch.launch)
    address = x.device_ptr
    launch.set("x", y)
    del x
    gc.collect()
    direct_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 0
    flight.let_go()
    assert native.seen[0]["arguments"][0] == address
    gc.collect()
    direct_ctx.synchronize()
    assert fake.count("cuMemFreeAsync") == 1


def test_launches_made_once_have_a_block_each_while_they_run(
    native: Native, direct_ctx: CudaContext
) -> None:
    stream, x, y, launch = ready(direct_ctx)
    config = LaunchConfig(1, 32)

    def once(n: int) -> None:
        stream.launch_builder(launch.function).args(x, y, n, 1.0).launch(config)

    flight = InFlight(native, lambda: once(1))
    once(2)
    flight.let_go()
    once(3)
    assert [seen["arguments"][2] for seen in native.seen] == [2, 1, 3]
    used = [seen["params"] for seen in native.seen]
    assert used[0] != used[1]
    assert used[2] in used[:2]  # a block is used again
