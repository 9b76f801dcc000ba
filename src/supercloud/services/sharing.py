"""Which images a cloud may begin things with: its owner's, and those that other clouds share with it.

Asked when something is to begin with an image, and again each time that its key is to go to a blanket.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from supercloud.model.errors import Conflict, NotFound, Refused
from supercloud.model.names import Digest, Id
from supercloud.model.permissions import Role
from supercloud.model.trust import TrustKind
from supercloud.services.refs import find_image, named
from supercloud.services.requests import ImageRef
from supercloud.services.store.tables import Cloud, Image, Instance, Principal, Trust, Volume
from supercloud.services.store.time import wall

_DIGEST = "sha256:"


async def usable_image(session: AsyncSession, cloud: Cloud, ref: ImageRef) -> Image:
    """The image that the caller means, if things in `cloud` may begin with it. Another cloud's is named with
    that cloud, or by its digest: so nobody is given one for which he did not ask, whatever it is called.

    Raises:
        NotFound; Conflict where the name means several.
        Refused: it is another cloud's alone.
    """
    if "/" not in ref:
        try:
            image = await find_image(session, ref)
        except NotFound:
            if not ref.startswith(_DIGEST):
                raise
        else:
            await check_use(session, cloud.id, image)
            return image
    images = {image.id: image for _, image in await shared_with(session, cloud.id, ref)}
    if not images:
        raise NotFound(
            f"no image {ref} is shared with cloud {cloud.name}", hint="supercloud trust ls shows what is"
        )
    if len(images) > 1:
        raise Conflict(f"several clouds share an image {ref}", hint="name it by its digest")
    return next(iter(images.values()))


async def shared_with(
    session: AsyncSession, cloud: Id, ref: ImageRef | None = None, image: Id | None = None
) -> Sequence[tuple[Trust, Image]]:
    """The active relations by which it may use images: one that is named so, or is this."""
    query = (
        select(Trust, Image)
        .join(Image, Image.id == Trust.image)
        .join(Cloud, Cloud.id == Trust.cloud)
        .where(
            Trust.to == cloud,
            Trust.kind == TrustKind.SHARE_IMAGE,
            Trust.revoked_at.is_(None),
            Trust.expires_at > await wall(session),
            *_meant(ref),
        )
    )
    if image is not None:
        query = query.where(Image.id == image)
    return [(found[0], found[1]) for found in (await session.execute(query)).all()]


def _meant(ref: ImageRef | None) -> tuple[ColumnElement[bool], ...]:
    if ref is None:
        return ()
    by, slash, name = ref.partition("/")
    return (named(Cloud, by), Image.name == name) if slash else (named(Image, ref) | (Image.digest == ref),)


async def check_use(session: AsyncSession, cloud: Id, image: Image) -> None:
    """Whether the key of this image may go to blankets of this cloud.

    Raises:
        Refused: it is another cloud's, and not shared with this one, or no more.
    """
    if await is_own(session, cloud, image) or await shared_with(session, cloud, image=image.id):
        return
    raise Refused(
        f"image {image.name} is another cloud's, and is not shared with this one (any more)",
        hint="supercloud trust ls; whoever has that cloud can grant it",
    )


async def check_instance(session: AsyncSession, row: Instance) -> None:
    """The same for every image below its volumes. Raises: Refused."""
    images = select(Image).join(Volume, Volume.image == Image.id).where(Volume.instance == row.id).distinct()
    for image in (await session.scalars(images)).all():
        await check_use(session, row.cloud, image)


async def check_digest(session: AsyncSession, cloud: Id, digest: Digest) -> None:
    """The same for an image by its digest. Raises: Refused."""
    image = await session.scalar(select(Image).where(Image.digest == digest))
    if image is not None:
        await check_use(session, cloud, image)


async def is_own(session: AsyncSession, cloud: Id, image: Image) -> bool:
    """Whether it needs no trust: the image is of the cloud's owner, or of who has a cloud that it is in. A
    backup is the cloud's alone that it was made in, as its key is."""
    if image.key_of is not None:
        return image.key_of == cloud
    owners = await _owners(session, cloud)
    if image.owner in owners:
        return True
    # What is nobody's, from before there were principals, is the operators'.
    if image.owner is None:
        return await _any_operator(session, owners)
    return None in owners and await _any_operator(session, {image.owner})


async def _owners(session: AsyncSession, cloud: Id) -> set[Id | None]:
    """Of it and of the clouds that it is in."""
    found, at = set[Id | None](), cloud
    while (row := await session.get(Cloud, at)) is not None:
        found.add(row.owner)
        if row.parent is None:
            break
        at = row.parent
    return found


async def _any_operator(session: AsyncSession, principals: set[Id | None]) -> bool:
    rows = await session.scalars(select(Principal).where(Principal.id.in_(principals)))
    return any(Role.OPERATOR in row.roles for row in rows)
