"""A small server that is told when a session has finished, and checks that it was Hostler who said so."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

from talk import MODEL, TOOLSET, connect, message, run

client = connect()
heard = threading.Event()


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        event = client.beta.webhooks.unwrap(body, headers=dict(self.headers), key=endpoint["signing_secret"])
        self.send_response(204)
        self.end_headers()
        print(f"{event.data.type} of {event.data.id == session.id and 'our session'}")
        heard.set()

    def log_message(self, format: str, *args: object) -> None:
        pass


receiver = HTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=receiver.serve_forever, daemon=True).start()
endpoint = client.post(
    "/hostler/v1/webhook_endpoints",
    body={"url": f"http://127.0.0.1:{receiver.server_port}/", "enabled_events": ["session.status_idled"]},
    cast_to=object,
)
agent = client.beta.agents.create(name="Quick", model=MODEL, tools=[TOOLSET])
environment = client.beta.environments.create(name="webhook")
session = client.beta.sessions.create(agent=agent.id, environment_id=environment.id)
run(client, session.id, message("Say hello.", "Hello."))
if not heard.wait(30):
    raise SystemExit("nothing was delivered")
receiver.shutdown()
