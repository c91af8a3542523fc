"""A receiver of events: HTTP on 127.0.0.1:PORT, syslog on the unix socket SOCKET. Each message is a line of JSON in FILE."""

import json
import os
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

port, path, file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
lock = threading.Lock()


def note(kind, head, body):
    with lock, open(file, "a", encoding="utf-8") as out:
        out.write(json.dumps({"kind": kind, "head": head, "body": body}) + "\n")


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", "0"))).decode()
        note(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def syslog():
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind(path)
    while True:
        note("syslog", {}, server.recv(65536).decode())


if os.path.exists(path):
    os.unlink(path)
threading.Thread(target=syslog, daemon=True).start()
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
