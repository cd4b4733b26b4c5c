"""A server on this machine whose answers a test writes."""

import json
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ScriptedServer:
    """Answers with the next of `answers`, then with `usual`: a status, a
    body, and perhaps how to write it or headers. None breaks the connection.

    Args:
        usual: Takes a request's JSON and returns an answer; for a `GET`, its path.
        path: Of its address.
    """

    def __init__(self, usual, path):
        self.asked = []
        self.headers = {}
        """Of the last request."""
        self.answers = []
        self.usual = usual
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                script.asked.append(question)
                self.reply(question)

            def do_GET(self):
                self.reply(self.path)

            def reply(self, question):
                script.headers = self.headers
                answer = script.answers.pop(0) if script.answers else script.usual
                answer = answer(question) if callable(answer) else answer
                if answer is None:
                    return  # the connection breaks
                status, body, *more = answer
                headers = {"Content-Length": len(body)} | next((each for each in more if isinstance(each, dict)), {})
                write = next(filter(callable, more), lambda handler: handler.wfile.write(body))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, str(value))
                self.end_headers()
                with suppress(ConnectionError):  # the client may have had enough
                    write(self)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}{path}"


@contextmanager
def scripted(usual, path):
    """Yield a `ScriptedServer` that listens."""
    server = ScriptedServer(usual, path)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
        thread.join()
