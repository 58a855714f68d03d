"""The colours in which ground truth and predictions are drawn."""

Colour = tuple[int, int, int]  # RGB, 0..255

TRUTH: Colour = (46, 204, 113)  # green
PREDICTION: Colour = (255, 99, 71)  # red
# Of the classes 1, 2, ... where there are several. Distinct from each other and from the green of the truth with normal
# sight and with each kind of colour blindness; the first two most of all.
CLASSES: tuple[Colour, ...] = (
    (51, 120, 255),  # blue
    (220, 38, 127),  # magenta
    (240, 228, 66),  # yellow
    (204, 121, 167),  # pink
    (230, 159, 0),  # orange
    (0, 114, 178),  # dark blue
)
