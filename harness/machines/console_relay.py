"""Copy between this process's terminal and a console socket: the child of Console.interact."""

import os
import selectors
import socket
import sys
import tty


def relay(path: str) -> None:
    """Copy bytes both ways until either side ends."""
    tty.setraw(0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
        console.connect(path)
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ)
            selector.register(console, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    data = os.read(0, 4096) if key.fd == 0 else console.recv(4096)
                    if not data:
                        return
                    if key.fd == 0:
                        console.sendall(data)
                    else:
                        os.write(1, data)


if __name__ == "__main__":
    relay(sys.argv[1])
