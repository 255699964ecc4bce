"""A small MCP server over standard streams, without any package: it runs in a sandbox that has none."""

import json
import os
import socket
import sys

TOOLS = [{"name": name, "inputSchema": {"type": "object"}} for name in ("where", "forbidden", "asks")]

for line in sys.stdin:
    message = json.loads(line)
    method = message.get("method")
    if "id" not in message:
        continue
    if method == "initialize":
        version = message["params"]["protocolVersion"]
        result = {
            "protocolVersion": version,
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "n", "version": "1"},
        }
    elif method == "tools/list":
        result = {"tools": TOOLS}
    elif method == "tools/call":
        name = message["params"]["name"]
        said = f"{os.environ['GREETING']} from {os.getcwd()} as {os.getuid()} in {socket.gethostname()}"
        text = {"where": said, "asks": "asked"}.get(name, "forbidden ran")
        result = {"content": [{"type": "text", "text": text}]}
    else:
        answer = {"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "no such method"}}
        print(json.dumps(answer), flush=True)
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
