"""What the engine's thread and the previewer's must never do at once; everything else they do side by side.

Both are locks of this process.

Attributes:
    IMPORTING: Held while torch and what stands on it are imported: two threads that enter those circles of imports from
        different sides can each see the other's half-made modules.
    WORKING: Held by the engine while it loads and generates, and by the previewer only while it builds a base of ours:
        building seeds torch's random numbers and sets its default type, which all threads share.
"""

import threading

IMPORTING = threading.Lock()
WORKING = threading.Lock()
