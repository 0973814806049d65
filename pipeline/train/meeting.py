"""Whether another machine than the first finds the first, before torch's launcher looks for it.

torch waits without a limit for an answer where something else listens, such as a server of another user's: its
TCPStore sends a ping and reads on (torch 2.13, tried). So it is asked in a thread, which may be left behind.
"""

from datetime import timedelta
from threading import Thread

MARGIN = 10  # seconds that torch may take beyond its own limit until it says that nobody is there


def stranger_at(rendezvous: str, patience: timedelta) -> str | None:
    """What answers at `host:port` and is not the first machine; None where the first is there, or where nobody is, which
    torch's launcher says better.
    """
    from torch.distributed import DistNetworkError, DistStoreError, TCPStore

    host, _, port = rendezvous.rpartition(":")
    said: list[str | None] = []

    def ask() -> None:
        try:
            TCPStore(host, int(port), None, False, patience, wait_for_workers=False)
            said.append(None)
        except (DistNetworkError, DistStoreError) as error:
            said.append("another service answers there" if "Ping failed" in str(error) else None)

    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(patience.total_seconds() + MARGIN)
    return said[0] if said else "something took the connection and has said nothing"
