"""The mesh: one WireGuard interface, its keys, and the peers' keys as they rotate.

A blanket's private key is made here and never leaves: it lives in a file of a tmpfs directory, so that it
survives the agent, not the blanket's power-off (then a new one is made and announced).

**Rotation loses no connection, in whatever order its steps happen and wherever they stop.** WireGuard gives
an address to one key at a time, so a peer that has two keys is two peers here, of which one holds the
address:

1. the holder prepares its next key (`Keys.prepare`; repeating gives the same one);
2. its peers are told both keys: the next one enters *without* the address, and nothing changes for traffic;
3. the holder switches (`Keys.switch`, then `Tunnel.converge`): it starts handshakes with its new key at once.
   Frames that peers send under the old session still arrive: WireGuard keeps old sessions for receiving;
4. each peer sees a handshake on the new key, which proves that the holder uses it, and moves the address
   (`holder_of`, `Tunnel.settle`), within `Overlay`'s poll interval. What the holder sent in between is lost
   as packets, and repeated by whoever sent it;
5. peers are told the new key alone, and the old one goes.

Stopped after 1 or 2, the old key works on. Stopped after 3 or 4, both sides use the new key, and the old one
lingers until the next apply. If both ends switch at the same time, neither can reach the other's old key;
that is why a key without the address is kept alive too: a handshake on it is tried every few seconds until
one succeeds. A peer told the new key alone before the switch is cut off until the switch: the order 2, 3, 5
is the control plane's part.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from supercloud.blanket.overlay.abroad import Speaker
from supercloud.blanket.overlay.netlink import WireGuard
from supercloud.blanket.overlay.plan import MESH_DEVICE
from supercloud.model.names import Id, Port, WireguardKey

KEEPALIVE_S = 15  # below the half minute after which common NATs forget a UDP flow
ALIVE_S = 180  # a session without a handshake for that long is over, says WireGuard
_log = logging.getLogger(__name__)


class Keys:
    """This blanket's key and its next one, as files only root can read."""

    def __init__(self, directory: Path) -> None:
        self._now = directory / "wireguard"
        self._next = directory / "wireguard.next"

    def private(self) -> str:
        """The private key in use, made at the first asking."""
        if not self._now.exists():
            _write(self._now, _new())
        return self._now.read_text()

    @property
    def public(self) -> WireguardKey:
        return public_of(self.private())

    @property
    def next_public(self) -> WireguardKey | None:
        return public_of(self._next.read_text()) if self._next.exists() else None

    def prepare(self) -> None:
        if not self._next.exists():
            _write(self._next, _new())

    def switch(self) -> None:
        """One rename: whoever is killed here has switched or has not."""
        with contextlib.suppress(FileNotFoundError):
            self._next.rename(self._now)


def public_of(private: str) -> WireguardKey:
    key = X25519PrivateKey.from_private_bytes(base64.b64decode(private)).public_key()
    return base64.b64encode(key.public_bytes_raw()).decode()


def _new() -> str:
    return base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()).decode()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    fresh.rename(path)


# ---------------------------------------------------------------- which key holds a peer's address


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyState:
    """What the kernel knows of one key of a peer."""

    key: WireguardKey
    addresses: frozenset[str] = frozenset()
    endpoint: tuple[str, int] | None = None
    handshake_s: float = 0.0  # wall clock, epoch seconds; 0: never


def holder_of(peer: Speaker, states: dict[WireguardKey, KeyState]) -> WireguardKey | None:
    """The key of `peer` that its addresses belong to: the one that spoke last, since nobody goes back to an
    old key; before any spoke, the one that has it, else the oldest.
    """
    if not peer.keys:
        return None
    present = [states[key] for key in peer.keys if key in states]
    spoke = [state for state in present if state.handshake_s]
    if spoke:
        return max(spoke, key=lambda state: state.handshake_s).key
    holding = [state.key for state in present if peer.addresses & state.addresses]
    return holding[0] if holding else peer.keys[0]


class Tunnel:
    """The kernel's WireGuard interface. Blocking; call it from one thread.

    Errors are pyroute2's and the system's: the driver translates them.
    """

    def __init__(self, *, listen_port: Port, resolve: Callable[[str], str] = socket.gethostbyname) -> None:
        self._wireguard = WireGuard()
        self._listen_port = listen_port
        self._resolve = resolve
        self._endpoints: dict[WireguardKey, str] = {}

    def close(self) -> None:
        self._wireguard.close()

    def converge(self, private: str, peers: Sequence[Speaker], now: float) -> None:
        """Make key, port and peers what they shall be; what is so already is not touched."""
        public, port, states = self._read()
        if public != public_of(private) or port != self._listen_port:
            self._wireguard.set(MESH_DEVICE, private_key=private, listen_port=self._listen_port)
        wanted = {key: peer for peer in peers for key in peer.keys}
        for key in states.keys() - wanted.keys():
            self._wireguard.set(MESH_DEVICE, peer={"public_key": key, "remove": True})
            self._endpoints.pop(key, None)
        for key, peer in wanted.items():
            self._enter(key, peer, states.get(key), now)
        self.settle(peers)
        if public is not None and public != public_of(private):
            self.nudge(wanted)

    def settle(self, peers: Iterable[Speaker]) -> bool:
        """Give every peer's addresses to the key that holds them. True while a peer has more than one key."""
        peers = list(peers)
        _, _, states = self._read()
        for peer in peers:
            holder = holder_of(peer, states)
            if holder is None or (state := states.get(holder)) is None:
                continue
            if state.addresses != peer.addresses:
                # The kernel takes one away from whichever key had it, in the same instant.
                self._wireguard.set(
                    MESH_DEVICE,
                    peer={
                        "public_key": holder,
                        "replace_allowed_ips": True,
                        "allowed_ips": sorted(peer.addresses),
                    },
                )
            for key in peer.keys:
                # Its other key keeps no address that is not the peer's any more.
                if key != holder and key in states and states[key].addresses - peer.addresses:
                    self._wireguard.set(
                        MESH_DEVICE,
                        peer={"public_key": key, "replace_allowed_ips": True, "allowed_ips": []},
                    )
        return any(len(peer.keys) > 1 for peer in peers)

    def nudge(self, keys: Iterable[WireguardKey]) -> None:
        """Handshake with everybody now: WireGuard sends a keepalive as its interval ceases to be 0."""
        for key in keys:
            for interval in (0, KEEPALIVE_S):
                self._wireguard.set(MESH_DEVICE, peer={"public_key": key, "persistent_keepalive": interval})

    def alive(self, peers: Iterable[Speaker], now: float) -> tuple[Id, ...]:
        """Peers with a handshake in the last three minutes."""
        _, _, states = self._read()
        return tuple(
            peer.blanket
            for peer in peers
            if any(key in states and now - states[key].handshake_s < ALIVE_S for key in peer.keys)
        )

    def _enter(self, key: WireguardKey, peer: Speaker, state: KeyState | None, now: float) -> None:
        settings: dict[str, Any] = {"public_key": key}
        if state is None:
            settings["persistent_keepalive"] = KEEPALIVE_S
        # A peer behind NAT moves: where it answers from counts more than what we were told, unless that
        # is new.
        told = peer.endpoint
        silent = state is None or now - state.handshake_s >= ALIVE_S
        if told is not None and (silent or self._endpoints.get(key, told) != told):
            host, _, port = told.rpartition(":")
            try:
                settings |= {"endpoint_addr": self._resolve(host), "endpoint_port": int(port)}
            except OSError as error:
                _log.warning("endpoint %s of peer %s: %s", told, peer.blanket, error)
        if told is not None:
            self._endpoints[key] = told
        if len(settings) > 1:
            self._wireguard.set(MESH_DEVICE, peer=settings)

    def _read(self) -> tuple[WireguardKey | None, int, dict[WireguardKey, KeyState]]:
        public: WireguardKey | None = None
        port = 0
        states: dict[WireguardKey, KeyState] = {}
        for message in self._wireguard.info(MESH_DEVICE):
            if (own := message.get_attr("WGDEVICE_A_PUBLIC_KEY")) is not None:
                public = _text(own)
            port = message.get_attr("WGDEVICE_A_LISTEN_PORT") or port
            for peer in message.get_attr("WGDEVICE_A_PEERS") or ():
                state = _state(peer)
                # One whose addresses do not fit into a message is gone on with in the next, by its key alone.
                begun = states.get(state.key)
                states[state.key] = state if begun is None else _with(begun, state.addresses)
        return public, port, states


def _state(peer: Any) -> KeyState:
    handshake = peer.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME")
    endpoint = peer.get_attr("WGPEER_A_ENDPOINT")
    return KeyState(
        key=_text(peer.get_attr("WGPEER_A_PUBLIC_KEY")),
        addresses=frozenset(allowed["addr"] for allowed in peer.get_attr("WGPEER_A_ALLOWEDIPS") or ()),
        endpoint=(endpoint["addr"], endpoint["port"]) if endpoint else None,
        handshake_s=handshake["tv_sec"] + handshake["tv_nsec"] / 1e9 if handshake else 0.0,
    )


def _with(state: KeyState, addresses: frozenset[str]) -> KeyState:
    return replace(state, addresses=state.addresses | addresses)


def _text(key: Any) -> WireguardKey:
    raw = key["value"] if isinstance(key, dict) else key
    return raw.decode() if isinstance(raw, bytes) else str(raw)
