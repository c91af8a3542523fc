"""A server that keeps connections open and reads no body. Prints the method and the Host of each request. Usage: unread.py PORT"""
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Unread(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        print(self.command, self.headers["Host"], flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_OPTIONS = do_DELETE = do_POST = do_PUT = do_GET

    def log_message(self, *_):
        pass


ThreadingHTTPServer.request_queue_size = 128
server = ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Unread)
print("listening", flush=True)
server.serve_forever()
