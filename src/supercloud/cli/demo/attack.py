"""`supercloud demo attack`: one run over attacks, and the estate as it was before when it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from websockets.exceptions import WebSocketException

from supercloud.cli.demo import policies
from supercloud.cli.demo.attacks import ATTACKS
from supercloud.cli.demo.scenario import BLANKETS, CLOUD, SERVER, SHELL_ON
from supercloud.cli.demo.stage import FOUND_S, NotContained, NotMade, Outcome, Stage
from supercloud.cli.demo.traces import merged
from supercloud.cli.shell import Shell
from supercloud.client import Place
from supercloud.model.errors import SupercloudError


class Attack:
    """What an attack made is taken away again at its end, and each policy is as before."""

    def __init__(
        self, place: Place, say: Callable[[str], None], tell: Callable[[Outcome], None] = lambda _: None
    ) -> None:
        """`say` is told what goes on, `tell` each outcome as it is there."""
        self._stage = Stage(place, say)
        self._say = say
        self._tell = tell

    def run(self, only: Sequence[str] = ()) -> list[Outcome]:
        """All, or those of these names.

        Raises:
            NotFound: the demo is not up.
            SupercloudError: none could be made, or the policies are not as before. That one could not be made
                or was not contained is no error: its outcome says so.
            KeyboardInterrupt: after what was made was taken away again.
        """
        try:
            self._check()
            with policies.in_force(self._stage):
                return [self._attack(name) for name in ATTACKS if not only or name in only]
        except KeyboardInterrupt:
            self._say("given up; what was made for it is taken away, and the policies are as before")
            raise

    def _attack(self, name: str) -> Outcome:
        title, made = ATTACKS[name]
        self._say(f"{title} …")
        outcome = Outcome(name=name, attack=title)
        try:
            self._stage.begin()
            try:
                made(self._stage, outcome)
                outcome.made = outcome.contained = True
            except NotContained as error:
                outcome.made, outcome.why = True, error.message
                self._tell_what_there_was(outcome)
            except KeyboardInterrupt:
                self._say(f"{title}: given up; taking away what was made for it")
                raise
            else:
                self._say(f"{title}: {outcome.says}")  # to take away what was made for it may take a minute
            finally:
                self._stage.undo()
        except (SupercloudError, WebSocketException, OSError) as error:
            # The others are made all the same. What it left in force may be the next ones' trouble, too.
            outcome.made = outcome.contained = False
            outcome.why = str(error) or type(error).__name__
        if not outcome.contained:
            self._say(f"{title}: {outcome.says}")
        self._tell(outcome)
        return outcome

    def _tell_what_there_was(self, outcome: Outcome) -> None:
        found = self._stage.details()
        if not outcome.timeline and found:
            outcome.timeline = merged(min(one["incident"]["opened_at"] for one in found), found, [])

    def _check(self) -> None:
        client = self._stage.client()
        for name in BLANKETS:
            client.get(f"/blankets/{name}", cloud=CLOUD)
        self._stage.until(self._stage.running, FOUND_S, f"{SERVER} to be running", error=NotMade)
        with Shell.on(client, SHELL_ON, cloud=CLOUD):
            pass  # it has the shell that the attacker comes in by
