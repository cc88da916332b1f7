"""The error of an image that cannot be used; it becomes a row of failures."""


class ImageError(Exception):
    """An image that cannot be used.

    Attributes:
        kind: missing, denied, empty, not_an_image, unsupported, truncated, too_large or unknown_scale.
        message: a sentence for the user.
    """

    def __init__(self, message: str, kind: str = "error") -> None:
        super().__init__(message, kind)
        self.kind = kind
        self.message = message
