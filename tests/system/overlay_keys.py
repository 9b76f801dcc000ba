"""Keys that rotate under a connection, step by step, each step repeated and interrupted."""

from __future__ import annotations

import asyncio
import re
import time

from overlay_frames import Listener
from overlay_guest import MARKER, TCP_PORT
from overlay_inside import RUN, Blanket, Process, Scene, check, responder, sh, until


async def rotation(scene: Scene) -> None:
    await _rotate(scene, [scene.one], "one blanket rotates")


async def rotation_of_both(scene: Scene) -> None:
    await _rotate(scene, [scene.one, scene.three], "two blankets rotate at once")


async def interrupted(scene: Scene) -> None:
    """All blankets at once, as the control plane does it; it and an agent are killed wherever they can be."""
    one, two, three = scene.all
    server = await responder("bob")
    talk = await start_talk(scene)
    old = [blanket.keys[0] for blanket in scene.all]
    made = [await _prepare(blanket) for blanket in scene.all]
    await scene.cloud.apply(two)
    await _goes_on(scene, "killed while peers are told")
    check("begun again, the same next keys", made == [await _prepare(blanket) for blanket in scene.all])
    await scene.cloud.apply()
    await scene.cloud.apply()
    await _goes_on(scene, "told twice")
    # The switch is one rename; here the agent dies between it and telling the kernel.
    assert one.child is not None
    await one.child.kill()
    keys = RUN / "one" / "keys"
    (keys / "wireguard.next").rename(keys / "wireguard")
    await one.start()
    await _goes_on(scene, "an agent killed in its switch")
    # Its report was lost with whoever asked: peers are told both keys still.
    await scene.cloud.apply()
    await _goes_on(scene, "killed after one has switched")
    await two.keyed("switch_key")
    switched = [await blanket.keyed("switch_key") for blanket in scene.all]
    check("switching again is nothing", [report.key for report in switched] == [keys[1] for keys in made])
    await _goes_on(scene, "all have switched")
    for blanket, report in zip(scene.all, switched, strict=True):
        blanket.keys = (report.key,)
    await scene.cloud.apply(three)
    await _goes_on(scene, "killed while old keys go")
    await scene.cloud.apply()
    said = [(await sh("wg", "show", "wg-sc", "peers", namespace=each.name))[1] for each in scene.all]
    check("the old keys are gone everywhere", not any(key in peers for key in old for peers in said))
    await _goes_on(scene, "over")
    outcome = await finish_talk(talk)
    check("one connection lived through all of it", bool(outcome["kept"]), **outcome)
    await server.kill()


async def _goes_on(scene: Scene, when: str) -> None:
    check(
        f"rotation, {when}: traffic goes on", await until(lambda: scene.alice.reaches(scene.bob.ip, tries=1))
    )


async def _prepare(blanket: Blanket) -> tuple[str, ...]:
    report = await blanket.keyed("prepare_key")
    assert report.next_key is not None
    blanket.keys = (report.key, report.next_key)
    return blanket.keys


async def _rotate(scene: Scene, blankets: list[Blanket], what: str) -> None:
    server = await responder("bob")
    ear = Listener("alice")
    talk = await start_talk(scene)
    old = [blanket.keys[0] for blanket in blankets]
    for blanket in blankets:
        first = await _prepare(blanket)
        check(f"{what}: the next key is made once", first == await _prepare(blanket))
    others = [one for one in scene.all if one not in blankets]
    await scene.cloud.apply()
    ping = asyncio.create_task(
        sh("ping", "-n", "-q", "-c", "150", "-i", "0.1", "-W", "5", scene.bob.ip, namespace="alice", ok=False)
    )
    for blanket in blankets:
        await blanket.keyed("switch_key")
        again = await blanket.keyed("switch_key")
        check(
            f"{what}: switched, and switching again is nothing",
            again.key == blanket.keys[1] and not again.next_key,
        )

    async def moved() -> bool:
        seen = [(await sh("wg", "show", "wg-sc", "allowed-ips", namespace=one.name))[1] for one in others]
        return all(
            re.search(rf"^{re.escape(blanket.keys[1])}\t{blanket.address}/32$", said, re.M)
            for said in seen
            for blanket in blankets
        )

    begun = time.monotonic()
    followed = await until(moved)
    check(f"{what}: addresses follow to the new key", followed, after_s=round(time.monotonic() - begun, 1))
    for blanket in blankets:
        blanket.keys = (blanket.keys[1],)
    await scene.cloud.apply()
    _, said = await sh("wg", "show", "wg-sc", "peers", namespace="two")
    check(f"{what}: the old key is gone", not any(key in said for key in old))
    _, said = await ping
    lost = re.search(r"(\d+) packets transmitted, (\d+) received", said)
    outcome = await finish_talk(talk)
    check(f"{what}: the connection is kept", bool(outcome["kept"]) and outcome["count"] > 20, **outcome)
    check(f"{what}: the instance hears it in clear, as the capture would", ear.heard(MARKER))
    check(f"{what}: instances reach each other after it", await scene.alice.reaches(scene.bob.ip))
    check(f"measured: {what}: pings lost", lost is not None, lost=int(lost[1]) - int(lost[2]) if lost else 0)
    ear.close()
    await server.kill()


async def start_talk(scene: Scene) -> Process:
    """alice to bob, one connection."""
    talk = await Process.start("talk", scene.bob.ip, str(TCP_PORT), namespace="alice")
    await talk.line()
    return talk


async def finish_talk(talk: Process) -> dict[str, object]:
    assert talk.process.stdin is not None
    talk.process.stdin.close()
    outcome: dict[str, object] = await talk.line()
    return outcome
