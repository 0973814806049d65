"""What does a stage train on, whatever the shape of its rows was? Each file one kind of row, and all that is peculiar
to it: what it says, how it is read from a row, and the columns of tokens that it becomes.

`Kind` says what the rest of the engine asks of each. A new kind is a file here and, if it is measured in a way of its
own, an entry in `evaluate/measures.py`.
"""

from pipeline.data.shapes.kinds.conversation import Conversation
from pipeline.data.shapes.kinds.kind import Kind
from pipeline.data.shapes.kinds.labeled import Labeled
from pipeline.data.shapes.kinds.preference import Preference
from pipeline.data.shapes.kinds.prompt import Prompt
from pipeline.data.shapes.kinds.text import Text

# The more telling first.
KINDS: dict[str, type[Kind]] = {one.NAME: one for one in (Preference, Labeled, Conversation, Text, Prompt)}
