"""The clocks of the machine that this blanket is."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from supercloud.model.errors import Failed
from supercloud.ports.clock import Instant

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_RTC = Path("/sys/class/rtc/rtc0/since_epoch")
_RTC_IS_WHOLE_S = 1.5


class BlanketClock:
    """ports.clock.HolderClock. The RTC is the emulated CMOS clock: it goes on while we are stopped."""

    def __init__(self, *, rtc: Path = _RTC, boot_id: Path = _BOOT_ID) -> None:
        self._rtc = rtc
        self._boot_id = boot_id.read_text(encoding="ascii").strip()

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def instant(self) -> Instant:
        return Instant(self._boot_id, self.now())

    def catch_up(self) -> None:
        """After a stop of this machine: set the system's clock, which stood still, by the one that went on.
        Blankets inside this one have theirs from it, and so their keepers see that they were stopped, too.
        """
        if abs(self.rtc_s() - time.time()) > _RTC_IS_WHOLE_S:
            time.clock_settime(time.CLOCK_REALTIME, self.rtc_s())

    def rtc_s(self) -> float:
        """Raises: Failed, where there is none: then stops of this machine could not be seen."""
        try:
            return float(self._rtc.read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            raise Failed(f"cannot read the real-time clock: {error}") from error
