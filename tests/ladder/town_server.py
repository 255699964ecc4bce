"""What runs on the hosts of `town.py`: `python town_server.py PLACE ADDRESS TOKEN`, until it is killed."""

from __future__ import annotations

import ssl
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PLACE, ADDRESS, TOKEN = Path(sys.argv[1]), sys.argv[2], sys.argv[3]


class Town(SimpleHTTPRequestHandler):
    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments, directory=str(PLACE / "www"))  # type: ignore[arg-type]

    def do_GET(self) -> None:
        if self.path.startswith("/private"):
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            body = b'{"told": "what only members hear"}\n' if known else b'{"error": "who are you?"}\n'
            self.send_response(200 if known else 401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        else:
            super().do_GET()

    def log_message(self, form: str, *values: object) -> None:
        with (PLACE / "requests.log").open("a") as log:
            log.write(f"{self.headers.get('Host') if hasattr(self, 'headers') else '-'} {form % values}\n")


def main() -> None:
    plain = ThreadingHTTPServer((ADDRESS, 80), Town)
    safe = ThreadingHTTPServer((ADDRESS, 443), Town)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PLACE / "server.pem")
    safe.socket = context.wrap_socket(safe.socket, server_side=True)
    threading.Thread(target=plain.serve_forever, daemon=True).start()
    print("open", flush=True)
    safe.serve_forever()


if __name__ == "__main__":
    main()
