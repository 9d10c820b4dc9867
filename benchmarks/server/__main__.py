"""What ``main.go`` does, for a machine without Go. Much slower than Go's: its figures say little about the peers."""

import argparse
import mmap
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in ("-file", "-cert", "-key"):
        parser.add_argument(option, type=Path, required=True)
    options = parser.parse_args()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(options.cert, options.key)
    with options.file.open("rb") as file, socket.create_server(("127.0.0.1", 0)) as listener:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        print(listener.getsockname()[1], flush=True)
        while True:
            raw, _ = listener.accept()
            threading.Thread(target=answer, args=(context, raw, content), daemon=True).start()


def answer(context: ssl.SSLContext, raw: socket.socket, content: memoryview) -> None:
    with suppress(OSError), context.wrap_socket(raw, server_side=True) as sock:
        request = b""
        while b"\r\n\r\n" not in request:
            request += sock.recv(65536)
        query = parse_qs(urlsplit(request.split()[1].decode()).query)
        chunk = int(query.get("chunk", ["1048576"])[0])
        sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for begin in range(0, len(content), chunk):
            piece = content[begin : begin + chunk]
            sock.sendall(b"%x\r\n" % len(piece))
            sock.sendall(piece)
            sock.sendall(b"\r\n")
        sock.sendall(b"0\r\n\r\n")
        sock.unwrap()


if __name__ == "__main__":
    main()
