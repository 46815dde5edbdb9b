"""Where each good row came from: its number and its file, in twelve bytes."""

from array import array

from ingest.issues import shown


class Places:
    """The places of good rows, counted from 0 in their order."""

    def __init__(self) -> None:
        self._rows = array("Q")
        self._files = array("I")
        self._names: list[str | None] = []

    def add(self, row: int, file: str | None) -> int:
        """Take the next row and return its number."""
        self._rows.append(row)
        if not self._names or self._names[-1] != file:  # files come one after the other
            self._names.append(file)
        self._files.append(len(self._names) - 1)
        return len(self._rows) - 1

    def of(self, number: int) -> tuple[int, str | None]:
        """Return the row and the file of a good row."""
        return self._rows[number], self._names[self._files[number]]

    def shown(self, number: int) -> str:
        """Return the place as it may stand in a message."""
        row, file = self.of(number)
        return f"row {row}" + (f" of {shown(file)}" if file else "")
