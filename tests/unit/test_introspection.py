"""Looks into a kernel of a few kilobytes: what is found, what is no finding, what a hostile one cannot do."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_kernel import BASE, SIZE, STRUCTS, Toy, btf

from supercloud.model.errors import Unavailable
from supercloud.security.introspection import memory
from supercloud.security.introspection.btf import Types
from supercloud.security.introspection.look import Seen

pytestmark = pytest.mark.unit
PROCESSES = {1: "init", 7: "server", 9: "evil"}


@pytest.fixture
def toy() -> Toy:
    return Toy(PROCESSES)


def look(toy: Toy, *, sleep: Callable[[float], None] | None = None, times: int = 1) -> Seen:
    looker = toy.looker(sleep=sleep)
    for _ in range(times):
        toy.tick()
        seen = looker.look()
    return seen


def test_what_there_is_is_seen(toy: Toy) -> None:
    seen = look(toy)
    assert seen.clean and seen.first and seen.release == "6.1.0-toy"
    assert [(one.pid, one.name) for one in seen.processes] == list(PROCESSES.items())
    assert seen.modules == ("toy", "virtio") and seen.pages == 3
    assert seen.sockets is not None
    assert [(one.protocol, one.address, one.port, one.peer) for one in seen.sockets] == [
        ("tcp", "10.0.0.9", 8080, "")
    ]
    again = look(toy, times=2)
    assert again.clean and not again.first


def test_a_process_that_is_not_in_the_list_is_found_by_its_pid(toy: Toy) -> None:
    toy.hide(9)
    (found,) = look(toy).hidden
    assert (found.pid, found.name, found.missing, found.seen) == (
        9,
        "evil",
        "the list of tasks",
        "the tree of pids",
    )


def test_a_process_that_no_pid_leads_to_is_found_in_the_list(toy: Toy) -> None:
    toy.put(toy.slots + 8 * 9, 0)
    (found,) = look(toy).hidden
    assert (found.pid, found.missing) == (9, "the tree of pids")


def test_a_process_that_is_in_neither_is_found_while_it_runs(toy: Toy) -> None:
    toy.hide(9)
    toy.put(toy.slots + 8 * 9, 0)
    assert look(toy).clean
    toy.run(9)
    (found,) = look(toy, sleep=lambda _: toy.run(1)).hidden  # later another one runs
    assert (found.pid, found.seen) == (9, "the run queues")


def test_what_a_process_is_in_the_middle_of_is_no_finding(toy: Toy) -> None:
    entry = toy.u64(toy.slots + 8 * 9)
    toy.put(toy.slots + 8 * 9, 0)  # it begins, and has no pid yet
    assert look(toy, sleep=lambda _: toy.put(toy.slots + 8 * 9, entry)).clean
    toy.hide(9)  # it ends, and its pid leads to it still
    assert look(toy, sleep=lambda _: toy.put(toy.slots + 8 * 9, 0)).clean
    toy.put(toy.tasks[9] + toy.field("task_struct", "exit_state"), 16, 4)
    toy.run(9)  # it has ended, and is run for the last time
    assert look(toy).clean


def test_another_process_at_the_same_place_is_another(toy: Toy) -> None:
    toy.hide(9)

    def reused(_: float) -> None:
        address = toy.tasks[9] + toy.field("task_struct", "start_boottime")
        toy.put(address, toy.u64(address) + 1)

    assert look(toy, sleep=reused).clean


def test_a_system_call_that_leads_elsewhere_is_found(toy: Toy) -> None:
    table = toy.symbols["sys_call_table"]
    toy.put(table + 8, toy.symbols["__x64_sys_open"] + 4)
    (found,) = look(toy).hooked
    assert (found.number, found.leads.symbol) == (1, "__x64_sys_open+0x4")


def test_changed_code_is_found_but_where_a_kernel_changes_it_itself(toy: Toy) -> None:
    looker = toy.looker()
    assert looker.look().clean
    for address, value in ((0x800, 0xE9), (0x801, 0x10), (0x900, 0xE8), (0x904, 0x77)):
        toy.put(toy.symbols["_stext"] + address, value, 1)
    toy.tick()
    assert looker.look().clean  # a branch is switched, a function is traced
    toy.put(toy.symbols["_stext"] + 0x1805, 0xCC, 1)
    toy.tick()
    (found,) = looker.look().changed
    assert found.address == toy.symbols["_stext"] + 0x1000


def test_a_module_that_is_not_in_the_list_is_found(toy: Toy) -> None:
    toy.unlink(toy.modules["toy"] + toy.field("module", "list"))
    assert look(toy).hidden_modules == ("toy",)


def test_what_a_kernel_left_that_has_ended_is_no_finding(toy: Toy) -> None:
    looker = toy.looker()
    assert looker.look().clean
    toy.tick()
    toy.hide(9)
    said = bytes(toy.data[0x3000:0x4000])
    toy.data[0x3000:0x4000] = bytes(0x1000)  # another one boots, and has not come so far yet
    with pytest.raises(Unavailable, match="no Linux kernel"):
        looker.look()
    toy.data[0x3000:0x4000] = said
    assert looker.look().hidden


def test_who_writes_what_looks_like_a_kernel_is_not_believed(toy: Toy) -> None:
    """Any process in a guest can have any text in its memory."""
    forged = toy.says().replace(b"6.1.0-toy", b"6.1.0-bad")
    toy.data[0x3F_0000 : 0x3F_0000 + len(forged)] = forged
    assert look(toy).release == "6.1.0-toy"
    for at in range(0x20_0000, 0x3F_0000, 64):
        toy.data[at : at + 10] = b"OSRELEASE="
    with pytest.raises(Unavailable, match="looks like a kernel"):
        look(toy)


def endless_list(toy: Toy) -> None:
    node = toy.tasks[9] + toy.field("task_struct", "tasks")
    toy.put(node, node)


def list_into_nowhere(toy: Toy) -> None:
    toy.put(toy.tasks[7] + toy.field("task_struct", "tasks"), BASE + (1 << 29))


def endless_bucket(toy: Toy) -> None:
    node = toy.u64(toy.bucket)
    toy.put(node, node)


def endless_modules(toy: Toy) -> None:
    node = toy.modules["toy"] + toy.field("module", "list")
    toy.put(node, node)


def many_processors(toy: Toy) -> None:
    toy.put(toy.symbols["nr_cpu_ids"], 0xFFFF_FFFF, 4)


def many_sockets(toy: Toy) -> None:
    toy.put(toy.symbols["tcp_hashinfo"] + 16, 0xFFFF_FFFF, 4)


def many_symbols(toy: Toy) -> None:
    toy.put(toy.kallsyms["kallsyms_num_syms"], 0xFFFF_FFFF, 4)


def long_names(toy: Toy) -> None:
    toy.put(toy.kallsyms["kallsyms_names"], 0xFFFF, 2)


def endless_traces(toy: Toy) -> None:
    page = toy.u64(toy.symbols["ftrace_pages_start"])
    toy.put(page, page)


def tables_that_lead_to_themselves(toy: Toy) -> None:
    toy.put(BASE + 0x2000 + 510 * 8, 0x2000 | 1)


HOSTILE = [
    *(endless_list, list_into_nowhere, endless_modules, many_processors),
    *(many_symbols, long_names, endless_traces, tables_that_lead_to_themselves),
]


@pytest.mark.parametrize("make", HOSTILE, ids=lambda one: one.__name__)
def test_what_does_not_add_up_cannot_be_looked_at(toy: Toy, make: Callable[[Toy], None]) -> None:
    make(toy)
    with pytest.raises(Unavailable):
        look(toy)


@pytest.mark.parametrize("make", [endless_bucket, many_sockets], ids=lambda one: one.__name__)
def test_without_its_sockets_it_is_looked_at_nevertheless(toy: Toy, make: Callable[[Toy], None]) -> None:
    make(toy)
    toy.hide(9)
    seen = look(toy)
    assert seen.sockets is None and [one.pid for one in seen.hidden] == [9]


def test_pids_in_a_circle_end(toy: Toy) -> None:
    toy.put(toy.slots, toy.u64(toy.symbols["init_pid_ns"] + 16))  # a node that is in itself
    with pytest.raises(Unavailable):
        look(toy)


def test_a_look_reads_so_much_and_no_more(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LOOK_READS", 30)
    with pytest.raises(Unavailable, match="more than any look needs"):
        look(toy)


@pytest.mark.parametrize("seed", range(20))
def test_a_kernel_with_anything_in_it_is_seen_or_cannot_be_looked_at(seed: int) -> None:
    """Whatever is written over it, where looks read."""
    toy, chance = Toy(PROCESSES), random.Random(seed)  # noqa: S311 - replayed by its seed
    looker = toy.looker()
    if seed % 2:
        looker.look()
    for _ in range(30):
        address = BASE + chance.randrange(0x1000, toy._next - 8, 8)
        value = chance.choice(
            [0, 1, chance.getrandbits(64), BASE + chance.randrange(0, SIZE, 8), toy.u64(address) + 8]
        )
        toy.put(address, value)
        toy.tick()
        try:
            looker.look()
        except Unavailable:
            continue


def test_offsets_of_fields_also_in_what_has_no_name() -> None:
    types = Types(btf())
    for name, (size, fields) in STRUCTS.items():
        assert types.size(name) == size
        assert all(types.offset(f"{name}.{field}") == at for field, (at, _) in fields.items())
    assert types.offset("task_struct.se.group_node.prev") == 24
    for absent in ("task_struct.no", "no", "no.no", "", "task_struct.pid.no"):
        assert not types.has(absent)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_types_that_are_none_are_refused_or_read(data: st.DataObject) -> None:
    made = bytearray(btf())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(made) - 1))
        made[at] = data.draw(st.integers(0, 255))
    try:
        Types(bytes(made[: data.draw(st.integers(0, len(made)))] if data.draw(st.booleans()) else made)).has(
            "task_struct.se.group_node.next"
        )
    except Unavailable:
        return
