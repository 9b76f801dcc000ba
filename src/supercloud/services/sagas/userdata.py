"""The key of an instance's user data, on its way to the blanket that makes its seed."""

from __future__ import annotations

from supercloud.model.names import Id
from supercloud.ports.agent import SealedKey
from supercloud.services.sagas.world import InstanceFacts, World


async def user_data_key(world: World, instance: InstanceFacts, *, blanket: Id) -> SealedKey | None:
    """Sealed to `blanket`; None where there is no user data.

    Raises:
        NotFound: it is destroyed.
        Denied: `blanket` may not have it, or it is another instance's.
    """
    if instance.user_data is None:
        return None
    return await world.keys.user_data_key(
        cloud=instance.spec.cloud,
        instance=instance.spec.id,
        digest=instance.user_data.digest,
        blanket=blanket,
    )
