"""JSON over HTTP: a folder per resource. It reaches a worker only through the queue, and serving only through HTTP."""
