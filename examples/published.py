"""The published numbers beside our own: a table, and an error where a printed digit is not met."""

from decimal import Decimal


class Published:
    """Collects `quantity | published | here`; `report` prints the table and raises AssertionError on a miss."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []
        self.missed: list[str] = []
        self.slips: list[str] = []

    def check(self, quantity: str, printed: str, here: float, mark: str = "") -> None:
        """`printed` as in the notes; `here` must round to it, and a tie may round either way."""
        exponent = int(Decimal(printed).as_tuple().exponent)
        shown = f"{here:.7g}" if exponent < -8 else f"{here:.{max(0, 2 - exponent)}f}"
        if not mark and abs(here - float(printed)) > 0.5 * 10.0**exponent * (1 + 1e-6):
            self.missed.append(f"{quantity}: published {printed}, here {here:.10g}")
            shown += "  <- missed"
        self.rows.append((quantity, printed + mark, shown))

    def check_all(self, quantities: list[str], printed: str, here) -> None:
        """Several at once: `printed` is one text with the numbers in it."""
        for quantity, text, value in zip(quantities, printed.split(), here, strict=True):
            self.check(quantity, text, float(value))

    def slip(self, quantity: str, printed: str, correct: str, here: float, why: str) -> None:
        """A printed number that is not right to its last digit: `correct` is what must be met."""
        mark = "*" * (1 + len(self.slips))
        self.check(quantity, printed, here, mark)
        self.slips.append(f"{mark} {why}")
        if abs(here - float(correct)) > 0.5 * 10.0 ** int(Decimal(correct).as_tuple().exponent):
            self.missed.append(f"{quantity}: correct is {correct}, here {here:.10g}")

    def report(self) -> None:
        """Prints the table, then fails if something was missed."""
        header = ("quantity", "published", "here")
        widths = [max(len(row[i]) for row in [header, *self.rows]) for i in range(2)]
        print("\nPublished numbers\n")
        for quantity, printed, here in [header, *self.rows]:
            print(f"{quantity:<{widths[0]}} | {printed:>{widths[1]}} | {here}")
        for slip in self.slips:
            print(slip)
        assert not self.missed, "; ".join(self.missed)
        met = len(self.rows) - len(self.slips)
        print(f"\nPublished numbers met to their printed digits: {met}. Slips of the notes, marked: {len(self.slips)}.")
