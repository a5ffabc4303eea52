"""Streams of a pod over WebSockets, as pages and libraries without SPDY open them.

websockets.py ADDRESS TOKEN NAMESPACE POD, where the pod's container runs a shell and listens on port 80.
"""

import base64
import os
import socket
import ssl
import struct
import sys
import threading
from urllib.parse import quote

ADDRESS, TOKEN, NAMESPACE, POD = sys.argv[1:5]
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


class Closed(Exception):
    """The other side has said goodbye."""


class WebSocket:
    def __init__(self, path, *protocols, bearer=None):
        host, port = ADDRESS.rsplit(":", 1)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        raw = socket.create_connection((host, int(port)), timeout=60)
        self.socket = context.wrap_socket(raw, server_hostname=host)
        offered = list(protocols)
        if bearer:
            token = base64.urlsafe_b64encode(bearer.encode()).decode().rstrip("=")
            offered.append("base64url.bearer.authorization.k8s.io." + token)
        lines = [
            f"GET {path} HTTP/1.1",
            f"Host: {ADDRESS}",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: " + base64.b64encode(os.urandom(16)).decode(),
            "Origin: https://page.example",
        ]
        lines += ["Sec-WebSocket-Protocol: " + ", ".join(offered)] if offered else []
        lines += [] if bearer else ["Authorization: Bearer " + TOKEN]
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.exactly(1)
        assert head.startswith(b"HTTP/1.1 101 "), head
        spoken = [line for line in head.decode().split("\r\n") if line.lower().startswith("sec-websocket-protocol")]
        assert [line.split(": ")[1] for line in spoken] == list(protocols[:1]), head

    def exactly(self, count):
        read = b""
        while len(read) < count:
            piece = self.socket.recv(count - len(read))
            if not piece:
                raise Closed
            read += piece
        return read

    def receive(self):
        first, length = self.exactly(2)
        if length == 126:
            (length,) = struct.unpack("!H", self.exactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self.exactly(8))
        said = self.exactly(length)
        if first & 15 == 8:
            raise Closed
        return said

    def send(self, opcode, said):
        assert len(said) < 126
        self.socket.sendall(bytes([128 | opcode, 128 | len(said), 0, 0, 0, 0]) + said)

    def all(self):
        try:
            while True:
                yield self.receive()
        except Closed:
            return


def command(*words):
    return "&".join("command=" + quote(word) for word in words)


def by_channel(messages, decode):
    said = {}
    for message in messages:
        channel, data = decode(message)
        said[channel] = said.get(channel, b"") + data
    return said


def raw(message):
    return message[0], message[1:]


def text(message):
    return message[0] - ord("0"), base64.b64decode(message[1:])


def main():
    path = f"{PODS}/{POD}/exec?stdout=1&stderr=1&" + command("sh", "-c", "echo out; echo err >&2; exit 3")
    said = by_channel(WebSocket(path, "v4.channel.k8s.io").all(), raw)
    assert (said[1], said[2]) == (b"out\n", b"err\n") and b'"ExitCode"' in said[3], said
    said = by_channel(WebSocket(path, "base64.channel.k8s.io").all(), text)
    assert said[1] == b"out\n" and said[3].startswith(b"command terminated with non-zero exit code"), said
    said = by_channel(WebSocket(path).all(), raw)
    assert said[1] == b"out\n", said

    path = f"{PODS}/{POD}/exec?stdin=1&stdout=1&" + command("head", "-n1")
    stream = WebSocket(path, "v4.base64.channel.k8s.io", bearer=TOKEN)
    stream.send(1, b"0" + base64.b64encode(b"through\n"))
    said = by_channel(stream.all(), text)
    assert said[1] == b"through\n" and b"Success" in said[3], said

    said = b"".join(WebSocket(f"{PODS}/{POD}/log?tailLines=1", "binary.k8s.io").all())
    assert said == b"two\n", said
    said = b"".join(map(base64.b64decode, WebSocket(f"{PODS}/{POD}/log?tailLines=1", "base64.binary.k8s.io").all()))
    assert said == b"two\n", said

    watch = WebSocket(f"{PODS}?watch=1&fieldSelector=metadata.name={POD}", "any.example", bearer=TOKEN)
    event = watch.receive()
    assert event.startswith(b'{"type":"ADDED"') and event.endswith(b"}\n"), event

    stream = WebSocket(f"{PODS}/{POD}/portforward?ports=8080&ports=9", "v4.channel.k8s.io")
    first = by_channel((stream.receive() for _ in range(4)), raw)
    assert first == {0: b"\x90\x1f", 1: b"\x90\x1f", 2: b"\x09\x00", 3: b"\x09\x00"}, first
    stream.send(2, b"\x00GET / HTTP/1.0\r\n\r\n")
    watchdog = threading.Timer(60, os._exit, [1])
    watchdog.start()
    said = by_channel(stream.all(), raw)
    watchdog.cancel()
    assert said[0].startswith(b"HTTP/1.") and b"refused" in said[3], said
    print("all said")


main()
