"""A film from a running `shotstream serve`: python demos/serve_client.py http://127.0.0.1:7860 film.mp4 SHOT SHOT"""

import json
import sys

import httpx
from websockets.sync.client import connect


def tell(server: str, film: str, caption: str, *shots: str) -> None:
    """Writes the frames into the film as they come."""
    with httpx.Client(base_url=server, trust_env=False) as web:
        story = web.post("/stories", json={"global_caption": caption}).raise_for_status().json()["story"]
        address = f"ws{server.removeprefix('http')}/stories/{story}/frames?format=mp4"
        with connect(address, proxy=None) as frames, open(film, "wb") as file:
            for shot in shots:
                web.post(f"/stories/{story}/shots", json={"caption": shot}).raise_for_status()
            done = 0
            for message in frames:
                if isinstance(message, bytes):
                    file.write(message)
                    continue
                print(message)
                done += "done" in json.loads(message)
                if done == len(shots):
                    frames.send("that is all")  # the last frame comes, and the end
        web.delete(f"/stories/{story}")


if __name__ == "__main__":
    tell(*sys.argv[1:3], "A red ball and a blue box are friends, by the sea.", *sys.argv[3:])
