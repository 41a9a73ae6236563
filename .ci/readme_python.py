"""Run every Python block of the README, so that what it shows is what happens."""

import re
from pathlib import Path

text = Path("README.md").read_text(encoding="utf-8")
blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
assert blocks, "README.md has no Python block"
for block in blocks:
    print(block)
    exec(compile(block, "README.md", "exec"), {})
