"""python -m fake_provider --port 0: prints its address as one line of JSON and serves until it is ended."""
import argparse
import asyncio
import json

from .server import Server


async def main():
    arguments = argparse.ArgumentParser(prog="fake_provider", description=__doc__)
    arguments.add_argument("--port", type=int, default=0)
    port = await (server := Server()).start(arguments.parse_args().port)
    print(json.dumps({"port": port, "url": f"http://127.0.0.1:{port}"}), flush=True)
    await server.listener.serve_forever()


try:
    asyncio.run(main())
except KeyboardInterrupt:
    pass
