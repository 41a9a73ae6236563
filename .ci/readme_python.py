"""Run every Python block of the README, so that what it shows is what happens."""

import os
import re
import tempfile
from pathlib import Path

text = Path("README.md").read_text(encoding="utf-8")
blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
assert blocks, "README.md has no Python block"
with tempfile.TemporaryDirectory() as folder:
    os.chdir(folder)  # what they write is gone with it
    for block in blocks:
        print(block)
        exec(compile(block, "README.md", "exec"), {})
    os.chdir("/")
