"""`supercloud web`."""

from __future__ import annotations

from supercloud.cli.output import Format, print_json
from supercloud.cli.session import Output, connect


def web(*, output: Output = Format.TABLE) -> None:
    """Print a link that signs a browser in, once, within a minute.

    What is done in the browser is done by whoever's key this is, under the token beside it: with less of a
    token there is less to do. A session lasts 8 hours at most, and half an hour in which nothing is done.

    Example: supercloud web

    Example: SUPERCLOUD_KEY=alice supercloud web -o json
    """
    client = connect()
    made = client.post("/web/codes")
    host = f"[{client.access.host}]" if ":" in client.access.host else client.access.host
    url = f"https://{host}:{client.access.port}{made['path']}"
    if output is Format.JSON:
        said = {"url": url, "valid_s": made["valid_s"], "fingerprint": made["fingerprint"]}
        print_json(said)
        return
    print(url)
    print(f"It works once, within {made['valid_s']:.0f} s. The browser does not know the control plane's")
    print("certificate: let it show the certificate, and go on only if its SHA-256 fingerprint is")
    print(made["fingerprint"])
