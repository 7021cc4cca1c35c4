"""Our own files: what is written, how it stays whole, and how it is opened again."""

from cryolike.store.layout import OutputLayout
from cryolike.store.manifest import Manifest, RunHeader, StackRecord
from cryolike.store.reader import ConvertedImage, StackSet, open_stacks
from cryolike.store.writer import RunFolder, StackContent

__all__ = [
    "ConvertedImage",
    "Manifest",
    "OutputLayout",
    "RunFolder",
    "RunHeader",
    "StackContent",
    "StackRecord",
    "StackSet",
    "open_stacks",
]
