"""What a Space runs: the studio on a CPU, the full model on ZeroGPU. `python demos/space/app.py` opens it here."""

import os

if os.environ.get("SPACES_ZERO_GPU"):
    import spaces  # before torch, which it changes
    from zero import build

    demo = build("wan-1.3b", spaces.GPU(duration=60), device="cuda")
else:
    from shotstream_lite.studio import build

    demo = build("toybox", hosts=[os.environ["SPACE_HOST"]] if "SPACE_HOST" in os.environ else [])

if __name__ == "__main__":
    demo.launch()
