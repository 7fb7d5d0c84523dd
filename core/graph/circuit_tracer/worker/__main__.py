"""Runs circuit-tracer on behalf of another process, in circuit-tracer's environment; `process.WorkerProcess` starts it.

    stdin:  {"do": "load", "model": ..., ...}      one JSON object per line
    stdout: {"answer": {...}} or {"error": "..."}  one per line read, in the same order

Arrays come and go as safetensors files whose paths are in the messages. The process ends when its stdin does, at once
and whatever it is doing, so that it never outlives its owner. What libraries print goes to stderr.
"""

import json
import os
import queue
import sys
import threading
import traceback
from typing import Any

Message = dict[str, Any]


def main() -> None:
    """Answers until stdin ends."""
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    asked: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(asked,), daemon=True).start()
    from tracer import Tracer

    tracer = Tracer()
    commands = {
        "load": tracer.load,
        "tokenize": tracer.tokenize,
        "attribute": tracer.attribute,
        "prune": tracer.prune,
        "document": tracer.document,
    }
    while True:
        message = asked.get()
        try:
            reply = {"answer": commands[message.pop("do")](**message)}
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def _listen(asked: "queue.SimpleQueue[Message]") -> None:
    for line in sys.stdin:
        asked.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
