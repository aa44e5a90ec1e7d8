"""Draw the pictures of docs/plots.md with the code that stands there.

    python examples/plots.py

Each block of the page that ends with axes is run, and drawn into the picture that the page shows next.
"""

import re
from pathlib import Path

from PIL import Image

from mlsde import drawing

PAGE = Path(__file__).parent.parent / "docs" / "plots.md"
PICTURES = PAGE.parent
_BLOCK, _PICTURE = r"^```python\n(.*?)^```", r"^!\[[^\]]*\]\(([^)]*)\)"


def main() -> None:
    """Run the page, save its pictures."""
    namespace: dict[str, object] = {}
    for found in re.finditer(f"{_BLOCK}|{_PICTURE}", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL):
        code, picture = found.groups()
        if code is not None:
            exec(compile(code, PAGE.name, "exec"), namespace)
        else:
            file = drawing.save(namespace["ax"].figure, PICTURES / picture, dpi=90)
            Image.open(file).quantize(64).save(file, optimize=True)  # a quarter of the size
            print(file)


if __name__ == "__main__":
    main()
